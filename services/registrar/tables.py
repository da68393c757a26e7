"""The registrar's tables, as its statements use them; ``migrations/`` makes them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, MetaData, String, Table

MIGRATIONS: Final = "services.registrar.migrations"

CLAIMS: Final = ("ek_public", "ek_certificate", "ek_trust", "findings", "ak_public", "ak_name", "transport_key", "ek_digest")
"""Columns that a challenge hands to the identity once it is proven. ``findings`` is MessagePack. ``ek_digest`` tells which
machine it is (:mod:`services.registrar.machines`); it is empty with the keys."""
TEXTS: Final = ("ek_trust", "ek_digest")
"""Those that are no bytes."""

_METADATA: Final = MetaData()


def _claims() -> list[Column[object]]:
    return [Column(name, String if name in TEXTS else LargeBinary, nullable=False) for name in CLAIMS]


identity: Final = Table(
    "registrar_identity",
    _METADATA,
    Column("agent_id", String, primary_key=True),
    # A deleted identity leaves its row with empty keys, so that an enrolment number is never used twice.
    Column("active", Boolean, nullable=False),
    Column("enrolment", Integer, nullable=False),
    *_claims(),
    Column("at", BigInteger, nullable=False),
)

machine: Final = Table(
    "registrar_machine",
    _METADATA,
    # Each that was ever enrolled. Only to be locked: an enrolment that is not committed can be seen by no other.
    Column("ek_digest", String, primary_key=True),
)

challenge: Final = Table(
    "registrar_challenge",
    _METADATA,
    Column("challenge_id", LargeBinary, primary_key=True),
    Column("agent_id", String, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # SHA-256 of the proof that is awaited: neither the secret nor the proof can be read from the database.
    Column("proof_digest", LargeBinary, nullable=False),
    # Public NKey that an identity on the bus is wanted for; empty: none.
    Column("bus_key", String, nullable=False),
    *_claims(),
)

outbox: Final = Table(
    "registrar_outbox",
    _METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("message_id", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

bus_key: Final = Table(
    "registrar_bus_key",
    _METADATA,
    # The keys that agents have identities for. A row outlives every token that was issued to its key.
    Column("bus_key", String, primary_key=True),
    Column("agent_id", String, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

revocation: Final = Table(
    "registrar_bus_revocation",
    _METADATA,
    # The entries of the agents' account that are ours; all times of identities are in Unix seconds.
    Column("bus_key", String, primary_key=True),
    Column("agent_id", String, nullable=False),
    Column("revoked_at", BigInteger, nullable=False),
    # When the last token that it revokes has expired, and the entry with it.
    Column("until", BigInteger, nullable=False),
)

standing: Final = Table(
    "registrar_standing",
    _METADATA,
    Column("agent_id", String, primary_key=True),
    # Of the event in the stream that decided it.
    Column("sequence", BigInteger, nullable=False),
    Column("blocked", Boolean, nullable=False),
    Column("reason", String, nullable=False),
    # Has failed, and nobody has let it in again: one that was deleted afterwards still has.
    Column("failed", Boolean, nullable=False),
)

roster: Final = Table(
    "registrar_roster",
    _METADATA,
    # The newest version that any registrar has seen: one that the bus keeps it from must not vouch for an older one.
    Column("installation", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
)

account: Final = Table(
    "registrar_bus_account",
    _METADATA,
    # One row. The list of revocations has changed since the servers confirmed it, when the two numbers differ.
    Column("id", Integer, primary_key=True),
    Column("changed", BigInteger, nullable=False),
    Column("confirmed", BigInteger, nullable=False),
)
