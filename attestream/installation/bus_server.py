"""The configuration of the nats-servers that serve an installation: one, or several that form a cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from attestream.installation.authority import Pair
from attestream.installation.bus_keys import load_token
from attestream.installation.files import read_text
from attestream.installation.places import Installation
from schemas.accounts import SERVER_CONNECTIONS
from schemas.roles import Role

CLIENT_PORT: Final = 4222
ROUTE_PORT: Final = 6222
WEBSOCKET_PORT: Final = 443
ROUTE_USER: Final = "route"

_IDENTITIES: Final = """\
operator: "{operator}"
system_account: "{system}"
# Changes of the accounts are kept here: revoked identities stay revoked when the server starts again.
resolver: {{
  type: full
  dir: {directory}
  allow_delete: false
  interval: "2m"
}}
resolver_preload: {{
{accounts}
}}
"""

_TLS: Final = """\
tls {{
  cert_file: {certificate}
  key_file: {key}
  ca_file: {ca}
  min_version: "1.2"
  timeout: 5
  # Uncomment to let in only clients that also show a certificate by this CA (`attestream certificates client`).
  # verify: true
}}
"""

_WEBSOCKET: Final = """\
# For networks that let nothing else out: wss://, by clients that have aiohttp.
websocket {{
  listen: {listen}
  tls {{
    cert_file: {certificate}
    key_file: {key}
    ca_file: {ca}
    min_version: "1.2"
  }}
}}
"""

_CLUSTER: Final = """\
cluster {{
  name: {name}
  listen: {listen}
  # A server that can not be reached is let go in seconds: what waits for it would hold up what the others say to each other.
  ping_interval: "2s"
  ping_max: 2
  write_deadline: "2s"
  write_timeout: close
  # Servers know each other by their certificates and by this secret.
  authorization {{
    user: "{user}"
    password: {secret}
    timeout: 5
  }}
  tls {{
    cert_file: {certificate}
    key_file: {key}
    ca_file: {ca}
    min_version: "1.2"
    verify: true
    timeout: 5
  }}
  routes: [
{routes}
  ]
}}
"""

_SERVER: Final = """\
# One server of the bus of {installation}. It holds secrets: mode 0600.
# Made by Attestream; the accounts below change at run time, and the server keeps the changes in its directory `accounts`.
server_name: {name}
listen: {listen}
max_payload: 1MB
max_connections: {connections}
write_deadline: "10s"
jetstream {{
  store_dir: {store}
  # What streams may claim together; the disk is filled only by what they hold.
  max_file_store: 1TB
  max_memory_store: 1GB
}}
"""


class Server(NamedTuple):
    """A server of the bus."""

    name: str
    host: str
    """Name or address under which clients and the other servers reach it."""
    port: int = CLIENT_PORT
    route_port: int = ROUTE_PORT
    websocket_port: int = WEBSOCKET_PORT
    """0: no WebSocket."""
    listen: str = "0.0.0.0"  # noqa: S104 - a server is there to be reached; TLS and identities guard it
    """Address of the interface that it listens on."""

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{bracketed(self.host)}:{self.port}"


class Files(NamedTuple):
    """Where a server finds its files, on the machine that it runs on."""

    directory: Path
    pair: Pair
    ca: Path


def identities(place: Installation, directory: Path) -> str:
    """Return the part of the configuration that says who may connect; ``directory`` is the server's own, for accounts.

    :raises ConfigError: a token of the installation can not be read.
    """
    operator = read_text(place.operator_token, "the bus operator's token")
    paths = (place.system_token, *sorted({place.account_token(role) for role in Role}))
    preload = [f"  {load_token(path).subject}: {json.dumps(read_text(path, 'an account'))}" for path in paths]
    return _IDENTITIES.format(
        operator=operator,
        system=load_token(place.system_token).subject,
        directory=_quoted(directory),
        accounts="\n".join(preload),
    )


def encryption(pair: Pair, ca: Path) -> str:
    """Return the part of the configuration that makes a server speak TLS alone, version 1.2 or newer."""
    return _TLS.format(**_tls(Files(pair.key.parent, pair, ca)))


def websocket(pair: Pair, ca: Path, listen: str, port: int) -> str:
    """Return the part of the configuration that lets clients in over WebSocket."""
    return _WEBSOCKET.format(**_tls(Files(pair.key.parent, pair, ca)), listen=_quoted(f"{bracketed(listen)}:{port}"))


def whole(place: Installation, server: Server, files: Files, peers: Sequence[Server] = (), secret: str = "") -> str:
    """Return the whole configuration of a server; ``peers`` are all servers of its cluster, ``secret`` is what they share.

    :raises ConfigError: a token of the installation can not be read.
    """
    name = load_token(place.operator_token).name
    parts = [
        _SERVER.format(
            installation=name,
            name=_quoted(server.name),
            listen=_quoted(f"{bracketed(server.listen)}:{server.port}"),
            connections=SERVER_CONNECTIONS,
            store=_quoted(files.directory / "jetstream"),
        ),
        encryption(files.pair, files.ca),
    ]
    if server.websocket_port:
        parts.append(websocket(files.pair, files.ca, server.listen, server.websocket_port))
    if peers:
        others = (peer for peer in peers if peer != server)
        routes = [f'    "tls://{ROUTE_USER}:{secret}@{bracketed(peer.host)}:{peer.route_port}"' for peer in others]
        parts.append(
            _CLUSTER.format(
                **_tls(files),
                name=_quoted(name),
                listen=_quoted(f"{bracketed(server.listen)}:{server.route_port}"),
                user=ROUTE_USER,
                secret=_quoted(secret),
                routes="\n".join(routes),
            )
        )
    parts.append(identities(place, files.directory / "accounts"))
    return "\n".join(parts)


def bracketed(host: str) -> str:
    """Return ``host`` as it stands before a colon and a port."""
    return f"[{host}]" if ":" in host else host


def _tls(files: Files) -> dict[str, str]:
    return {"certificate": _quoted(files.pair.certificate), "key": _quoted(files.pair.key), "ca": _quoted(files.ca)}


def _quoted(value: Path | str) -> str:
    return json.dumps(str(value))
