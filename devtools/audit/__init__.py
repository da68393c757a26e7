"""Looks over the repository for what must not be in it: secrets, unpinned or unknown packages, known weaknesses. Offline."""
