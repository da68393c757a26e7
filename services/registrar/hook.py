"""Asks the operator's command whether a TPM may enrol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestream.appraisal.text import printable
from attestream.errors import EnrolmentError
from schemas.enrolment import EnrolRequest
from services.registrar.admission import Examined

AT_ONCE: Final = 4
"""Hooks that run at one time in this process; further requests wait."""
_MAX_ERROR_TEXT: Final = 500

_log = logging.getLogger(__name__)


class Hook:
    """A program with arguments; no shell. It gets JSON on its standard input, and the parts in its environment.

    Status 0 accepts. Everything else refuses: another status, a signal, no answer in time, a program that can not be run.
    """

    def __init__(self, command: Sequence[str], *, timeout_s: float) -> None:
        """:param timeout_s: seconds after which it is killed with all that it started."""
        self._command = tuple(command)
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ask(self, request: EnrolRequest, examined: Examined) -> None:
        """Return when the hook accepts the TPM of a request.

        :raises EnrolmentError: when it does not. The reason stays in the registrar's log: it is not for the agent.
        """
        facts = document(request, examined)
        async with self._turns:
            problem = await self._run(msgspec.json.encode(facts), environment(facts))
        if problem:
            _log.warning("the EK hook %s refuses agent %s: %s", self._command[0], request.agent_id, problem)
            raise EnrolmentError("the registrar's hook does not accept this TPM", remedy="See the registrar's log.")

    async def _run(self, given: bytes, variables: dict[str, str]) -> str:
        """Return what went wrong; empty when the hook accepts."""
        # Files in place of pipes: neither a hook that does not read nor one that leaves a child behind can hold us up.
        with tempfile.TemporaryFile() as reading, tempfile.TemporaryFile() as said:
            reading.write(given)
            reading.seek(0)
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=reading,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=said,
                    start_new_session=True,
                    env={**{name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}, **variables},
                )
            except OSError as error:
                return f"it can not be run: {error.strerror}"
            try:
                async with asyncio.timeout(self._timeout_s):
                    status = await process.wait()
            except TimeoutError:
                return f"it took longer than {self._timeout_s:g} s and was killed"
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
            if status == 0:
                return ""
            said.seek(0)
            return f"status {status}: {printable(said.read(_MAX_ERROR_TEXT).strip(), _MAX_ERROR_TEXT)}"


def document(request: EnrolRequest, examined: Examined) -> dict[str, Any]:
    """Return what the hook is told; bytes are in base64."""
    device = examined.device
    return {
        "agent_id": request.agent_id,
        "ek_public": _text(request.ek_public),
        "ek_pem": examined.ek.key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii"),
        "ek_certificates": [_text(certificate) for certificate in request.ek_certificates],
        "ak_public": _text(request.ak_public),
        "trusted": examined.endorsement.trusted,
        "anchor": examined.endorsement.anchor,
        "findings": [msgspec.structs.asdict(one) for one in examined.endorsement.findings()],
        "device_trusted": device is not None and device.trusted,
        "device_anchor": device.anchor if device else "",
        "device_subject": device.subject if device else "",
        "device_findings": [msgspec.structs.asdict(one) for one in device.findings()] if device else [],
    }


def environment(facts: dict[str, Any]) -> dict[str, str]:
    """Return the variables of the hook's environment that are made of ``facts``."""
    certificates = facts["ek_certificates"]
    return {
        "ATTESTREAM_AGENT_ID": facts["agent_id"],
        "ATTESTREAM_EK": facts["ek_pem"],
        "ATTESTREAM_EK_PUBLIC": facts["ek_public"],
        "ATTESTREAM_EK_CERTIFICATE": certificates[0] if certificates else "",
        "ATTESTREAM_EK_TRUSTED": "1" if facts["trusted"] else "0",
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
