"""A machine that both verifiers attest: one software TPM, one IMA log, and the evidence in both forms."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Any, Final

from attestream.interop.pcr_blob import build_pcr_blob
from bench.samples import BINDING_PCR, content_digest, path_of
from devtools import ima_log
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm

BANK: Final = "sha256"
FIRMWARE_PCR: Final = 0
FIRST_ENTRIES: Final = 1_000
"""Entries that the log of a booted machine has."""
IMAGE_FILES: Final = 9_000
"""Files that machines run; every policy that has paths has them."""
INTRUDER: Final = "/opt/intruder"
_FIRMWARE: Final = content_digest("firmware")
_KEYS: Final = 4
"""RSA keys take long to make: attesters share a few; neither verifier gains by that."""

TRANSPORT_KEY: Final = "-----BEGIN PUBLIC KEY-----\nno key, only bound\n-----END PUBLIC KEY-----\n"
"""What the incumbent's agent binds into PCR 16."""


def agent_name(number: int) -> str:
    """Return the id of agent ``number``: a UUID, as the incumbent wants it."""
    return f"{number:08x}-0000-4000-8000-0000000000aa"


def firmware_value() -> bytes:
    """Return what PCR 0 of a healthy machine has."""
    return hashlib.sha256(bytes(32) + _FIRMWARE).digest()


class Image:
    """What all machines run."""

    def __init__(self) -> None:
        self.boot = ima_log.record("boot_aggregate", content_digest("boot_aggregate"))
        self.files = [ima_log.record(path_of(number), content_digest(path_of(number))) for number in range(IMAGE_FILES)]


class Attester(SoftAgent):
    """Machine ``number``, booted. ``files``: whether it has an IMA log."""

    def __init__(self, number: int, ak: str, keys: KeyPool, image: Image | None) -> None:
        tpm = SoftTpm(ek="p256", ak=ak, ak_policy=secrets.token_bytes(32), banks=(BANK,), keys=keys)
        super().__init__(agent_name(number), tpm)
        self._image = image
        tpm.extend(FIRMWARE_PCR, {BANK: _FIRMWARE})
        tpm.extend(BINDING_PCR, {BANK: hashlib.sha256(TRANSPORT_KEY.encode()).digest()})
        if image is not None:
            self.measure(image.boot)
            self.run_programs(FIRST_ENTRIES - 1)

    def run_programs(self, count: int) -> None:
        """Run ``count`` programs of the image that it has not run yet."""
        if self._image is not None:
            first = len(self.log) - 1
            for number in range(first, first + count):
                self.measure(self._image.files[number % IMAGE_FILES])

    def misbehave(self) -> None:
        """Do what the policy forbids: run a program that it does not know, or without a log have other firmware."""
        if self._image is None:
            self.tpm.extend(FIRMWARE_PCR, {BANK: content_digest("implant")})
        else:
            self.run(INTRUDER, secrets.token_bytes(32))

    def incumbent_quote(self, nonce: str, mask: int, first: int | None) -> dict[str, Any]:
        """Return the results of the incumbent's request for a quote over the PCRs of ``mask``, with the log from entry
        ``first``."""
        pcrs = tuple(pcr for pcr in range(24) if mask & 1 << pcr or pcr == BINDING_PCR)
        attest, signature = self.tpm.quote(nonce.encode(), {BANK: pcrs})
        values = {BANK: {pcr: self.tpm.pcr(BANK, pcr) for pcr in pcrs}}
        blob = build_pcr_blob(((BANK, pcrs),), values)
        found: dict[str, Any] = {
            "quote": "r" + ":".join(base64.b64encode(part).decode() for part in (attest, signature, blob)),
            "hash_alg": BANK,
            "enc_alg": "rsa",
            "sign_alg": "rsassa",
            "pubkey": TRANSPORT_KEY,
            "boottime": 1_700_000_000,
        }
        if first is not None and self.log:
            first = first if first <= len(self.log) else 0
            found["ima_measurement_list"] = "".join(f"{record.ascii}\n" for record in self.log[first:])
            found["ima_measurement_list_entry"] = first
        return found


def make_attesters(count: int, ak: str, *, files: bool) -> list[Attester]:
    """Return ``count`` booted machines."""
    keys = KeyPool(_KEYS, own=("ek",))
    image = Image() if files else None
    return [Attester(number, ak, keys, image) for number in range(count)]
