"""Failing transitions on a real bus, and a webhook receiver that can be taken down, slowed and broken."""

import asyncio
import json
import time

import pytest
from aiohttp import web

from attestream.bus import stored
from attestream.embedded.ports import free_port
from attestream.signing import Signer, TrustedKeys
from schemas import subjects, topology
from schemas.base import decode
from schemas.events import Event, EventKind, Finding, Revocation, Signed, Standing


class Receiver:
    """A web server on a fixed port that keeps what it is sent."""

    def __init__(self, tls=None) -> None:
        self.port = free_port()
        self.scheme = "https" if tls else "http"
        self.documents: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.location = ""
        self.delay_s = 0.0
        self.calls = 0
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [document["id"] for document in self.documents]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        self.calls += 1
        document = json.loads(await request.text())
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.status == 200:
            self.documents.append(document)
            self.headers.append(dict(request.headers))
        headers = {"Location": self.location} if self.location else {}
        return web.Response(status=self.status, text="x" * 100_000, headers=headers)


@pytest.fixture
async def make_receiver():
    """Makes webhook receivers; the caller starts them."""
    made: list[Receiver] = []

    def make(tls=None) -> Receiver:
        made.append(Receiver(tls))
        return made[-1]

    yield make
    for one in made:
        await one.stop()


@pytest.fixture
async def receiver(make_receiver):
    receiver = make_receiver()
    await receiver.start()
    return receiver


@pytest.fixture
def signer(tmp_path):
    return Signer.generate(tmp_path / "revocation.pem")


@pytest.fixture
def fail(bus):
    """Puts a failing transition on the record, as a verifier does, and returns its id."""

    async def publish(agent_id: str, *, number: int = 1, findings: list[Finding] | None = None) -> str:
        event = Event(
            id=f"{agent_id}:{number}",
            kind=EventKind.FAILED,
            agent_id=agent_id,
            at=1_800_000_000_000 + number,
            event_number=number,
            enrolment=2,
            standing=Standing.FAILED,
            before=Standing.TRUSTED,
            policy="base@3",
            findings=findings if findings is not None else [finding("/usr/bin/evil")],
        )
        await bus.publish_durable(subjects.event(event.kind, agent_id), event, message_id=event.id)
        return event.id

    return publish


def finding(culprit: str) -> Finding:
    return Finding(
        code="runtime.unknown-file",
        layer="runtime",
        severity="failure",
        culprit=culprit,
        message="not in the policy",
        remedy="add it",
    )


@pytest.fixture
def revocations(bus, signer):
    """Reads every revocation on the record, its signature verified, in order."""
    keys = TrustedKeys.from_pems([signer.public_pem])

    async def read() -> list[Revocation]:
        request = {"seq": 1, "batch": 1000, "next_by_subj": subjects.REVOCATIONS}
        batch = await stored.get_batch(bus, topology.REVOCATIONS.name, request)
        return [keys.open(decode(message.data, Signed), Revocation) for message in batch.messages]

    return read


@pytest.fixture
def eventually():
    """Polls until a condition holds, and returns its value."""

    async def poll(condition, deadline_s=60.0):
        end = time.monotonic() + deadline_s
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value or time.monotonic() > end:
                assert value, "it did not come to pass in time"
                return value
            await asyncio.sleep(0.01)

    return poll
