"""What a worker needed for a moment it does not keep for good."""

import asyncio
import os
from pathlib import Path

from bench.machine import unique_bytes
from devtools.pool import eventually
from services.verifier.memory import give_back_now_and_then

LOGS = 20_000
BYTES = 2_000


async def test_memory_of_logs_that_have_been_read_is_given_back() -> None:
    assert Path("/proc/self/smaps_rollup").exists()
    logs = [os.urandom(BYTES) for _ in range(LOGS)]
    last = logs[-1]
    full = unique_bytes(os.getpid())
    # The newest block keeps the C library from making its heap smaller by itself.
    logs.clear()
    giving = asyncio.create_task(give_back_now_and_then(0.01))
    await eventually(lambda: full - unique_bytes(os.getpid()) > LOGS * BYTES // 2)
    giving.cancel()
    assert len(last) == BYTES
