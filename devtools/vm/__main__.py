"""Proves on an emulated Linux machine that the whole chain works: ``python -m devtools.vm``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Final

from devtools.demo.narration import Narrator
from devtools.demo.play import StepFailedError
from devtools.vm.play import play
from devtools.vm.root_disk import PROJECT
from devtools.vm.stage import Stage

CACHE: Final = PROJECT / "build" / "vm"
DEADLINE_S: Final = 180.0
WHOLE_S: Final = 1800.0


def main() -> int:
    """Run the proof; return 0 when every step was observed, else 1, or 128 and the signal that ended it."""
    options = _arguments().parse_args()
    narrator = Narrator()
    began = time.monotonic()
    directory = CACHE / "run"
    # Of the last run; that of this one stays, with all logs.
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    try:
        received = asyncio.run(_until_signalled(directory, narrator, options))
    except StepFailedError as error:
        narrator.failure(f"{error}. The logs are in {directory / 'logs'}")
        return 1
    if received:
        narrator.failure(f"Stopped by {signal.Signals(received).name}; everything that was started has ended.")
        return 128 + received
    narrator.remark(f"Every process that was started has ended. {time.monotonic() - began:.0f} s in all; logs: {directory}")
    return 0


async def _until_signalled(directory: Path, narrator: Narrator, options: argparse.Namespace) -> int:
    """Play until the end or until a signal comes, and clean up. Return the signal, or 0."""
    stage = Stage(directory, os.environ, accelerator=options.accelerator)
    logging.basicConfig(filename=stage.logs / "vm.log", level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    playing = asyncio.create_task(play(stage, narrator, cache=CACHE, deadline_s=options.deadline, vectors=options.vectors))
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        playing.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        await asyncio.wait_for(playing, WHOLE_S)
    except asyncio.CancelledError:
        if not received:
            raise
    except TimeoutError as error:
        raise StepFailedError(f"The proof did not end within {WHOLE_S:g} s") from error
    finally:
        stage.close()
    return received[0] if received else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m devtools.vm", description="Attest an emulated machine with UEFI, Secure Boot, IMA and a TPM."
    )
    parser.add_argument(
        "--deadline", type=float, default=DEADLINE_S, metavar="SECONDS", help="of each observation (default: %(default)g)"
    )
    parser.add_argument(
        "--accelerator", choices=("tcg", "kvm"), default="tcg", help="of QEMU: emulate (default), or use the processor's"
    )
    parser.add_argument("--vectors", type=Path, metavar="DIR", help="write the evidence of the first boot there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
