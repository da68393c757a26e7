"""What running servers have: the accounts, changed as the bus's own account, and the roster, as the provisioner."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors

from attestream.bus import keyvalue
from attestream.bus.connection import Bus, connect
from attestream.bus.encryption import Encryption
from attestream.bus.settings import BusSettings
from attestream.errors import BusError, FencedError, SupersededError
from attestream.installation.files import PUBLIC, read_secret, replace
from attestream.installation.places import Installation
from attestream.installation.roster import believed_roster, load_roster
from schemas import topology
from schemas.base import encode
from schemas.roles import Role

_PATIENCE_S: Final = 5.0
_SERVERS_S: Final = 1.0
_ATTEMPTS: Final = 3


_ROSTER: Final = (topology.CLUSTER.name, topology.KEY_ROSTER)


class _Data(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Error(msgspec.Struct):
    code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    data: _Data | None = None
    error: _Error | None = None


class Live:
    """The servers, asked through one of them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def account(self, public: str) -> str:
        """Return the token of an account as the servers have it now.

        :raises BusError: they do not answer.
        """
        answer = await self._ask(f"$SYS.REQ.ACCOUNT.{public}.CLAIMS.LOOKUP", b"")
        return answer.decode("ascii", "replace").strip()

    async def update(self, token: str) -> None:
        """Give all servers a newer token of an account.

        :raises BusError: they refuse it, or do not answer.
        """
        answer = await self._ask("$SYS.REQ.CLAIMS.UPDATE", token.encode())
        try:
            result = msgspec.json.decode(answer, type=_Answer)
        except ValueError as error:
            raise BusError(f"the bus gave an answer about an account that can not be read: {error}") from error
        if result.data is None or result.data.code != 200:
            why = result.error.description if result.error else (result.data.message if result.data else "no reason given")
            raise BusError(f"the bus refuses an account: {why[:300]}")

    async def trusted_signers(self) -> dict[str, set[str]]:
        """Return the operator's signing keys that each server trusts, by the server's name.

        :raises BusError: none answers.
        """
        client = self._bus.nc
        reply = client.new_inbox()
        subscription = await client.subscribe(reply)
        found: dict[str, set[str]] = {}
        try:
            await client.publish("$SYS.REQ.SERVER.PING.VARZ", b"", reply=reply)
            # Nobody says how many servers there are: all that answer until it stays silent.
            while True:
                message = await subscription.next_msg(timeout=_SERVERS_S if found else _PATIENCE_S)
                document: dict[str, Any] = msgspec.json.decode(message.data)
                claims = document.get("data", {}).get("trusted_operators_claim", [])
                keys = {key for claim in claims for key in claim.get("nats", {}).get("signing_keys", [])}
                found[str(document.get("server", {}).get("name", ""))] = keys
        except nats.errors.TimeoutError:
            pass
        except nats.errors.Error as error:
            raise BusError(f"the servers of the bus can not be asked: {error}") from error
        if not found:
            raise BusError("no server of the bus answers")
        return found

    async def _ask(self, subject: str, data: bytes) -> bytes:
        for attempt in range(_ATTEMPTS):
            try:
                reply = await self._bus.replies.ask(subject, data, None, _PATIENCE_S, repeatable=True)
            except nats.errors.ConnectionReconnectingError as error:
                # A server ends connections whose rights an update has touched, this one too, before it has answered.
                if attempt == _ATTEMPTS - 1:
                    raise BusError("the bus closes the connection instead of answering about its accounts") from error
            except (nats.errors.Error, TimeoutError) as error:
                reason = str(error) or type(error).__name__
                raise BusError(f"the bus does not answer about its accounts: {reason}") from error
            else:
                break
        return bytes(reply.data)


@asynccontextmanager
async def live(place: Installation, urls: Sequence[str]) -> AsyncIterator[Live]:
    """Connect to one of ``urls`` for the block, with the installation's system credentials.

    :raises ConfigError: the credentials are not here.
    :raises ForbiddenError: the servers refuse them.
    :raises BusError: no server can be reached.
    """
    async with _connected(place, urls, place.system_credentials) as bus:
        yield Live(bus)


async def publish_roster(place: Installation, urls: Sequence[str]) -> None:
    """Put the installation's roster where every process looks for it, as the provisioner, unless it is there.

    :raises ConfigError: the credentials are not here.
    :raises ForbiddenError: the servers refuse them.
    :raises SupersededError: the bus has a newer one, or another one that is as new.
    :raises BusError: the bus can not be reached, or does not store it.
    """
    async with _connected(place, urls, place.credentials(Role.PROVISIONER)) as bus:
        for _ in range(_ATTEMPTS):
            there = await keyvalue.get(bus, *_ROSTER)
            if there is not None and _has(place, there.value):
                return
            data, revision = place.roster.read_bytes(), there.revision if there is not None else 0
            # A registrar that has stored another one meanwhile must not lose it.
            with contextlib.suppress(FencedError):
                await keyvalue.put(bus, *_ROSTER, data, expected=revision, timeout_s=_PATIENCE_S)
                return
    raise BusError("the bus does not store the roster: others write it all the time")


async def take_roster(place: Installation, urls: Sequence[str]) -> None:
    """Take the bus's roster into the installation if it is newer: a change that began with an older one would not count.

    :raises ConfigError: the credentials are not here, or a file is unusable.
    :raises ForbiddenError: the servers refuse them.
    :raises BusError: the bus can not be reached.
    :raises OSError: it can not be written.
    """
    async with _connected(place, urls, place.credentials(Role.PROVISIONER)) as bus:
        there = await keyvalue.get(bus, *_ROSTER)
    theirs = believed_roster(place, there.value) if there is not None else None
    if there is not None and theirs is not None and theirs.version > load_roster(place).version:
        replace(place.roster, there.value, PUBLIC)


def _has(place: Installation, data: bytes) -> bool:
    """Tell whether what the bus has is the installation's roster; False when that is to take its place."""
    ours, theirs = load_roster(place), believed_roster(place, data)
    if theirs is None or theirs.version < ours.version:
        return False
    if encode(theirs) == encode(ours):
        return True
    raise SupersededError(
        f"the bus has roster {theirs.version}, made elsewhere, and {place.roster} is {ours.version}",
        remedy="Put `keys` and `trusted` back as they were before this change, and make it again on the bus's roster."
        if theirs.version == ours.version
        else "Any command that connects takes the bus's roster over (`attestream status`); then make the change again.",
    )


@asynccontextmanager
async def _connected(place: Installation, urls: Sequence[str], credentials: Path) -> AsyncIterator[Bus]:
    read_secret(credentials, f"the credentials {credentials.name}")
    encrypted = any(url.startswith(("tls://", "wss://")) for url in urls)
    settings = BusSettings(
        urls=list(urls),
        name="attestream-keys",
        connect_timeout_s=_PATIENCE_S,
        patient=False,
        credentials=credentials,
        encryption=Encryption(ca_file=place.ca_file if encrypted else None),
    )
    try:
        bus = await connect(settings)
    except BusError as error:
        raise BusError(error.message, remedy="Is it running? See `[bus] urls` and --url.") from error
    try:
        yield bus
    finally:
        await bus.close()
