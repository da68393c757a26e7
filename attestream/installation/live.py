"""The accounts as running servers have them, seen and changed over a connection of the bus's own account."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import nats
import nats.errors
from nats.aio.client import Client

from attestream.credentials.document import parse
from attestream.credentials.token import read, role_of
from attestream.errors import BusError
from attestream.installation.files import read_secret
from attestream.installation.places import Installation
from schemas import topology
from schemas.roles import Role, inbox

_PATIENCE_S: Final = 5.0
_SERVERS_S: Final = 1.0


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

    def __init__(self, client: Client) -> None:
        self._client = client

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
        except msgspec.DecodeError as error:
            raise BusError(f"the bus gave an answer about an account that can not be read: {error}") from error
        if result.data is None or result.data.code != 200:
            why = result.error.description if result.error else (result.data.message if result.data else "no reason given")
            raise BusError(f"the bus refuses an account: {why[:300]}")

    async def trusted_signers(self) -> dict[str, set[str]]:
        """Return the operator's signing keys that each server trusts, by the server's name.

        :raises BusError: none answers.
        """
        reply = self._client.new_inbox()
        subscription = await self._client.subscribe(reply)
        found: dict[str, set[str]] = {}
        await self._client.publish("$SYS.REQ.SERVER.PING.VARZ", b"", reply=reply)
        try:
            # Nobody says how many servers there are: all that answer until it stays silent.
            while True:
                message = await subscription.next_msg(timeout=_SERVERS_S if found else _PATIENCE_S)
                document: dict[str, Any] = msgspec.json.decode(message.data)
                claims = document.get("data", {}).get("trusted_operators_claim", [])
                keys = {key for claim in claims for key in claim.get("nats", {}).get("signing_keys", [])}
                found[str(document.get("server", {}).get("name", ""))] = keys
        except nats.errors.TimeoutError:
            pass
        if not found:
            raise BusError("no server of the bus answers")
        return found

    async def _ask(self, subject: str, data: bytes) -> bytes:
        try:
            reply = await self._client.request(subject, data, timeout=_PATIENCE_S)
        except (nats.errors.Error, TimeoutError) as error:
            raise BusError(f"the bus does not answer about its accounts: {error}") from error
        return bytes(reply.data)


@asynccontextmanager
async def live(place: Installation, urls: Sequence[str]) -> AsyncIterator[Live]:
    """Connect to one of ``urls`` for the block, with the installation's system credentials.

    :raises ConfigError: the credentials are not here.
    :raises BusError: no server can be reached.
    """
    async with _connected(place, urls, place.system_credentials) as client:
        yield Live(client)


async def publish_roster(place: Installation, urls: Sequence[str]) -> None:
    """Put the installation's roster where every process looks for it, with the provisioner's credentials.

    :raises ConfigError: the credentials are not here.
    :raises BusError: the bus can not be reached, or does not store it.
    """
    async with _connected(place, urls, place.credentials(Role.PROVISIONER)) as client:
        subject = f"$KV.{topology.CLUSTER.name}.{topology.KEY_ROSTER}"
        try:
            reply = await client.request(subject, place.roster.read_bytes(), timeout=_PATIENCE_S)
        except (nats.errors.Error, TimeoutError) as error:
            raise BusError(f"the bus does not store the roster: {error}") from error
        if b'"error"' in reply.data:
            raise BusError(f"the bus does not store the roster: {reply.data[:300].decode('ascii', 'replace')}")


@asynccontextmanager
async def _connected(place: Installation, urls: Sequence[str], credentials: Path) -> AsyncIterator[Client]:
    held = parse(read_secret(credentials, f"the credentials {credentials.name}"))
    token = read(held.token)

    async def quiet(_: Exception) -> None:
        """What matters is raised where it is asked for."""

    encrypted = any(url.startswith(("tls://", "wss://")) for url in urls)
    try:
        # Wrong TLS settings would keep the client trying for ever.
        async with asyncio.timeout(2 * _PATIENCE_S):
            client = await nats.connect(
                list(urls),
                user_jwt_cb=lambda: bytearray(held.token.encode()),
                signature_cb=lambda nonce: base64.b64encode(held.key.sign(nonce.encode())),
                inbox_prefix=inbox(Role(role_of(token)), token.name),
                tls=ssl.create_default_context(cafile=place.ca_file) if encrypted else None,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                error_cb=quiet,
                connect_timeout=int(_PATIENCE_S),
            )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise BusError(
            f"the bus can not be reached at {', '.join(urls)}: {error or type(error).__name__}",
            remedy="Is it running? See `[bus] urls` and --url.",
        ) from error
    try:
        yield client
    finally:
        await client.close()
