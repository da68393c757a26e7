"""Certificates of endorsement and device identity keys: parsing, paths to a trust store, judgement. Pure: no I/O."""
