"""Runs the programs that build the machine, each within a time limit and with its words in the error when it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attestream.errors import ConfigError

_SBIN = "/usr/sbin:/sbin"
_LAST_WORDS = 2000


def found(program: str) -> str:
    """Return the path of ``program``, also where only root has it on the path.

    :raises ConfigError: when it is not installed.
    """
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if path is None:
        raise ConfigError(f"{program} is not installed", remedy="Run `scripts/install --vm`.")
    return path


def run(argv: Sequence[str | Path], *, timeout_s: float, cwd: Path | None = None, given: bytes = b"") -> None:
    """Run a program, with ``given`` on its standard input.

    :raises ConfigError: when it is not installed, fails, or takes longer than ``timeout_s``.
    """
    program, *arguments = map(str, argv)
    environment = {**os.environ, "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"}
    try:
        done = subprocess.run(
            [found(program), *arguments],
            input=given,
            capture_output=True,
            cwd=cwd,
            env=environment,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"{program} did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        words = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-_LAST_WORDS:]
        raise ConfigError(f"{program} failed with status {done.returncode}: {words}")
