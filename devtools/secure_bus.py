"""A secure installation and its bus, for tests: made as by `attestream init`, with identities as a registrar issues them."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.aio.client import Client

from attestream.bus.connection import Bus
from attestream.bus.settings import BusSettings
from attestream.credentials.document import Credentials, parse
from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import read, reissued, role_of, role_tag, user_token
from attestream.embedded.nats import NatsServer
from attestream.installation.bus_keys import issue, load_seed, load_token, write_credentials
from attestream.installation.bus_server import identities
from attestream.installation.making import initialise
from attestream.installation.places import Installation
from schemas import subjects
from schemas.roles import Role, inbox


def secure_installation(directory: Path, *, port: int = 4222) -> Installation:
    """Make an installation; the identities of services are in ``installation.credentials(role)``."""
    initialise(directory, accept_ek="any", port=port)
    return Installation(directory)


def secure_server(installation: Installation, *, port: int = 0) -> NatsServer:
    """Return the installation's bus on the loopback interface, without TLS, not started. Nobody gets in without a token."""
    return NatsServer(installation.bus, port=port, extra=identities(installation, installation.bus / "accounts"))


def agent_credentials(installation: Installation, agent_id: str, *, lifetime_s: int = 3600) -> Path:
    """Return credentials of an agent as the registrar would issue them after its enrolment."""
    return user_credentials(installation, Role.AGENT, subjects.token(agent_id), lifetime_s=lifetime_s)


def user_credentials(installation: Installation, role: Role, name: str, *, lifetime_s: int = 0) -> Path:
    """Return credentials of somebody new; those of the same role and name are replaced. ``lifetime_s`` 0: for ever."""
    now = int(time.time())
    expires_at = now + lifetime_s if lifetime_s else 0
    path = installation.directory / "credentials" / f"{role}.{name}.creds"
    write_credentials(issue(installation, role, name, now=now, expires_at=expires_at), path, again=True)
    return path


def agent_identities(installation: Installation, names: Iterable[str], *, lifetime_s: int = 3600) -> list[Credentials]:
    """Return identities of agents as :func:`agent_credentials` makes them, thousands a second and without files."""
    issuer = load_seed(installation.issuer(Role.AGENT), Kind.ACCOUNT, "the key that issues identities of agents")
    account = load_token(installation.account_token(Role.AGENT)).subject
    now = int(time.time())
    made = []
    for name in names:
        key = NKey.generate(Kind.USER)
        token = user_token(
            issuer,
            key.public,
            subjects.token(name),
            account=account,
            now=now,
            expires_at=now + lifetime_s,
            tags=[role_tag(Role.AGENT)],
        )
        made.append(Credentials(token, key))
    return made


async def everybody(installation: Installation, settings: BusSettings) -> Bus:
    """Return a connection that stands for every agent: only who has the issuer's key can have a token for it."""
    now = int(time.time())
    issued = issue(installation, Role.AGENT, "everybody", now=now)
    issuer = load_seed(installation.issuer(Role.AGENT), Kind.ACCOUNT, "the key that issues identities of agents")
    mine = read(issued.token)
    bus = Bus(msgspec.structs.replace(settings, credentials=None, identity=lambda: issued))
    # Where the name of one agent would stand in its permissions, the name `*` stands for all.
    token = reissued(msgspec.structs.replace(mine, name="*"), mine.nats, issuer, now)
    login = bus._link._login  # noqa: SLF001 - no honest client has such a name, and none is to be able to
    assert login is not None
    login.token = token.encode  # type: ignore[method-assign]  # the same
    await bus.open()
    return bus


async def log_in(url: str, credentials: Path, *, ca: Path | None = None, **options: Any) -> Client:
    """Return a bare client of the bus, connected once: it does not come back by itself.

    :raises nats.errors.Error: the server refuses it.
    """
    held = parse(credentials.read_text())
    token = read(held.token)
    return await nats.connect(
        url,
        user_jwt_cb=lambda: bytearray(held.token.encode()),
        signature_cb=lambda nonce: base64.b64encode(held.key.sign(nonce.encode())),
        inbox_prefix=inbox(Role(role_of(token)), token.name),
        tls=ssl.create_default_context(cafile=ca) if ca else None,
        **{"allow_reconnect": False, "connect_timeout": 10} | options,
    )
