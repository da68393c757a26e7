"""Who said it: the roster of keys, and signatures that travel with messages. Pure: no bus, no clock, no files."""
