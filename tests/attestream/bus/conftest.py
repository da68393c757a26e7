"""Polling with a deadline, and the server's view of a consumer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from attestream.bus import jetstream
from attestream.bus.connection import Bus

Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Wait until a condition holds; fail after the deadline."""

    async def wait(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def consumer_info(bus: Bus) -> Callable[[str, str], Awaitable[dict[str, Any]]]:
    """What the server knows of a consumer."""

    async def info(stream: str, name: str) -> dict[str, Any]:
        return await jetstream.call(bus, f"CONSUMER.INFO.{stream}.{name}")

    return info
