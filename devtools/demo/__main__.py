"""Plays the demonstration: ``python -m devtools.demo``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from devtools.demo.narration import Narrator
from devtools.demo.play import StepFailedError, play
from devtools.demo.stage import Stage

KNOWN: Final = "/usr/bin/rsync"
INTRUDER: Final = "/usr/local/bin/implant"
DEADLINE_S: Final = 20.0

_NEXT: Final = """\
What next:
  .venv/bin/attestream up --data-dir DIR              the same services, for real use
  .venv/bin/attestream --help                         all that operators can do
  .venv/bin/attestream demo --keep                    again, keeping keys and logs
  .venv/bin/attestream demo --intruder {known:<14} again, and nothing is wrong: exit 1"""


def main() -> int:
    """Play the demonstration; return 0 when every step was observed, else 1, or 128 and the signal that ended it."""
    options = _arguments().parse_args()
    narrator = Narrator()
    directory = Path(tempfile.mkdtemp(prefix="attestream-demo-"))
    keep = True
    try:
        status, keep = _play(directory, narrator, options)
    finally:
        # An unforeseen error leaves the directory where it is: somebody will want the logs.
        if not keep:
            shutil.rmtree(directory)
    return status


def _play(directory: Path, narrator: Narrator, options: argparse.Namespace) -> tuple[int, bool]:
    """Return the exit code, and whether the directory is to be kept."""
    logs = directory / "logs"
    try:
        received = asyncio.run(_until_signalled(directory, narrator, options))
    except StepFailedError as error:
        narrator.failure(f"{error}. The logs are in {logs}")
        return 1, True
    if received:
        narrator.failure(f"Stopped by {signal.Signals(received).name}; everything that was started has ended.")
        return 128 + received, options.keep
    narrator.remark("Every process that was started has ended." + (f" Kept: {directory}" if options.keep else ""))
    narrator.remark("\n" + _NEXT.format(known=KNOWN))
    return 0, options.keep


async def _until_signalled(directory: Path, narrator: Narrator, options: argparse.Namespace) -> int:
    """Play until the end or until a signal comes, and clean up. Return the signal, or 0."""
    stage = Stage(directory, os.environ)
    logging.basicConfig(filename=stage.logs / "demo.log", level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    playing = asyncio.create_task(play(stage, narrator, intruder=options.intruder, known=KNOWN, deadline_s=options.deadline))
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        playing.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await playing
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        # What works in a thread finds its TPM still there, and does not start one after all have been stopped.
        await asyncio.get_running_loop().shutdown_default_executor()
        stage.close()
    return received[0] if received else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attestream demo", description="Watch a machine being enrolled, attested, tampered with and revoked."
    )
    parser.add_argument("--keep", action="store_true", help="keep the directory with keys, policy, databases and logs")
    parser.add_argument(
        "--intruder", default=INTRUDER, metavar="PATH", help="program that is run in step 5 (default: %(default)s)"
    )
    parser.add_argument(
        "--deadline",
        type=float,
        default=DEADLINE_S,
        metavar="SECONDS",
        help="how long each observation may take (default: %(default)g)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
