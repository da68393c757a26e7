"""Makes evidence: a quote, the PCR values that it signs, and logs that fit it; and cuts it for the bus."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from attestream.errors import MalformedError, RefusedError, TpmError
from attestream.tpm.algorithms import hash_named
from attestream.tpm.quote import pcr_digest
from attestream.tpm.structures import parse_quote, parse_signature
from schemas.attestation import MAX_PARTS, PART_BYTES, Challenge, Evidence, EvidencePart, ImaDelta, qualifying_data
from services.agent.agreement import Agreement
from services.agent.ima_log import ImaLog
from services.agent.tpm_pcrs import Banks

_log = logging.getLogger(__name__)

ATTEMPTS: Final = 6
"""How often quote and log are read until they agree."""

QUOTE_ATTEMPTS: Final = 20
"""How often the TPM is asked for a quote and for the values until nothing was measured in between."""

MAX_BANKS: Final = 8
MAX_PCR: Final = 23
MAX_NONCE: Final = 64

_PAUSE_S: Final = 0.005
_MAX_BOOT_LOG: Final = 4 << 20
# The last part of either log may be a short one.
_MAX_LOGS: Final = (MAX_PARTS - 1) * PART_BYTES


class Attester(msgspec.Struct, frozen=True):
    """Who gives evidence."""

    agent_id: str
    enrolment: int
    transport_key: bytes
    """SHA-256 of the transport key."""


class Tpm(Protocol):
    """What evidence needs of a TPM; :class:`services.agent.tpm_device.TpmDevice` says more."""

    def quote(self, qualifying: bytes, banks: Banks) -> tuple[bytes, bytes]:
        """Return TPMS_ATTEST and TPMT_SIGNATURE of a quote over ``banks``."""

    def read_pcrs(self, banks: Banks) -> dict[str, dict[int, bytes]]:
        """Return the values of ``banks``, without what the TPM does not have."""


class EvidenceMaker:
    """Answers challenges. Blocks while it does: run it in a thread, one challenge at a time.

    :param ima: the IMA log; ``None`` on a machine without one.
    :param boot_log: the UEFI event log; ``None`` on a machine without one.
    :param pause: sleeps for seconds between two attempts.
    """

    def __init__(
        self,
        attester: Attester,
        tpm: Tpm,
        *,
        ima: ImaLog | None = None,
        boot_log: Path | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._attester = attester
        self._tpm = tpm
        self._ima = ima
        self._agreement = Agreement(ima) if ima is not None else None
        self._boot_log = boot_log
        self._pause = pause

    def make(self, challenge: Challenge) -> Evidence:
        """Return evidence for ``challenge``: bare when the quote's PCR digest is the known one, with all claims otherwise.

        When quote and log do not agree after :data:`ATTEMPTS`, the last of them are returned: the agent does not judge
        itself. Values that are not the quoted ones are never returned: they would say that something is wrong where a
        machine is only busy.

        :raises TpmError: when the TPM can not quote, or its PCRs change faster than they can be read.
        :raises MalformedError: when what it returns is no quote.
        """
        boot_log = self._read_boot_log() if challenge.boot_log else b""
        for attempt in range(1, ATTEMPTS + 1):
            bare, values = self._quote_and_values(challenge)
            if values is None:
                return bare
            ima, replayed = self._read_ima(challenge.ima_from, values, _MAX_LOGS - len(boot_log))
            if replayed:
                break
            if attempt < ATTEMPTS:
                self._pause(_PAUSE_S * attempt)
        else:
            _log.warning("the quoted PCRs and the IMA log of %s do not agree; sending them as they are", challenge.agent_id)
        return msgspec.structs.replace(bare, pcr_values=values, ima=ima, boot_log=boot_log)

    def _quote_and_values(self, challenge: Challenge) -> tuple[Evidence, dict[str, dict[int, bytes]] | None]:
        """Return a quote and the values that it signs; none when their digest is the known one."""
        for _ in range(QUOTE_ATTEMPTS):
            bare = self._quote(challenge)
            quote = parse_quote(bare.quote)
            if challenge.known_digest and hmac.compare_digest(quote.pcr_digest, challenge.known_digest):
                return bare, None
            values = self._tpm.read_pcrs({bank: list(pcrs) for bank, pcrs in quote.selection})
            if pcr_digest(parse_signature(bare.signature).hash, quote.selection, values) == quote.pcr_digest:
                return bare, values
        raise TpmError(f"the PCRs have changed between quote and reading {QUOTE_ATTEMPTS} times in a row")

    def _quote(self, challenge: Challenge) -> Evidence:
        attester = self._attester
        qualifying = qualifying_data(challenge.nonce, attester.agent_id, attester.transport_key)
        quote, signature = self._tpm.quote(qualifying, challenge.banks)
        return Evidence(
            agent_id=attester.agent_id,
            enrolment=attester.enrolment,
            nonce=challenge.nonce,
            seq=challenge.seq,
            issued_at=challenge.issued_at,
            quote=quote,
            signature=signature,
            transport_key=attester.transport_key,
        )

    def _read_ima(self, wanted: int | None, values: dict[str, dict[int, bytes]], limit: int) -> tuple[ImaDelta | None, bool]:
        """Return the entries from ``wanted`` on, and whether they agree with the quoted values."""
        if wanted is None or self._ima is None or self._agreement is None:
            return None, True
        try:
            part, agree = self._agreement.read(wanted, values, limit)
        except OSError as error:
            _log.error("the IMA log %s can not be read: %s", self._ima.path, error.strerror)
            return None, True
        delta = ImaDelta(ima_first=part.first, count=part.count, data=part.data, ascii=self._ima.ascii_form, more=part.cut)
        return delta, agree

    def _read_boot_log(self) -> bytes:
        if self._boot_log is None:
            return b""
        try:
            with self._boot_log.open("rb") as file:
                data = file.read(_MAX_BOOT_LOG + 1)
        except OSError as error:
            _log.error("the boot log %s can not be read: %s", self._boot_log, error.strerror)
            return b""
        if len(data) > _MAX_BOOT_LOG:
            _log.error("the boot log %s has more than %d bytes; it is left out", self._boot_log, _MAX_BOOT_LOG)
            return b""
        return data


def check(challenge: Challenge, agent_id: str) -> None:
    """Check that ``challenge`` is for this agent and within bounds.

    :raises RefusedError: when it is for another agent.
    :raises MalformedError: when its nonce or its selection of PCRs is out of bounds.
    :raises UnsupportedError: when it names a bank that no TPM has.
    """
    if challenge.agent_id != agent_id:
        raise RefusedError(f"the challenge is for {challenge.agent_id[:80]!r}")
    if not 0 < len(challenge.nonce) <= MAX_NONCE:
        raise MalformedError(f"the nonce has {len(challenge.nonce)} bytes; 1 to {MAX_NONCE} are allowed")
    if challenge.ima_from is not None and challenge.ima_from < 0:
        raise MalformedError("the IMA log is asked for from before its beginning")
    _check_banks(challenge.banks)


def _check_banks(banks: Banks) -> None:
    if not 0 < len(banks) <= MAX_BANKS:
        raise MalformedError(f"{len(banks)} PCR banks are selected; 1 to {MAX_BANKS} are allowed")
    for bank, indexes in banks.items():
        hash_named(bank)
        if not indexes or list(indexes) != sorted(set(indexes)) or indexes[0] < 0 or indexes[-1] > MAX_PCR:
            raise MalformedError(f"the PCRs of bank {bank} are not an ascending list of indexes from 0 to {MAX_PCR}")


def is_bare(evidence: Evidence) -> bool:
    """Whether ``evidence`` answers the challenge directly; anything else goes over the stream."""
    return not evidence.pcr_values and evidence.ima is None and not evidence.boot_log


def cut(evidence: Evidence) -> list[Evidence | EvidencePart]:
    """Return ``evidence`` as messages that fit the bus: itself, or without its logs and then the logs in parts."""
    ima = evidence.ima.data if evidence.ima is not None else b""
    if len(ima) + len(evidence.boot_log) <= PART_BYTES:
        return [evidence]
    chunks = [
        (boot, data[start : start + PART_BYTES])
        for boot, data in ((False, ima), (True, evidence.boot_log))
        for start in range(0, len(data), PART_BYTES)
    ]
    head = msgspec.structs.replace(
        evidence,
        ima=msgspec.structs.replace(evidence.ima, data=b"") if evidence.ima is not None else None,
        boot_log=b"",
        parts=len(chunks),
    )
    parts = [
        EvidencePart(agent_id=evidence.agent_id, seq=evidence.seq, index=index, boot=boot, data=data)
        for index, (boot, data) in enumerate(chunks)
    ]
    return [head, *parts]
