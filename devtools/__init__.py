"""Development tools: software and emulated TPMs, an IMA emulator, the demonstration. Not needed in production."""
