"""The incumbent in an environment of its own, made on demand: it is measured beside the core in the same run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

VERSION: Final = "7.14.3"
HOME: Final = Path("build/incumbent")
TIMEOUT_S: Final = 600
_NEEDS: Final = (
    # Its wheel names no dependencies.
    "cryptography",
    "tornado",
    "sqlalchemy",
    "alembic",
    "requests",
    "pyyaml",
    "jsonschema",
    "lark",
    "packaging",
    "psutil",
    "pyasn1",
    "pyasn1-modules",
    "typing-extensions",
    "jinja2",
)
_LIBRARY: Final = "libefivar1"
"""Debian package of a C library that its reader of boot logs loads; unpacked, not installed."""


class UnavailableError(Exception):
    """The incumbent can not be measured here; the message says why."""


def run_driver(python: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Run a driver with the interpreter ``python`` and return what its last line says.

    :raises UnavailableError: when it fails; the message has the end of what it said.
    """
    try:
        done = subprocess.run(
            [python, "-m", *arguments],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{arguments[0]} took longer than {TIMEOUT_S} s") from error
    if done.returncode:
        raise UnavailableError(f"{arguments[0]} ended with {done.returncode}: {done.stderr[-400:].strip()}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


class Incumbent:
    """An installed incumbent.

    :raises UnavailableError: when it can not be installed.
    """

    def __init__(self, home: Path = HOME) -> None:
        self.home = home.absolute()
        self._python = home / "bin" / "python"
        self._libraries = home / "libraries"
        stamp = home / f".installed-{VERSION}"
        if not stamp.exists():
            _run([sys.executable, "-m", "venv", "--clear", str(home)])
            _run([str(self._python), "-m", "pip", "install", "-q", f"keylime=={VERSION}", *_NEEDS])
            stamp.touch()

    def run(self, *arguments: str) -> dict[str, float]:
        """Run its driver with ``arguments`` and return the figures.

        :raises UnavailableError: when that fails.
        """
        paths = [str(path.parent) for path in self._libraries.rglob("libefivar.so.1")]
        environment = {"LD_LIBRARY_PATH": os.pathsep.join([*paths, os.environ.get("LD_LIBRARY_PATH", "")])}
        return run_driver(str(self._python), ["bench.incumbent_driver", *arguments], environment)

    def provide_boot_library(self) -> None:
        """Fetch the C library that reading boot logs needs.

        :raises UnavailableError: when there is no ``apt-get``, no package, or no ``tpm2_eventlog`` on this machine.
        """
        if shutil.which("tpm2_eventlog") is None:
            raise UnavailableError("there is no tpm2_eventlog (Debian package tpm2-tools)")
        if any(self._libraries.rglob("libefivar.so.1")):
            return
        self._libraries.mkdir(exist_ok=True)
        _run(["apt-get", "download", "-q", _LIBRARY], self._libraries)
        for package in self._libraries.glob(f"{_LIBRARY}_*.deb"):
            _run(["dpkg-deb", "-x", package.name, "."], self._libraries)


def _run(arguments: Sequence[str], directory: Path | None = None) -> None:
    try:
        done = subprocess.run(arguments, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{arguments[0]} could not be run: {error}") from error
    if done.returncode:
        raise UnavailableError(f"{' '.join(arguments[:4])} failed: {done.stderr[-400:].strip()}")
