"""Where the bus is, and how a client behaves towards it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from attestream.bus.encryption import Encryption
from attestream.bus.identity import Source


class BusSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bus is, who asks, and how patient its clients are. Times are in seconds."""

    urls: list[str] = msgspec.field(default_factory=lambda: ["nats://127.0.0.1:4222"])
    """Servers of one cluster: nats, tls, ws or wss."""
    name: str = ""
    """Shown in the server's list of connections."""
    connect_timeout_s: float = 5.0
    patient: bool = True
    """Whether the first connection is tried for as long as that; else each server is tried once."""
    reconnect_spread_s: float = 1.0
    """Width of the random delay before an attempt to come back; a large fleet's agents want a minute."""
    ping_interval_s: float = 10.0
    """A server that leaves two pings unanswered is left."""
    gather_s: float = 0.004
    """How long a busy connection lets messages gather before it reads again: each read wakes the process."""
    pending_bytes: int = 8 << 20
    """What may wait for the server while the connection is down."""
    credentials: Path | None = None
    """File with the credentials; read anew at each attempt to connect."""
    identity: Source | None = None
    """Gives the credentials at each attempt to connect, instead of a file."""
    encryption: Encryption = Encryption()
