"""Hashes the files of a directory tree."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final

from attestream.errors import MalformedError, TooLargeError
from attestream.reference.collected import MAX_VALUES, Collected, hasher
from attestream.reference.paths import logged_path

VIRTUAL: Final = ("/dev", "/proc", "/run", "/sys")
"""What is left out of every tree: no files of a disk are there."""

_BATCH: Final = 4096
Progress = Callable[[int, int], None]
"""Called with the number of files or packages that are done, and of all."""


def unseen(done: int, total: int) -> None:
    """Show no progress."""


def hash_tree(
    root: Path,
    *,
    algorithm: str = "sha256",
    skip: Iterable[str] = (),
    workers: int = 0,
    mounted_at: str = "/",
    progress: Progress = unseen,
) -> Collected:
    """Return the digests of the regular files under ``root``. Links are not followed, and their names are not taken.

    :param skip: directories and files to leave out, as paths from ``root``, besides :data:`VIRTUAL`.
    :param mounted_at: where ``root`` is on the machines that the policy is for.
    :param workers: threads; 0 for one per processor.
    :raises TooLargeError: when there are too many files.
    :raises MalformedError: when ``root`` is not a directory.
    """
    if not root.is_dir():
        raise MalformedError(f"{root} is not a directory")
    name = hasher(algorithm)
    skipped = {"/" + path.strip("/") for path in (*VIRTUAL, *skip)}
    made = Collected()
    base = os.fsencode(root)
    files = sorted(_files(base, skipped, made))

    def digest(path: bytes) -> str | OSError:
        try:
            return _digest(os.path.join(base, path), name)  # noqa: PTH118  # names need not be text
        except OSError as error:
            return error

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        done = 0
        rest = iter(files)
        while batch := list(islice(rest, _BATCH)):
            for path, result in zip(batch, pool.map(digest, batch), strict=True):
                done += 1
                if isinstance(result, OSError):
                    made.remark(f"{_text(path)} can not be read: {result.strerror}")
                elif result:
                    made.add(logged_path(f"{mounted_at}/{_text(path)}"), f"{algorithm}:{result}")
                progress(done, len(files))
    return made


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _files(base: bytes, skipped: set[str], made: Collected) -> Iterator[bytes]:
    """Yield the regular files under ``base``, from there."""
    count = 0
    waiting = [b""]
    while waiting:
        directory = waiting.pop()
        try:
            entries = list(os.scandir(os.path.join(base, directory)))  # noqa: PTH118  # as above
        except OSError as error:
            made.remark(f"{_text(directory) or '/'} can not be read: {error.strerror}")
            continue
        for entry in entries:
            path = directory + b"/" + entry.name if directory else entry.name
            if f"/{_text(path)}" in skipped:
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_file(follow_symlinks=False):
                count += 1
                if count > MAX_VALUES:
                    raise TooLargeError(f"there are more than {MAX_VALUES} files")
                yield path


def _digest(path: bytes, name: str) -> str:
    """Return the digest of a file in hex; empty when it is no regular file any more."""
    # Neither a link nor a pipe that was put there in the meantime may be opened.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
