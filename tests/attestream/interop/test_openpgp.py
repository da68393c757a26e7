"""Detached OpenPGP signatures, made by GnuPG."""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.errors import MalformedError
from attestream.interop.openpgp import ARMOUR, verify_openpgp
from attestream.interop.policy_signature import verify_detached

BODY = b'{"a": 1}\n'


def gpg(home: str, *arguments: str, stdin: bytes = b"") -> bytes:
    command = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


@pytest.fixture(scope="module", params=["ed25519", "rsa2048"])
def made(request) -> Iterator[tuple[bytes, bytes]]:
    """A key block and a signature over :data:`BODY`."""
    if shutil.which("gpg") is None:
        pytest.skip("needs gpg")
    # The agent's socket needs a short path.
    home = tempfile.mkdtemp()
    try:
        gpg(home, "--quick-generate-key", "signer@example.org", request.param, "sign", "never")
        key = gpg(home, "--armor", "--export")
        yield key, gpg(home, "--digest-algo", "SHA256", "--detach-sign", stdin=BODY)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=False)
        shutil.rmtree(Path(home), ignore_errors=True)


def test_a_signature_is_over_one_document_by_one_key(made):
    key, signature = made
    assert verify_detached(key, signature, BODY)
    assert not verify_detached(key, signature, BODY + b" ")
    assert not verify_detached(key, b"This is not a valid signature!\n", BODY)
    assert not verify_detached(key.replace(ARMOUR, b"-----BEGIN PUBLIC KEY-----"), signature, BODY)


def test_every_altered_byte_that_is_signed_shows(made):
    key, signature = made
    accepted = [
        place
        for place in range(len(signature))
        if verify_detached(key, signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :], BODY)
    ]
    # Only the part that is not hashed, the issuer's id and the digest's first bytes, may change: 2 + 10 + 2 bytes.
    assert len(accepted) <= 14


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data):
    block = ARMOUR + b"\n\n" + base64.b64encode(data) + b"\n-----END PGP PUBLIC KEY BLOCK-----\n"
    for key, signature in ((block, data), (ARMOUR + data, data)):
        with pytest.raises(MalformedError):
            verify_openpgp(key, signature, BODY)
