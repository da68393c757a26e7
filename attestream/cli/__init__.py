"""The command ``attestream``."""
