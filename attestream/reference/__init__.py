"""Making, signing, comparing and checking of reference values (RFC 9334): what the machines of a fleet may show.

The readers take bytes and open files, not paths: only :mod:`~attestream.reference.tree` and
:mod:`~attestream.reference.repositories` look at a file system. Archives and package metadata come from others: every
reader is bounded, and none writes what it reads to a disk.
"""
