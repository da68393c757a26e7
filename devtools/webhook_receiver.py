"""A webhook receiver on a fixed port that can be taken down, made to fail, and brought back."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from attestream.embedded.ports import free_port


class WebhookReceiver:
    """Keeps the documents that it has accepted, in the order in which they came."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.status = 200
        self.attempts = 0
        """Requests so far, also those that were not accepted."""
        self._port = free_port()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it is to be posted to."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def ids(self) -> list[str]:
        """The revocations' ids, each where it was accepted first."""
        return list(dict.fromkeys(document["id"] for document in self.documents))

    async def start(self) -> None:
        """Begin to listen."""
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()

    async def stop(self) -> None:
        """Stop listening: connections are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        self.attempts += 1
        document = json.loads(await request.text())
        if self.status == 200:
            self.documents.append(document)
        return web.Response(status=self.status)
