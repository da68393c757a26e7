"""Identities of people and of their programs: what they carry, and their entry in the roster.

A person is given one directory: ``bus.creds`` to connect, ``signing.pem`` to sign commands, and what has to be known of the
installation (``attestream.toml``, ``root.pem``, ``ca.pem``), so that it works on any machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attestream.config import FILE_NAME
from attestream.errors import ConfigError
from attestream.installation.bus_keys import issue, write_credentials
from attestream.installation.files import PUBLIC, make_directory, read_text, write_new
from attestream.installation.places import Installation
from attestream.installation.roster import load_roster
from attestream.signing import Signer
from attestream.trust.roster import entry
from schemas.roles import TENANTS, Role
from schemas.trust import RosterKey

CREDENTIALS: Final = "bus.creds"
SIGNING_KEY: Final = "signing.pem"
ROOT: Final = "root.pem"
CA: Final = "ca.pem"
ROSTER: Final = "roster"
VOUCHERS: Final = "roster.vouchers"

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z", re.ASCII)
_CONFIG: Final = """\
# How {name} reaches this installation: attestream --credentials DIRECTORY ...
[bus]
urls = {urls}
credentials = "bus.creds"
{ca_file}
[trust]
root_keys = ["root.pem"]
roster_file = "roster"
"""


def check_name(name: str) -> str:
    """Return ``name`` if a person, program or service can have it.

    :raises ConfigError: it can not.
    """
    if not _NAME.match(name):
        raise ConfigError(f"{name[:80]!r} can not be a name: 1-64 characters of A-Z a-z 0-9 _ -")
    return name


def make_person(
    place: Installation,
    role: Role,
    name: str,
    *,
    now_ms: int,
    lifetime_ms: int = 0,
    directory: Path | None = None,
    by: str = "",
) -> RosterKey:
    """Make the directory of a new person, and return the entry that the roster must have for the signatures to count.

    ``lifetime_ms`` 0: for ever. ``directory`` is by default that of the name in the installation. ``by`` is who does it.

    :raises ConfigError: the name can not be one or is taken, ``role`` is a service's, or the issuer's key is not here.
    :raises OSError: a file can not be written.
    """
    if role not in TENANTS:
        raise ConfigError(f"{role} is not a role of people")
    own = place.operator(check_name(name))
    directory = directory or own
    if directory.exists() and (directory == own or any(directory.iterdir())):
        raise ConfigError(f"{directory} exists already, and nothing is overwritten", remedy="Choose another name.")
    ends_at = now_ms + lifetime_ms if lifetime_ms else 0
    credentials = issue(place, role, name, now=now_ms // 1000, expires_at=-(-ends_at // 1000))
    if directory == own:
        make_directory(place.operators)
    make_directory(directory)
    write_credentials(credentials, directory / CREDENTIALS)
    signer = Signer.generate(directory / SIGNING_KEY)
    return entry(signer.public_pem, role, name, not_before=now_ms, not_after=ends_at, bus_key=credentials.key.public, by=by)


def equip(place: Installation, name: str, directory: Path, urls: Sequence[str]) -> None:
    """Put into a person's directory what has to be known of the installation, whose bus is at ``urls``.

    :raises ConfigError: a file is not here, or exists there.
    :raises OSError: one can not be written.
    """
    encrypted = any(url.startswith(("tls://", "wss://")) for url in urls)
    text = _CONFIG.format(name=name, urls=json.dumps(list(urls)), ca_file='ca_file = "ca.pem"\n' if encrypted else "")
    files = {
        ROOT: read_text(place.root_public, "the root's public key"),
        CA: read_text(place.ca_file, "the authority's certificate"),
        FILE_NAME: text,
    }
    for file, content in files.items():
        write_new(directory / file, f"{content.rstrip()}\n".encode(), PUBLIC)


def discard(directory: Path) -> bool:
    """Remove a person's directory with what was made in it; what else is there stays. Return whether it is gone.

    :raises OSError: a file can not be removed.
    """
    if not directory.is_dir():
        return False
    for file in (CREDENTIALS, SIGNING_KEY, ROOT, CA, FILE_NAME, ROSTER, VOUCHERS):
        (directory / file).unlink(missing_ok=True)
    if any(directory.iterdir()):
        return False
    directory.rmdir()
    return True


def own_credentials(place: Installation) -> Path | None:
    """Return the credentials that commands on this installation use: those of the only person that is here, else those of
    the first admin in the roster who is.

    :raises ConfigError: the roster can not be read.
    :raises SignatureError: it was not signed by the installation's root.
    """
    found = sorted(place.operators.glob(f"*/{CREDENTIALS}"))
    if len(found) <= 1:
        return found[0] if found else None
    admins = (key.name for key in load_roster(place).keys if key.role is Role.ADMIN and not key.revoked_at)
    paths = (place.operator(name) / CREDENTIALS for name in admins)
    return next((path for path in paths if path in found), None)
