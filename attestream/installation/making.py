"""How an installation is made: all keys, identities and files, once."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Final, Literal

from attestream.errors import ConfigError
from attestream.installation.bus_keys import make_bus_keys
from attestream.installation.files import PUBLIC, already, make_directory, write_new
from attestream.installation.places import Installation
from attestream.installation.roster import roster_key, write_roster
from attestream.signing import Signer
from schemas.roles import Role
from schemas.trust import Roster

SECRET_BYTES: Final = 32
"""Length of the cluster secret."""

SIGNING_SERVICES: Final = (Role.REGISTRAR, Role.VERIFIER, Role.NOTIFIER)
"""Services that sign what they say, each with a key of its own."""


def initialise(directory: Path, *, accept_ek: Literal["any", "warn", "certificate", "hook"], port: int) -> list[Path]:
    """Make the data directory, its keys and its configuration, and return what was made.

    :raises ConfigError: when one of its files exists already, or can not be made.
    """
    place = Installation(directory.absolute())
    _see_that_it_is_free(place)
    try:
        for folder in (place.directory, place.root_key.parent, place.trusted_keys, place.ek_store, place.bus):
            make_directory(folder)
        write_new(place.cluster_secret, secrets.token_bytes(SECRET_BYTES))
        installation = secrets.token_hex(16)
        now_ms = time.time_ns() // 1_000_000
        make_bus_keys(place, name=f"attestream-{installation[:8]}", now=now_ms // 1000)
        _make_trust(place, installation, now_ms)
        # Last, so that an interrupted initialisation does not look finished.
        write_new(place.config_file, _TEMPLATE.format(port=port, accept_ek=accept_ek).encode())
    except OSError as error:
        raise ConfigError(f"can not initialise {directory}: {error}") from error
    return [
        place.config_file,
        place.root_key.parent,
        place.bus_keys,
        place.credentials_directory,
        place.trusted_keys,
        place.ek_store,
        place.bus,
    ]


def _see_that_it_is_free(place: Installation) -> None:
    files = [place.config_file, place.cluster_secret, place.root_key, place.root_public, place.roster, place.operator_seed]
    files += [place.service_key(role) for role in SIGNING_SERVICES]
    files += [place.trusted_keys / "revocation.pem", place.operator_token]
    for path in files:
        if path.exists():
            raise already(path)


def _make_trust(place: Installation, installation: str, now_ms: int) -> None:
    root = Signer.generate(place.root_key)
    write_new(place.root_public, root.public_pem.encode(), PUBLIC)
    keys = []
    for role in SIGNING_SERVICES:
        signer = Signer.generate(place.service_key(role))
        keys.append(roster_key(role, str(role), signer, now_ms=now_ms))
        if role is Role.NOTIFIER:
            write_new(place.trusted_keys / "revocation.pem", signer.public_pem.encode(), PUBLIC)
    write_roster(place, Roster(installation=installation, version=1, issued_at=now_ms, keys=keys), root)


_TEMPLATE: Final = """\
# Configuration of this Attestream installation. Paths are relative to this file.
# Every setting and its default is described in docs/ and in attestream/config.py.
# A variable ATTESTREAM_<SECTION>_<KEY> overrides the setting of that section and key.

[bus]
urls = ["nats://127.0.0.1:{port}"]

[log]
level = "info"

[registrar]
database_url = "sqlite:///registrar.db"
# "certificate": only TPMs whose endorsement key has a certificate by a CA in ek_store may enrol.
# "any": every TPM may, and nothing shows that it is a real one.
accept_ek = "{accept_ek}"
ek_store = "ek-store"

[verifier]
database_url = "sqlite:///verifier.db"
cluster_secret_file = "keys/cluster.secret"

[notifier]
signing_key_file = "keys/revocation.pem"

# [[notifier.webhooks]]
# name = "siem"
# url = "https://siem.example/attestream"
"""
