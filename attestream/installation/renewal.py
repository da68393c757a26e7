"""Certificates are renewed while everything goes on: the server reads them again on a signal and keeps its connections."""

from __future__ import annotations

import datetime as dt
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography import x509

from attestream.embedded.nats import PID_FILE
from attestream.errors import ConfigError
from attestream.installation.authority import Authority, Pair, hosts_of, load_certificate
from attestream.installation.places import Installation

SOON_DAYS: Final = 30
"""A certificate with less life than this should be renewed."""


class Renewed(NamedTuple):
    """A new certificate."""

    path: Path
    hosts: list[str]
    not_after: dt.datetime


def pairs(place: Installation) -> list[Pair]:
    """Return the certificates of servers: of the one on this machine, and of those with directories of their own."""
    found = [Authority(place.tls).server]
    found += [Pair(path, path.with_suffix(".key")) for path in sorted(place.servers.glob("*/server.pem"))]
    return [pair for pair in found if pair.certificate.exists()]


def client_pairs(place: Installation) -> list[Pair]:
    """Return the certificates of clients that were issued here."""
    return [Pair(path, path.with_suffix(".key")) for path in sorted((place.tls / "clients").glob("*.pem"))]


def described(place: Installation, now: dt.datetime) -> list[dict[str, Any]]:
    """Return what there is to know about the authority's and the servers' certificates.

    :raises ConfigError: one can not be read.
    """
    paths = [place.ca_file, *(pair.certificate for pair in (*pairs(place), *client_pairs(place)))]
    paths += sorted(place.tls.glob("ca-*.pem"))
    found = []
    for path in paths:
        certificate = load_certificate(path)
        end = certificate.not_valid_after_utc
        found.append(
            {
                "file": str(path),
                "name": _common_name(certificate),
                "hosts": hosts_of(certificate),
                "not_after": int(end.timestamp()),
                "days_left": (end - now).days,
            }
        )
    return found


def renew(place: Installation, now: dt.datetime, *, hosts: Sequence[str] = ()) -> list[Renewed]:
    """Replace every server's certificate and key; they are for the same hosts as before, unless ``hosts`` are given.

    :raises ConfigError: the authority's key is not here, or a host is none.
    :raises OSError: a file can not be written.
    """
    authority = Authority(place.tls)
    renewed = []
    for pair in pairs(place):
        old = load_certificate(pair.certificate)
        names = list(hosts) or hosts_of(old)
        new = authority.issue(pair, _common_name(old), names, now, again=True)
        renewed.append(Renewed(pair.certificate, names, new.not_valid_after_utc))
    return renewed


def renew_clients(place: Installation, now: dt.datetime) -> list[Renewed]:
    """Replace the certificates and keys of clients that were issued here.

    :raises ConfigError: the authority's key is not here.
    :raises OSError: a file can not be written.
    """
    authority = Authority(place.tls)
    renewed = []
    for pair in client_pairs(place):
        new = authority.issue(pair, _common_name(load_certificate(pair.certificate)), [], now, purpose="client", again=True)
        renewed.append(Renewed(pair.certificate, [], new.not_valid_after_utc))
    return renewed


def reload_embedded(place: Installation) -> bool:
    """Have the bus that `attestream up` runs read its certificate again; ``False`` when it does not run.

    :raises ConfigError: it runs as another user.
    """
    try:
        pid = int((place.bus / PID_FILE).read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False
    # The number may be another process's by now: only a server with this very configuration is meant.
    if str(place.bus / "nats.conf").encode() not in command:
        return False
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise ConfigError(f"the bus (process {pid}) belongs to another user") from error
    return True


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
