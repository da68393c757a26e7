"""What the incumbent's verifier uses of its agent API (2.x) in pull mode: HTTP/1.1 over TLS, a port for each agent."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from bench.side.attester import Attester

VERSIONS: Final = {"supported_version": "2.5", "supported_versions": ["2.1", "2.2", "2.3", "2.4", "2.5"]}

Asked = Callable[[Attester], None]


def server_context(pair: Path, verifier_ca: Path) -> ssl.SSLContext:
    """Return the TLS side of an agent: ``pair`` has its key and certificate, clients need one of ``verifier_ca``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    context.load_verify_locations(verifier_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve(agent: Attester, port: int, context: ssl.SSLContext, asked: Asked) -> None:
    """Answer for ``agent`` from now on; ``asked`` is called before each quote."""
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: _Connection(agent, asked), "127.0.0.1", port, ssl=context, backlog=64)


class _Connection(asyncio.Protocol):
    def __init__(self, agent: Attester, asked: Asked) -> None:
        self._agent = agent
        self._asked = asked
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        if not end or len(body) < length:
            return
        self._received = body[length:]
        results = self._results(lines[0].split(" ")[1])
        answer = json.dumps({"code": 200, "status": "Success", "results": results}).encode()
        close = headers.get("connection", "").lower() == "close"
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n%s"
            % (len(answer), b"close" if close else b"keep-alive", answer)
        )
        if close:
            self._transport.close()

    def _results(self, target: str) -> dict[str, Any]:
        url = urlsplit(target)
        if url.path.endswith("/version"):
            return dict(VERSIONS)
        if not url.path.endswith("/quotes/integrity"):
            return {}
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self._asked(self._agent)
        first = int(query["ima_ml_entry"]) if "ima_ml_entry" in query else None
        results = self._agent.incumbent_quote(query["nonce"], int(query.get("mask", "0"), 0), first)
        if query.get("partial", "0") != "0":
            del results["pubkey"]
        return results
