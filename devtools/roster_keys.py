"""An installation's keys for tests: a root, one signer for each name, and the roster that names them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from attestream.bus.connection import Bus
from attestream.bus.trust import Trust
from attestream.clock import unix_ms
from attestream.signing import Signer, TrustedKeys
from attestream.trust import publication
from attestream.trust import roster as rosters
from attestream.trust.roots import vouch
from schemas import subjects, topology
from schemas.base import encode
from schemas.roles import Role

HOLDERS: Final = {
    "registrar": Role.REGISTRAR,
    "verifier": Role.VERIFIER,
    "notifier": Role.NOTIFIER,
    "alice": Role.ADMIN,
    "olga": Role.OPERATOR,
    "paul": Role.POLICY_AUTHOR,
    "otto": Role.OBSERVER,
}
"""Name -> role of those that every roster here has."""


class RosterKeys:
    """Keys and roster in ``directory``."""

    def __init__(self, directory: Path, installation: str = "test", holders: Mapping[str, Role] = HOLDERS) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.root = Signer.generate(directory / "root-private.pem")
        self.root_file = directory / "root.pem"
        self.root_file.write_text(self.root.public_pem)
        self.signers = {name: Signer.generate(directory / f"{name}.pem") for name in holders}
        entries = [rosters.entry(self.signers[name].public_pem, role, name) for name, role in holders.items()]
        self.roster = rosters.initial(installation, entries, unix_ms())

    @property
    def signed(self) -> bytes:
        """The roster as it is stored."""
        return encode(rosters.sign(self.roster, self.root))

    async def publish(self, bus: Bus, *, vouched_by: str = "", at: int = 0) -> None:
        """Put the roster on the bus, as whoever has the right to. A holder who is named says that it was the newest ``at`` a
        time (Unix ms)."""
        key, data = topology.KEY_ROSTER, self.signed
        subject = f"$KV.{topology.CLUSTER.name}.{key}"
        headers = {}
        if vouched_by:
            headers[subjects.HEADER_SIGNATURE] = publication.sign(self.signers[vouched_by], subject, data, at)
        await bus.publish_durable(subject, data, message_id=secrets.token_hex(8), headers=headers)

    def trust(
        self, name: str = "", roster_file: Path | None = None, clock: Callable[[], int] = unix_ms, max_age_ms: int = 0
    ) -> Trust:
        """Return the trust of the holder ``name``, or of somebody who only reads; it signs with the times of ``clock``."""
        roots = TrustedKeys.from_pems([self.root.public_pem])
        signer = self.signers[name] if name else None
        return Trust(roots, signer, roster_file=roster_file, max_age_ms=max_age_ms, clock=clock)

    def add(self, name: str, role: Role) -> Signer:
        """Add a holder and return the key."""
        self.signers[name] = Signer.generate(self.directory / f"{name}-{len(self.signers)}.pem")
        self.roster = rosters.add_key(self.roster, rosters.entry(self.signers[name].public_pem, role, name), unix_ms())
        return self.signers[name]

    def rotate(self, name: str, overlap_ms: int = 60_000) -> Signer:
        """Give ``name`` a new key beside the old one, and return it."""
        new = Signer.generate(self.directory / f"{name}-{len(self.roster.keys)}.pem")
        old = self.signers[name]
        self.roster = rosters.rotate(self.roster, old.key_id, new.public_pem, unix_ms(), overlap_ms=overlap_ms)
        self.signers[name] = new
        return new

    def revoke(self, name: str) -> None:
        """Revoke the key of ``name`` from now on."""
        self.roster = rosters.revoke_key(self.roster, self.signers[name].key_id, unix_ms())

    def succeed_root(self, *, until: int = 0) -> Signer:
        """Give the root key's place to another, for which it vouches in the roster ``until`` then, and return it."""
        new = Signer.generate(self.directory / f"root-{self.roster.version}.pem")
        now = unix_ms()
        voucher = vouch(self.root, new.public_pem, self.roster.installation, now=now, until=until)
        self.roster, self.root = rosters.succeed(self.roster, voucher, now), new
        return new
