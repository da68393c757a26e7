"""Packages on a disk: single ones, directories of them, and local copies of repositories.

Where a repository has an index, only what it lists is taken, and each package must be what the index says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final

from attestream.errors import AttestreamError, MalformedError, TooLargeError, UnsupportedError
from attestream.reference import deb, repodata, rpm
from attestream.reference.collected import Collected, HashedFile
from attestream.reference.compression import inflated, kind_of
from attestream.reference.tree import Progress, unseen

MAX_PACKAGES: Final = 1_000_000
_INDEXES: Final = ("Packages", "Packages.gz", "Packages.xz", "Packages.bz2")
_WEAK_LIST: Final = ".md5sums"
_DIGESTS: Final = {"sha256": "sha256", "sha384": "sha384", "sha512": "sha512"}

Read = Callable[[BinaryIO], Iterator[HashedFile]]


def add_debs(
    place: Path,
    into: Collected,
    *,
    algorithm: str = "sha256",
    merged_usr: bool = False,
    progress: Progress = lambda *_: None,
) -> int:
    """Add the files of a Debian package, of all packages in a directory, or of a local repository with ``Packages``.

    :returns: the number of packages.
    :raises AttestreamError: naming the package that can not be read, is not what the index says, or has only weak digests.
    """
    if place.name.endswith(_WEAK_LIST):
        raise UnsupportedError(
            f"{place.name} has only MD5 digests, which tell no files apart", remedy="Give the package or the file system."
        )

    def read(source: BinaryIO) -> Iterator[HashedFile]:
        return deb.hash_deb(source, algorithm, merged_usr=merged_usr)

    packages = _listed_debs(place) if place.is_dir() else {place: ("", "")}
    return _add(packages or dict.fromkeys(_found(place, ".deb"), ("", "")), read, into, progress)


def add_rpms(place: Path, into: Collected, *, merged_usr: bool = False, progress: Progress = unseen) -> int:
    """Add the files of an RPM package, of all packages in a directory, or of a local repository with ``repodata``.

    :returns: the number of packages.
    :raises AttestreamError: naming the package that can not be read, is not the one that is listed, or has weak digests.
    """

    def read(source: BinaryIO) -> Iterator[HashedFile]:
        return rpm.read_rpm(source, merged_usr=merged_usr)

    packages = _listed_rpms(place) if place.is_dir() else {place: ("", "")}
    return _add(packages or dict.fromkeys(_found(place, ".rpm"), ("", "")), read, into, progress)


def _add(packages: dict[Path, tuple[str, str]], read: Read, into: Collected, progress: Progress) -> int:
    for done, (path, (algorithm, digest)) in enumerate(sorted(packages.items()), 1):
        try:
            with path.open("rb") as source:
                if digest:
                    _check(source, algorithm, digest)
                into.add_all(read(source))
        except OSError as error:
            raise MalformedError(f"{path.name}: can not be read: {error.strerror or error}") from error
        except AttestreamError as error:
            error.message = f"{path.name}: {error.message}"
            raise
        progress(done, len(packages))
    return len(packages)


def _check(source: BufferedReader, algorithm: str, digest: str) -> None:
    if algorithm not in _DIGESTS:
        raise UnsupportedError(f"the repository knows it only by a weak digest ({algorithm[:16]})")
    if hashlib.file_digest(source, _DIGESTS[algorithm]).hexdigest() != digest:
        raise MalformedError("the package is not the one that the repository lists: its digest differs")
    source.seek(0)


def _found(place: Path, suffix: str) -> list[Path]:
    found = []
    for path in place.rglob(f"*{suffix}"):
        if path.is_file() and not path.is_symlink():
            found.append(path)
            if len(found) > MAX_PACKAGES:
                raise TooLargeError(f"there are more than {MAX_PACKAGES} packages")
    if not found:
        raise MalformedError(f"{place} has no packages", remedy=f"Give a directory with *{suffix} files.")
    return found


def _listed_debs(root: Path) -> dict[Path, tuple[str, str]]:
    listed: dict[Path, tuple[str, str]] = {}
    seen: set[Path] = set()
    for name in _INDEXES:
        for index in root.rglob(name):
            if index.parent in seen:
                continue
            seen.add(index.parent)
            with index.open("rb") as source:
                stream = inflated(source, kind_of(source.peek(6)[:6]), deb.MAX_INDEX_BYTES)
                packages = deb.read_packages_index(stream)
            listed.update({_under(root, file): ("sha256", digest) for file, digest in packages.items()})
    return listed


def _listed_rpms(root: Path) -> dict[Path, tuple[str, str]]:
    listing = root / "repodata" / "repomd.xml"
    if not listing.is_file():
        return {}
    with listing.open("rb") as source:
        place, algorithm, digest = repodata.read_repomd(source)
    primary = _under(root, place)
    with primary.open("rb") as source:
        _check(source, algorithm, digest)
        stream = inflated(source, kind_of(source.peek(6)[:6]), repodata.MAX_BYTES)
        packages = repodata.read_primary(stream)
    return {_under(root, file): checksum for file, checksum in packages.items()}


def _under(root: Path, name: str) -> Path:
    """Return the file ``name`` of a repository, which must lie in it."""
    path = root / name
    if not name or name.startswith("/") or not path.resolve().is_relative_to(root.resolve()):
        raise MalformedError(f"the repository lists {name[:100]!r}, which is not in it")
    return path
