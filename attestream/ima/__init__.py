"""The kernel's IMA measurement log: entries, templates, replay against PCR 10. Pure: bytes in, values out."""
