"""Looks over the repository for what must not be in it. Offline.

Secrets, unpinned or unknown packages, data of unknown origin or licence, known weaknesses.
"""
