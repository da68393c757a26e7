"""Those who must hear of every failure: a webhook receiver, a subscription of the SDK, and the hook of a real agent."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attestream.client import Client
from attestream.errors import AttestreamError
from devtools.site import Site
from devtools.swtpm import Swtpm, missing_tools
from devtools.webhook_receiver import WebhookReceiver
from schemas.roles import Role

WITNESS: Final = "witness"
_HOOK: Final = ["/bin/sh", "-c", '{ cat; echo; } >>"$0"']
_AGAIN_S: Final = 0.5


class Subscribers:
    """Count how often each heard of which revocation, by its id."""

    def __init__(self, site: Site, client: Client, directory: Path, tell: Callable[[str], None]) -> None:
        self.receiver = WebhookReceiver()
        self.rejected: list[str] = []
        """What the SDK did not believe."""
        self._site = site
        self._client = client
        self._directory = directory
        self._tell = tell
        self._heard: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._tpm: Swtpm | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to listen; before the first failure."""
        await self.receiver.start()
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._follow_events())]
        missing = missing_tools()
        if missing:
            self._tell(f"no agent hook is watched: {', '.join(missing)} is not installed")
            return
        (self._directory / "tpm").mkdir()
        self._tpm = await asyncio.to_thread(Swtpm.launch, self._directory / "tpm")
        await self._site.service(
            "agent",
            WITNESS,
            id=WITNESS,
            tcti=self._tpm.tcti,
            data_dir=str(self._directory / "agent"),
            ek="p256",
            ak="p256",
            ima_log="",
            boot_log="",
            enrolment_credentials=str(self._site.place.credentials(Role.ENROLMENT)),
            revocation_keys=[str(self._site.place.trusted_keys / "revocation.pem")],
            revocation_hook=[*_HOOK, str(self._directory / "heard")],
        )

    async def stop(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.receiver.stop()
        if self._tpm is not None:
            self._tpm.stop()

    @property
    def events(self) -> Counter[str]:
        """How often the SDK has delivered which event."""
        return self._events

    def heard(self) -> dict[str, Counter[str]]:
        """Return by subscriber how often it was told of which revocation."""
        found = {
            "webhook": Counter(document["id"] for document in self.receiver.documents),
            "sdk": self._heard,
        }
        if self._tpm is not None:
            path = self._directory / "heard"
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            found["hook"] = Counter(json.loads(line)["id"] for line in lines if line)
        return found

    async def _follow(self) -> None:
        while True:
            try:
                async for item in self._client.revocations(
                    durable="chaos", on_rejected=lambda rejected: self.rejected.append(rejected.error.message)
                ):
                    self._heard[item.revocation.id] += 1
                    await item.ack()
            except AttestreamError as error:
                self._tell(f"the subscription begins again: {error.message}")
            await asyncio.sleep(_AGAIN_S)

    async def _follow_events(self) -> None:
        while True:
            try:
                async for item in self._client.events(
                    from_start=True, on_rejected=lambda rejected: self.rejected.append(rejected.error.message)
                ):
                    self._events[item.event.id] += 1
            except AttestreamError as error:
                self._tell(f"the subscription to events begins again: {error.message}")
            await asyncio.sleep(_AGAIN_S)
