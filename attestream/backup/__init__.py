"""Backups of a cluster: its streams with their sequences and consumers, its databases, and its keys under a passphrase.

A backup is a directory that only its owner may enter. ``manifest.json`` is written last and tells the length and SHA-256
of every other file, so that an interrupted or altered backup is never restored.
"""
