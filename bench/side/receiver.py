"""Webhook receivers that can be taken down and brought back: they note when the first word about each agent comes."""

from __future__ import annotations

import json
import ssl
import time
from typing import Any

from aiohttp import web


class Receiver:
    """Listens on ``port``. A document about an agent has its id, at the top or in the text ``msg``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.arrived: dict[str, int] = {}
        """Agent -> when the first came (ns of the monotonic clock)."""
        self._runner: web.AppRunner | None = None

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        """Begin to listen, with TLS if there is a ``context``."""
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True, backlog=256)
        await site.start()

    async def stop(self) -> None:
        """Stop listening: connections are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def about(self, agents: list[str]) -> list[str]:
        """Return those of ``agents`` of which there was word."""
        return [agent for agent in agents if agent in self.arrived]

    async def _take(self, request: web.Request) -> web.Response:
        document: dict[str, Any] = json.loads(await request.text())
        if "msg" in document:
            document = json.loads(document["msg"])
        self.arrived.setdefault(document["agent_id"], time.monotonic_ns())
        return web.Response()
