"""The directories of bus servers, each to be copied to the machine that its server runs on."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attestream.errors import ConfigError
from attestream.installation.authority import Authority, Pair
from attestream.installation.bus_server import Files, Server, identities, whole
from attestream.installation.files import PUBLIC, make_directory, read_text, replace, write_new
from attestream.installation.places import Installation

CONFIG: Final = "nats.conf"
_SECRET_BYTES: Final = 32


def make_servers(
    place: Installation,
    servers: Sequence[Server],
    now: dt.datetime,
    *,
    hosts: Sequence[str] = (),
    on_host: Path | None = None,
) -> list[Path]:
    """Make a directory for each server: configuration, certificate, key and CA. Several servers form a cluster.

    :param hosts: names and addresses for which the certificates are good besides each server's own.
    :param on_host: the directory in which the files will lie on the servers' machines; default: where they are made.
    :raises ConfigError: one exists already, or the authority's key is not here.
    :raises OSError: one can not be written.
    """
    if len({server.name for server in servers}) != len(servers):
        raise ConfigError("two servers have the same name")
    for server in servers:
        if (place.servers / server.name).exists():
            raise ConfigError(f"{place.servers / server.name} exists already, and nothing is overwritten")
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    peers = servers if len(servers) > 1 else ()
    made = []
    make_directory(place.servers)
    for server in servers:
        directory = place.servers / server.name
        make_directory(directory)
        final = on_host or directory
        authority = Authority(place.tls)
        names = list(dict.fromkeys((server.host, *hosts)))
        authority.issue(Pair(directory / "server.pem", directory / "server.key"), server.name, names, now)
        ca = read_text(authority.own.certificate, "the CA's certificate")
        write_new(directory / "ca.pem", f"{ca}\n".encode(), PUBLIC)
        files = Files(final, Pair(final / "server.pem", final / "server.key"), final / "ca.pem")
        # Last: without it the directory is not finished.
        write_new(directory / CONFIG, whole(place, server, files, peers, secret).encode())
        made.append(directory)
    return made


def refresh_identities(place: Installation) -> list[Path]:
    """Put the present tokens into the configurations of all servers that were made, and return their files.

    :raises ConfigError: one can not be read.
    :raises OSError: one can not be written.
    """
    changed = []
    for path in sorted(place.servers.glob(f"*/{CONFIG}")):
        old = read_text(path, "a server's configuration") + "\n"
        head, found, tail = old.partition("operator: ")
        if not found:
            raise ConfigError(f"{path} has no line that names the operator")
        directory = tail.partition("dir: ")[2].partition("\n")[0].strip('"')
        new = head + identities(place, Path(directory))
        if new != old:
            replace(path, new.encode())
            changed.append(path)
    return changed
