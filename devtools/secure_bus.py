"""A secure installation and its bus, for tests: made as by `attestream init`, with identities as a registrar issues them."""

from __future__ import annotations

import time
from pathlib import Path

from attestream.embedded.nats import NatsServer
from attestream.installation.bus_keys import issue, write_credentials
from attestream.installation.bus_server import identities
from attestream.installation.making import initialise
from attestream.installation.places import Installation
from schemas import subjects
from schemas.roles import Role


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
