"""The Debian packages that the machine is made of, fetched once and kept as one archive."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from devtools.vm.command import run

RELEASE: Final = "bookworm"
"""Debian release of the machine. Its Python must be the one that the environment's compiled packages are for."""

PYTHON: Final = (3, 11)

PACKAGES: Final = (
    "busybox-static",
    "grub-efi-amd64-signed",
    "libtss2-fapi1",
    "libtss2-rc0",
    "libtss2-tcti-device0",
    "linux-image-cloud-amd64",
    "python3.11",
    "shim-signed",
)
"""What is asked for; what they depend on comes with them."""

_FETCH_S: Final = 900.0
_UNPACK_S: Final = 120.0


def fetch(cache: Path) -> Path:
    """Return the archive of the unpacked packages; fetch it when ``cache`` does not have it. Takes half a minute then.

    No package is configured: the machine has an init of its own, and that needs none of Debian's services.

    :raises ConfigError: when mmdebstrap is not installed or can not fetch.
    """
    key = hashlib.sha256("\n".join((RELEASE, *PACKAGES)).encode()).hexdigest()[:12]
    archive = cache / f"packages-{key}.tar"
    if not archive.exists():
        unfinished = archive.with_suffix(".part.tar")
        options = ["--variant=extract", f"--include={','.join(PACKAGES)}", "--dpkgopt=path-exclude=/usr/share/doc/*"]
        run(["mmdebstrap", *options, RELEASE, unfinished], timeout_s=_FETCH_S)
        unfinished.replace(archive)
    return archive


def unpack(archive: Path, directory: Path, *, only: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> None:
    """Unpack ``archive`` into ``directory``: all of it or what the patterns ``only`` match, but nothing ``without`` matches.

    :raises ConfigError: when it can not be read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    wanted = ["--wildcards", *(f"--exclude={pattern}" for pattern in without), *only]
    run(["tar", "-C", directory, "-xf", archive, "--no-same-owner", *wanted], timeout_s=_UNPACK_S)
