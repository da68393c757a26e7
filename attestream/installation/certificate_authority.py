"""The certificate authority is replaced: for a time its file, which everybody has, holds the old and the new certificate.

First the new one is made known: ``ca.pem`` holds it beside the one that still issues. Then it issues, and every certificate
here is issued anew; the old one stays in the file until its time is over, for those that are not where they belong yet.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from attestream.errors import ConfigError
from attestream.installation.authority import Authority, load_certificate
from attestream.installation.files import PUBLIC, read_text, replace
from attestream.installation.people import CA
from attestream.installation.places import Installation
from attestream.installation.renewal import Renewed, client_pairs, pairs, renew, renew_clients

_RETIRED: Final = re.compile(r"ca-until-(\d{1,15})\.pem\Z", re.ASCII)


def introduce(place: Installation, now: dt.datetime) -> list[Path]:
    """Make the next authority and put its certificate beside the present one; return the files that have both now.

    :raises ConfigError: the present certificate can not be read.
    :raises OSError: a file can not be written.
    """
    present = load_certificate(place.ca_file)
    waiting = next_authority(place)
    if not waiting.own.certificate.exists():
        # A key alone is what an interruption has left.
        waiting.own.key.unlink(missing_ok=True)
        name = present.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        waiting.make(f"{str(name).partition(' CA')[0]} CA {now:%Y-%m-%d}", now)
    return _write_bundle(place, present)


def is_introduced(place: Installation) -> bool:
    """Return whether every file of this installation that tells which authorities count has the next one's certificate.

    :raises ConfigError: a file can not be read.
    """
    coming = next_authority(place).own.certificate
    if not coming.exists():
        return False
    wanted = read_text(coming, "a certificate")
    return all(path.exists() and wanted in read_text(path, "certificates") for path in _bundles(place))


def take(place: Installation, now: dt.datetime, *, until: int) -> tuple[list[Renewed], list[Path]]:
    """Have the next authority issue from now on, and issue every certificate here anew; return those and the CA's files.

    What the old one has issued counts ``until`` then (Unix seconds). Called again after an interruption, it goes on.

    :raises ConfigError: the next authority's key is not here.
    :raises OSError: a file can not be written.
    """
    waiting = next_authority(place)
    coming, present = load_certificate(waiting.own.certificate), load_certificate(place.ca_file)
    if present != coming:
        if not waiting.own.key.exists():
            raise ConfigError(f"the next authority's key is not here ({waiting.own.key})")
        replace(place.tls / f"ca-until-{until}.pem", present.public_bytes(Encoding.PEM), PUBLIC)
    files = _write_bundle(place, coming)
    if waiting.own.key.exists():
        waiting.own.key.replace(Authority(place.tls).own.key)
    renewed = [*renew(place, now), *renew_clients(place, now)]
    # Last: until then the same command can be given again.
    waiting.own.certificate.unlink()
    return renewed, files


def prune_authorities(place: Installation, now: dt.datetime) -> list[Path]:
    """Leave out authorities whose time is over, and return the files that were changed.

    :raises ConfigError: a certificate here is still by one of them.
    :raises OSError: a file can not be written.
    """
    over = [path for path, until in retired(place) if until <= now.timestamp()]
    for path in over:
        gone = load_certificate(path)
        for pair in (*pairs(place), *client_pairs(place)):
            if _issued_by(load_certificate(pair.certificate), gone):
                raise ConfigError(
                    f"{pair.certificate} is by the authority that is to go", remedy="Run `attestream certificates renew`."
                )
    if not over:
        return []
    # First: whoever is interrupted finds them again.
    files = _write_bundle(place, load_certificate(place.ca_file), without=over)
    for path in over:
        path.unlink()
    return files


def next_authority(place: Installation) -> Authority:
    """Return the authority that was made known and does not issue yet, if there is one."""
    return Authority(place.tls, "ca-next")


def retired(place: Installation) -> list[tuple[Path, int]]:
    """Return the certificates of authorities that issue no more, and until when they count (Unix seconds)."""
    found = [(path, _RETIRED.match(path.name)) for path in sorted(place.tls.glob("ca-until-*.pem"))]
    return [(path, int(match[1])) for path, match in found if match is not None]


def _bundles(place: Installation) -> list[Path]:
    """Return the files that hold the certificates of authorities that count."""
    return [place.ca_file, *sorted(place.servers.glob(f"*/{CA}")), *sorted(place.operators.glob(f"*/{CA}"))]


def _write_bundle(place: Installation, present: x509.Certificate, *, without: Sequence[Path] = ()) -> list[Path]:
    """Write the certificates that count, ``present`` first, wherever this installation has them."""
    others = [path for path, _ in retired(place) if path not in without]
    coming = next_authority(place).own.certificate
    certificates = [present, *(load_certificate(path) for path in (coming, *others) if path.exists())]
    unique = list(dict.fromkeys(certificate.public_bytes(Encoding.PEM) for certificate in certificates))
    targets = _bundles(place)
    for target in targets:
        replace(target, b"".join(unique), PUBLIC)
    return targets


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
