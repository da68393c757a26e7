"""An agent without a machine: a software TPM, an IMA log in memory, and the answers that the real agent would give.

The fleet simulator runs thousands of them in one process; tests use one to be honest or to lie.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any, Final

from attestream.tpm.algorithms import hash_named
from attestream.tpm.structures import parse_quote
from attestream.uefi.kinds import NO_ACTION
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import BANKS
from devtools import ima_log
from devtools.soft_tpm import SoftTpm
from schemas.attestation import Challenge, Evidence, ImaDelta, qualifying_data
from schemas.base import decode
from schemas.enrolment import EnrolChallenge, EnrolRequest, transcript

_IMA_PCR: Final = 10


class SoftAgent:
    """An attester with the id ``agent_id``.

    :param enrolment: number of the enrolment that its evidence names.
    :param transport_key: X25519 public key, 32 bytes; random by default.
    :param boot_log: what it sends when a challenge wants the UEFI event log.
    """

    def __init__(
        self,
        agent_id: str,
        tpm: SoftTpm,
        *,
        enrolment: int = 1,
        transport_key: bytes = b"",
        boot_log: bytes = b"",
    ) -> None:
        self.agent_id = agent_id
        self.tpm = tpm
        self.enrolment = enrolment
        self.transport_key = transport_key or secrets.token_bytes(32)
        self.boot_log = boot_log
        self.log: list[ima_log.Record] = []
        self.at_once = 0
        """Log entries that it sends at most in one evidence, as an agent does whose log is very long; 0: all."""
        self._transport_digest = hashlib.sha256(self.transport_key).digest()

    def run(self, path: str, digest: bytes, **options: Any) -> None:
        """Append the IMA record of a file that was run and extend PCR 10 in all banks.

        ``options`` are those of :func:`devtools.ima_log.record`.
        """
        self.measure(ima_log.record(path, digest, **options))

    def violate(self, path: str) -> None:
        """Append a violation and extend PCR 10 in all banks."""
        self.measure(ima_log.violation(path))

    def measure(self, record: ima_log.Record) -> None:
        """Append ``record`` and extend its PCR in all banks."""
        self.tpm.extend(record.pcr, {bank: ima_log.extend_value(record, bank) for bank in self.tpm.banks})
        self.log.append(record)

    def boot_aggregate(self, bank: str = "sha256") -> None:
        """Append the kernel's first record: the digest of PCRs 0 to 9 (``ima_crypto.c``, ``ima_calc_boot_aggregate``)."""
        values = b"".join(self.tpm.pcr(bank, pcr) for pcr in range(10))
        self.run("boot_aggregate", hash_named(bank).digest(values), hash_name=bank)

    def boot(self, log: bytes) -> None:
        """Extend the PCRs as the firmware and boot loaders did that wrote ``log``, and send it when it is asked for."""
        for event in parse_log(log).events:
            if event.kind != NO_ACTION:
                values = {BANKS[algorithm]: value for algorithm, value in event.digests}
                self.tpm.extend(event.pcr, {bank: value for bank, value in values.items() if bank in self.tpm.banks})
        self.boot_log = log

    def reboot(self) -> None:
        """Reset the TPM and start an empty log."""
        self.tpm.reboot()
        self.log.clear()

    def answer(self, challenge: Challenge) -> Evidence:
        """Return the evidence for ``challenge``, bare when the PCRs have the digest that the verifier knows.

        :raises TpmError: when a PCR does not exist.
        """
        qualifying = qualifying_data(challenge.nonce, self.agent_id, self._transport_digest)
        attest, signature = self.tpm.quote(qualifying, challenge.banks)
        quote = parse_quote(attest)
        bare = bool(challenge.known_digest) and quote.pcr_digest == challenge.known_digest
        values: dict[str, dict[int, bytes]] = {}
        if not bare:
            values = {bank: {pcr: self.tpm.pcr(bank, pcr) for pcr in pcrs} for bank, pcrs in quote.selection if pcrs}
        return Evidence(
            agent_id=self.agent_id,
            enrolment=self.enrolment,
            nonce=challenge.nonce,
            seq=challenge.seq,
            issued_at=challenge.issued_at,
            quote=attest,
            signature=signature,
            transport_key=self._transport_digest,
            pcr_values=values,
            ima=None if bare or challenge.ima_from is None else self._delta(challenge.ima_from),
            boot_log=self.boot_log if challenge.boot_log and not bare else b"",
        )

    def _delta(self, wanted: int) -> ImaDelta:
        first = wanted if 0 <= wanted <= len(self.log) else 0
        records = self.log[first:][: self.at_once or None]
        data = b"".join(record.binary for record in records)
        more = first + len(records) < len(self.log)
        return ImaDelta(ima_first=first, count=len(records), data=data, more=more)

    def is_news(self, evidence: Evidence) -> bool:
        """Tell whether ``evidence`` belongs on the EVIDENCE stream; otherwise it is the bare reply to its challenge."""
        return bool(evidence.pcr_values or evidence.ima or evidence.boot_log)

    def enrol_request(self, nonce: bytes = b"", *, ek_certificates: Sequence[bytes] = (), bus_key: str = "") -> EnrolRequest:
        """Return the request for an enrolment challenge; ``nonce`` is random by default."""
        return EnrolRequest(
            agent_id=self.agent_id,
            ek_public=self.tpm.ek_public,
            ek_certificates=list(ek_certificates),
            ak_public=self.tpm.ak_public,
            transport_key=self.transport_key,
            nonce=nonce or secrets.token_bytes(32),
            bus_key=bus_key,
        )

    def proof(self, request: bytes, challenge: bytes) -> bytes:
        """Return the enrolment proof over the encoded request and the encoded challenge.

        :raises SignatureError: when the challenge was made for another TPM.
        :raises SchemaError: when ``challenge`` is no :class:`EnrolChallenge`.
        """
        opened = decode(challenge, EnrolChallenge)
        secret = self.tpm.activate(opened.credential, opened.secret)
        return hmac.digest(secret, transcript(request, challenge), "sha256")
