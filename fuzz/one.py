"""One target in a process of its own, forked from one that has loaded everything: loading takes longer than a short run."""

from __future__ import annotations

import os
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import atheris

from fuzz import limits
from fuzz.target import Target

MAX_INPUT: Final = 65_536


def start(target: Target, seconds: int, corpus: Path) -> BaseProcess:
    """Return the process that fuzzes ``target``; its exit code is 0 when nothing was breached.

    What it says goes to the file :func:`said` names. Its inputs are kept in the directory of its name in ``corpus``.
    """
    process = get_context("fork").Process(target=_fuzz, args=(target, seconds, corpus), name=target.name)
    process.start()
    return process


def said(name: str, corpus: Path) -> Path:
    """Return the file with the output of the target called ``name``."""
    return corpus / f"{name}.log"


def _fuzz(target: Target, seconds: int, corpus: Path) -> None:
    """Measure the memory of every input that was worth keeping, then run until the time is over or a limit is breached."""
    inputs = corpus / target.name
    inputs.mkdir(parents=True, exist_ok=True)
    with said(target.name, corpus).open("wb", buffering=0) as output:
        sys.stdout.flush()
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    for number, seed in enumerate(target.seeds()):
        (inputs / f"seed-{number}").write_bytes(seed)
    for kept in sorted(inputs.iterdir()):
        limits.check_memory(target, kept.read_bytes())
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup(
        ["fuzz", *options, f"-artifact_prefix={corpus}/{target.name}-", str(inputs)], lambda data: limits.check(target, data)
    )
    atheris.Fuzz()
