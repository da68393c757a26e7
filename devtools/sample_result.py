"""A result of attestation as a verifier publishes it, for tests of those who read results."""

from __future__ import annotations

from typing import Any

import msgspec

from attestream.clock import unix_ms
from schemas.events import Result, Standing


def sample_result(
    agent_id: str = "a", standing: Standing = Standing.TRUSTED, *, number: int = 1, life_ms: int = 60_000, **other: Any
) -> Result:
    """Return a result of now that lives for ``life_ms``; ``number`` is that of its challenge and of its event."""
    now = unix_ms()
    made = Result(
        agent_id=agent_id,
        standing=standing,
        at=now,
        expires_at=now + life_ms,
        seq=number,
        event_number=number,
        enrolment=1,
        policy="p@1",
        worker="w",
        fence=5,
    )
    return msgspec.structs.replace(made, **other)
