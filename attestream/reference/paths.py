"""Paths as the kernel logs them."""

from __future__ import annotations

from typing import Final

from attestream.errors import MalformedError, TooLargeError
from attestream.ima.templates import MAX_PATH_BYTES

MERGED: Final = ("/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/", "/libo32/")
"""Directories that are links into ``/usr`` on a system with merged ``/usr``."""

MAX_NAMES: Final = 128 << 20
"""Bytes that the names of one archive may take, with what is kept of each file."""
_PER_NAME: Final = 256
"""Bytes for a digest, and for the tables that name and digest stand in."""


class NameSpace:
    """Counts what the names of an archive take: of compressed ones, few bytes can make many."""

    def __init__(self) -> None:
        self._left = MAX_NAMES

    def take(self, name: str) -> None:
        """Count ``name``.

        :raises TooLargeError: when there is no room for it.
        """
        self._left -= len(name) + _PER_NAME
        if self._left < 0:
            raise TooLargeError(f"the names of its files take more than {MAX_NAMES} bytes")


def logged_path(name: str, *, merged_usr: bool = False) -> str:
    """Return the path under which the kernel logs the member ``name`` of an archive or package, a path from the root.

    The log has underscores for spaces (Linux ``ima_template_lib.c``), and resolved links.

    :param merged_usr: whether ``/bin``, ``/lib`` and so on are links into ``/usr``.
    :raises MalformedError: when the name is empty, too long, or leads out of the archive.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\x00" in name:
        raise MalformedError(f"{name[:100]!r} is not the name of a file in an archive")
    path = "/" + "/".join(parts).replace(" ", "_")
    if merged_usr and path.startswith(MERGED):
        path = "/usr" + path
    if len(path.encode("utf-8", "surrogateescape")) > MAX_PATH_BYTES:
        raise MalformedError(f"{name[:100]!r}... is longer than a path can be")
    return path
