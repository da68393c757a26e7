"""How an installation is made: all keys, identities and files, once."""

from __future__ import annotations

import datetime as dt
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from attestream.errors import ConfigError
from attestream.installation.authority import Authority, check_host
from attestream.installation.bus_keys import make_bus_keys
from attestream.installation.bus_server import Server
from attestream.installation.cluster_secret import SECRET_BYTES
from attestream.installation.configuration import configuration
from attestream.installation.files import PUBLIC, already, make_directory, write_new
from attestream.installation.people import equip, make_person
from attestream.installation.places import Installation
from attestream.installation.roster import write_roster
from attestream.installation.servers import make_servers
from attestream.manufacturers import shipped
from attestream.signing import Signer
from attestream.trust.roster import entry, initial
from schemas.roles import Role

SIGNING_SERVICES: Final = (Role.REGISTRAR, Role.VERIFIER, Role.NOTIFIER)
"""Services that sign what they say, each with a key of its own."""


AcceptEk = Literal["any", "warn", "certificate", "hook"]


def local_hosts() -> list[str]:
    """Return the names and addresses under which this machine reaches itself, and its name."""
    own = socket.gethostname()
    names = ["localhost", "127.0.0.1", "::1"]
    try:
        check_host(own)
    except ConfigError:
        return names
    return names if own in names else [*names, own]


def initialise(
    directory: Path,
    *,
    accept_ek: AcceptEk,
    port: int,
    manufacturers: Sequence[str] = (),
    hosts: Sequence[str] = (),
    servers: Sequence[Server] = (),
    on_host: Path | None = None,
    operator: str = "admin",
) -> list[Path]:
    """Make the data directory, its keys and its configuration, and return what was made.

    :param port: of the bus.
    :param manufacturers: of TPMs, whose CA certificates as they come with Attestream count.
    :param hosts: names and addresses that the servers' certificates are good for; none: those of this machine.
    :param servers: bus servers for which directories of their own are made; several form a cluster.
    :param on_host: see :func:`attestream.installation.servers.make_servers`.
    :param operator: name of the first person who may do everything.
    :raises ConfigError: when one of its files exists already, or can not be made, or a manufacturer is not known.
    """
    place = Installation(directory.absolute())
    _see_that_it_is_free(place)
    shipped.manifest().of(manufacturers)
    names = [check_host(host) for host in hosts] or local_hosts()
    urls = [server.url for server in servers] or [f"nats://127.0.0.1:{port}"]
    try:
        name = _make_keys(place, operator)
        made = _make_certificates(place, name, names, servers, hosts, on_host)
        equip(place, operator, place.operator(operator), urls)
        # Last, so that an interrupted initialisation does not look finished.
        store = "" if servers else place.bus.name
        text = configuration(urls, accept_ek=accept_ek, manufacturers=manufacturers, store=store)
        write_new(place.config_file, text.encode())
    except OSError as error:
        raise ConfigError(f"can not initialise {directory}: {error}") from error
    return [
        place.config_file,
        place.root_key.parent,
        place.bus_keys,
        place.credentials_directory,
        place.operator(operator),
        place.tls,
        place.trusted_keys,
        place.ek_store,
        place.bus,
        *made,
    ]


def _make_keys(place: Installation, operator: str) -> str:
    """Make the directories and every key that is no certificate's; return the installation's name."""
    now_ms = time.time_ns() // 1_000_000
    for folder in (place.directory, place.root_key.parent, place.trusted_keys, place.ek_store, place.bus):
        make_directory(folder)
    write_new(place.cluster_secret, secrets.token_bytes(SECRET_BYTES))
    installation = secrets.token_hex(16)
    name = f"attestream-{installation[:8]}"
    make_bus_keys(place, name=name, now=now_ms // 1000)
    _make_trust(place, installation, operator, now_ms)
    return name


def _make_certificates(
    place: Installation,
    name: str,
    local: Sequence[str],
    servers: Sequence[Server],
    hosts: Sequence[str],
    on_host: Path | None,
) -> list[Path]:
    """Make the authority, the certificate of the bus on this machine, which is good for ``local``, and the directories of
    ``servers``; return those."""
    now = dt.datetime.now(dt.UTC)
    authority = Authority(place.tls)
    authority.make(f"{name} CA", now)
    authority.issue(authority.server, "bus", local, now)
    return make_servers(place, servers, now, hosts=hosts, on_host=on_host) if servers else []


def _see_that_it_is_free(place: Installation) -> None:
    files = [place.config_file, place.cluster_secret, place.root_key, place.root_public, place.roster, place.operator_seed]
    files += [place.service_key(role) for role in SIGNING_SERVICES]
    files += [place.trusted_keys / "revocation.pem", place.operator_token]
    for path in files:
        if path.exists():
            raise already(path)


def _make_trust(place: Installation, installation: str, operator: str, now_ms: int) -> None:
    root = Signer.generate(place.root_key)
    write_new(place.root_public, root.public_pem.encode(), PUBLIC)
    keys = []
    for role in SIGNING_SERVICES:
        signer = Signer.generate(place.service_key(role))
        keys.append(entry(signer.public_pem, role, str(role), not_before=now_ms))
        if role is Role.NOTIFIER:
            write_new(place.trusted_keys / "revocation.pem", signer.public_pem.encode(), PUBLIC)
    keys.append(make_person(place, Role.ADMIN, operator, now_ms=now_ms))
    write_roster(place, initial(installation, keys, now_ms), root)
