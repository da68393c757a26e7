"""Hands a revocation to the command that the operator has configured."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from schemas.events import Revocation

_log = logging.getLogger(__name__)

TIMEOUT_S: Final = 30.0
_MAX_ERROR_TEXT: Final = 500


def document(revocation: Revocation) -> dict[str, Any]:
    """Return ``revocation`` under the names of its fields, as the hook reads it."""
    fields = msgspec.structs.asdict(revocation)
    fields["findings"] = [msgspec.structs.asdict(finding) for finding in revocation.findings]
    return fields


async def run_hook(command: Sequence[str], revocation: Revocation, *, timeout_s: float = TIMEOUT_S) -> bool:
    """Run ``command`` (program and arguments, no shell) with the revocation as JSON on its standard input.

    A command that takes longer than ``timeout_s`` seconds is killed with all that it started. Return whether it ended well;
    what went wrong is logged.
    """
    # Files in place of pipes: neither a hook that does not read nor one that leaves a child behind can hold us up. They are
    # in memory: a revocation must be acted on with a full disk too.
    with os.fdopen(os.memfd_create("given"), "w+b") as given, os.fdopen(os.memfd_create("said"), "w+b") as said:
        given.write(msgspec.json.encode(document(revocation)))
        given.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=given, stdout=asyncio.subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        except OSError as error:
            _log.error("the revocation hook %s can not be run: %s", command[0], error.strerror)
            return False
        try:
            async with asyncio.timeout(timeout_s):
                status = await process.wait()
        except TimeoutError:
            _log.error("the revocation hook %s took longer than %g s and was killed", command[0], timeout_s)
            return False
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if status != 0:
            said.seek(0)
            text = said.read(_MAX_ERROR_TEXT).decode("utf-8", "replace").strip()
            _log.error("the revocation hook %s ended with status %d: %s", command[0], status, text)
        return status == 0
