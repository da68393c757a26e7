"""A real Linux machine, emulated by QEMU: UEFI firmware with Secure Boot, shim, GRUB, Debian's kernel with IMA, and a TPM.

The agent that runs in it is the real one; what it sends is what the firmware, the boot loaders and the kernel have measured.
"""
