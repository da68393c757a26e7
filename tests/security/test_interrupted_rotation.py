"""A command that replaces the certificate authority is killed at any point: given again, it goes on, and skips nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from attestream.installation import certificate_authority
from attestream.installation.certificate_authority import next_authority, prune_authorities, retired
from attestream.installation.places import Installation
from attestream.installation.procedures import rotate_ca
from devtools.secure_bus import secure_installation

ANNOUNCED = "give this command once more"


class Killed(BaseException):
    """What ends a process that no handler sees."""


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    return secure_installation(tmp_path / "i")


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def rotate(place: Installation) -> str:
    return "\n".join(rotate_ca(place, overlap_s=60))


def killed(monkeypatch: pytest.MonkeyPatch, name: str, command: Callable[[], object]) -> None:
    """Give the command, and end it as it comes to ``name``."""

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(certificate_authority, name, kill)
        with pytest.raises(Killed):
            command()


def is_replaced(place: Installation, old: x509.Certificate) -> bool:
    """Return whether everything is by another authority than ``old``, which still counts."""
    new, *others = certificates(place.ca_file)
    certificates(place.tls / "server.pem")[0].verify_directly_issued_by(new)
    return new != old and others == [old] and not list(place.tls.glob("ca-next*"))


def test_before_the_certificate_is_there(place):
    (old,) = certificates(place.ca_file)
    next_authority(place).own.key.write_bytes(b"half a key")
    assert ANNOUNCED in rotate(place)
    assert ANNOUNCED not in rotate(place)
    assert is_replaced(place, old)


def test_before_anybody_was_told_of_the_next_authority(place, monkeypatch):
    """To issue certificates by it now would lock out whoever does not know it yet."""
    (old,) = certificates(place.ca_file)
    killed(monkeypatch, "_write_bundle", lambda: rotate(place))
    assert certificates(place.ca_file) == [old]
    assert ANNOUNCED in rotate(place)
    assert certificates(place.ca_file)[0] == old
    assert len(certificates(place.ca_file)) == 2
    rotate(place)
    assert is_replaced(place, old)


@pytest.mark.parametrize("at", ["_write_bundle", "renew", "renew_clients"])
def test_while_everything_is_issued_anew(place, monkeypatch, at):
    (old,) = certificates(place.ca_file)
    assert ANNOUNCED in rotate(place)
    killed(monkeypatch, at, lambda: rotate(place))
    assert ANNOUNCED not in rotate(place)
    assert is_replaced(place, old)


def test_while_the_old_one_is_taken_out(place, monkeypatch):
    (old,) = certificates(place.ca_file)
    for _ in range(2):
        rotate(place)
    later = datetime.now(UTC) + timedelta(hours=1)
    killed(monkeypatch, "_write_bundle", lambda: prune_authorities(place, later))
    assert prune_authorities(place, later)
    assert old not in certificates(place.ca_file)
    assert retired(place) == []
