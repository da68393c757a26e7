"""One simulated machine: a software TPM, an IMA log, perhaps a UEFI event log, and what must follow from what it did."""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from typing import Any, Final, Literal

import msgspec

from attestream.credentials.nkey import Kind, NKey
from devtools import ima_log
from devtools.boot_log import BootLog
from devtools.pool import digest_of
from devtools.sample_boot import sample_boot
from devtools.soft_agent import SoftAgent
from devtools.soft_tpm import KeyPool, SoftTpm
from schemas.attestation import Challenge, Evidence
from schemas.events import Standing

SHARED_KEYS: Final = 4
"""RSA keys take 50 ms each to make: machines share a few, under attestation keys of different names."""

PLAIN: Final = "image"
"""Policy of machines without a UEFI event log."""
MEASURED: Final = "image-uefi"
"""Policy of the others."""

Malice = Literal["", "forge", "replay"]


class Image:
    """The programs that machines run: version 1, and those that later versions add."""

    def __init__(self, files: int) -> None:
        self.files = files
        self.version = 1
        """The newest."""
        self._records: dict[str, ima_log.Record] = {}
        self._paths: dict[int, list[str]] = {}

    def paths(self, version: int) -> list[str]:
        """Return the paths of a version; each has a tenth more than the one before."""
        if version not in self._paths:
            self._paths[version] = [path for number in range(1, version + 1) for path in self.added(number)]
        return self._paths[version]

    def added(self, version: int) -> list[str]:
        """Return the paths that a version has added."""
        count = self.files if version == 1 else max(1, self.files // 10)
        return [f"/usr/lib/image-{version}/{number // 100:03d}/program-{number:05d}" for number in range(count)]

    def record(self, path: str) -> ima_log.Record:
        """Return the IMA record of an honest program."""
        if path not in self._records:
            self._records[path] = ima_log.record(path, digest_of(path))
        return self._records[path]


class Owed(msgspec.Struct):
    """What the record must say of a machine at the end, no more and no less."""

    failures: list[str] = []
    """Culprit of each failing transition, in order; empty text: whatever is to blame."""
    readmissions: int = 0
    standing: tuple[Standing, ...] = (Standing.TRUSTED,)
    """What it may be."""
    may_be_missed: bool = False
    """Whether it may have been unreachable or lapsed in between."""
    may_be_refused: bool = False
    """Whether evidence of it may have been thrown away."""


class Machine(SoftAgent):
    """A machine that knows what it did."""

    def __init__(self, agent_id: str, *, ak: str, image: Image, keys: KeyPool, boot_log: bool, rng: random.Random) -> None:
        tpm = SoftTpm(ek="p256", ak=ak, banks=("sha256",), keys=keys, ak_policy=secrets.token_bytes(32))
        super().__init__(agent_id, tpm)
        self.bus_key = NKey.generate(Kind.USER)
        self.owed = Owed()
        self.version = 1
        """Of the image that it has and of the policy that it is attested by."""
        self.has_boot_log = boot_log
        self.silent_until = 0.0
        """Seconds of the monotonic clock; infinity: for good."""
        self.delay_s = 0.0
        self.loss = 0.0
        self.malice: Malice = ""
        self.boots = 0
        self.noticed = 0
        """Entries of the log that the verifier was told of."""
        self._image = image
        self._rng = rng
        self._first: Evidence | None = None

    @property
    def policy(self) -> str:
        """Name of its policy."""
        return MEASURED if self.has_boot_log else PLAIN

    @property
    def healthy(self) -> bool:
        """Whether the verifier must trust it as things are."""
        return self.owed.standing == (Standing.TRUSTED,)

    @property
    def silent(self) -> bool:
        """Whether it does not answer now."""
        return time.monotonic() < self.silent_until or (self.loss > 0 and self._rng.random() < self.loss)

    def power_on(self, programs: int) -> None:
        """Boot: firmware, kernel, and the first programs of the image."""
        self.boots += 1
        if self.has_boot_log:
            self.boot(bytes(sample_boot(BootLog(("sha256",)))))
        self.boot_aggregate()
        for path in self._image.paths(self.version)[:programs]:
            self.measure(self._image.record(path))

    def restart(self, programs: int) -> None:
        """Reboot into a clean state: whatever was wrong with it is gone."""
        self.reboot()
        self.malice = ""
        self.noticed = 0
        self.power_on(programs)

    def work(self, count: int) -> None:
        """Run programs of the image."""
        paths = self._image.paths(self.version)
        for _ in range(count):
            self.measure(self._image.record(paths[self._rng.randrange(len(paths))]))

    def intrude(self) -> None:
        """Run a program that no policy knows. Of a machine that has failed already nothing more is said."""
        path = f"/opt/intruder-{self._rng.randrange(10**9)}"
        self.run(path, secrets.token_bytes(32))
        self.fails(path)

    def hide(self) -> None:
        """Run an unknown program and take its line out of the log: the quote gives it away."""
        self.run("/opt/rootkit", secrets.token_bytes(32))
        self.log.pop()
        self.measure(self._image.record(self._image.paths(1)[0]))
        self.fails("")

    def fails(self, culprit: str) -> None:
        """Note that it has done what ends trust."""
        if self.healthy:
            self.owed.failures.append(culprit)
            self.owed.standing = (Standing.FAILED,)

    def answer(self, challenge: Challenge) -> Evidence:
        """Return what it answers, which need not be honest."""
        evidence = super().answer(challenge)
        if self.malice == "forge":
            forged = bytearray(evidence.signature)
            forged[-1] ^= 1
            return msgspec.structs.replace(evidence, signature=bytes(forged))
        if self.malice == "replay":
            self._first = self._first or evidence
            return self._first
        return evidence


def policies(image: Image) -> dict[str, dict[str, Any]]:
    """Return the policy documents of the image's newest version by name: for machines with a UEFI event log and without."""
    digests = {path: [f"sha256:{digest_of(path).hex()}"] for path in image.paths(image.version)}
    # What the kernel measures first on a machine whose firmware measures nothing.
    unmeasured = {"boot_aggregate": [f"sha256:{hashlib.sha256(bytes(10 * 32)).hexdigest()}"]}
    document: dict[str, Any] = {"format": "attestream-policy/1", "bank": "sha256"}
    return {
        PLAIN: document | {"runtime": {"digests": digests | unmeasured}},
        MEASURED: document | {"runtime": {"digests": digests}, "boot": {"policy": "accept-all", "pcrs": list(range(10))}},
    }
