"""Identities of people and of their programs: what they carry, and their entry in the roster."""

from __future__ import annotations

import re
from typing import Final

from attestream.errors import ConfigError
from attestream.installation.bus_keys import issue, write_credentials
from attestream.installation.files import make_directory
from attestream.installation.places import Installation
from attestream.signing import Signer
from attestream.trust.roster import entry
from schemas.roles import TENANTS, Role
from schemas.trust import RosterKey

CREDENTIALS: Final = "bus.creds"
SIGNING_KEY: Final = "signing.pem"

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z", re.ASCII)


def check_name(name: str) -> str:
    """Return ``name`` if a person, program or service can have it.

    :raises ConfigError: it can not.
    """
    if not _NAME.match(name):
        raise ConfigError(f"{name[:80]!r} can not be a name: 1-64 characters of A-Z a-z 0-9 _ -")
    return name


def make_person(place: Installation, role: Role, name: str, *, now_ms: int) -> RosterKey:
    """Make the directory of a new person, and return the entry that the roster must have for the signatures to count.

    :raises ConfigError: the name can not be one or is taken, ``role`` is a service's, or the issuer's key is not here.
    :raises OSError: a file can not be written.
    """
    if role not in TENANTS:
        raise ConfigError(f"{role} is not a role of people")
    directory = place.operator(check_name(name))
    if directory.exists():
        raise ConfigError(f"{directory} exists already, and nothing is overwritten", remedy="Choose another name.")
    make_directory(place.operators)
    make_directory(directory)
    credentials = issue(place, role, name, now=now_ms // 1000)
    write_credentials(credentials, directory / CREDENTIALS)
    signer = Signer.generate(directory / SIGNING_KEY)
    return entry(signer.public_pem, role, name, not_before=now_ms, bus_key=credentials.key.public)
