"""What the scanner finds, and what it lets pass. Every secret here is made while the test runs."""

import base64
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestream.credentials.nkey import Kind, NKey
from attestream.credentials.token import user_token
from devtools.audit.secrets import forms, scan

KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}


def kinds(data):
    return {secret.kind for secret in scan(data)}


@pytest.mark.parametrize("name", KEYS)
def test_a_private_key_is_found_in_each_form(name):
    der = KEYS[name].private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = KEYS[name].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert "private key" in kinds(b"text\n" + pem)
    assert "private key" in kinds(pem.replace(b"\n", b"\\n"))
    assert "private key in DER" in kinds(b"\x00" + der)
    assert "private key in hex" in kinds(b"x = " + der.hex().encode())
    assert "private key in base64" in kinds(b"key: " + base64.b64encode(der))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_seed_is_found_by_its_checksum(kind):
    seed = NKey.generate(kind).seed
    assert kinds(f"here: {seed}\n".encode()) == {"bus seed"}
    changed = seed[:-1] + ("A" if seed[-1] != "A" else "B")
    assert kinds(f"here: {changed}\n".encode()) == set()


def test_a_token_of_the_bus_is_found():
    issuer, user = NKey.generate(Kind.ACCOUNT), NKey.generate(Kind.USER)
    token = user_token(issuer, user.public, "me", account=issuer.public, now=1, expires_at=0, tags=[])
    assert kinds(f"token {token}".encode()) == {"bus token"}


def test_values_of_secret_names_are_judged_by_their_entropy():
    value = base64.b64encode(secrets.token_bytes(30)).decode()
    for line in (f'password = "{value}1"', f'"client_secret": "{value}1"', f"API_KEY: '{value}1'", f'token=b"{value}1"'):
        assert kinds(line.encode()) == {"value of a secret's name"}, line
    for line in (
        'password = "the-password-of-a-test"',
        'secret_file = "keys/cluster.secret"',
        'token = "aaaaaaaaaaaaaaaaaaaaa1"',
    ):
        assert kinds(line.encode()) == set(), line


def test_a_password_in_a_url_is_found():
    assert kinds(b"postgresql://me:" + secrets.token_hex(8).encode() + b"@host/db") == {"password in a URL"}
    assert kinds(b"postgresql://USER:PASSWORD@HOST/NAME nats://127.0.0.1:4222 f'{a}://{b}:{c}@x'") == set()


def test_the_line_is_told_and_the_value_is_not():
    seed = NKey.generate(Kind.USER).seed
    [found] = scan(f"\n\n{seed}\n".encode())
    assert str(found) == "line 3: bus seed"


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
def test_a_secret_is_seen_inside_of_what_is_encoded(before, after):
    secret = secrets.token_bytes(32)
    whole = secrets.token_bytes(before) + secret + secrets.token_bytes(after)
    for shown in (
        whole,
        repr(whole).encode(),
        whole.hex().encode(),
        base64.b64encode(whole),
        base64.urlsafe_b64encode(whole),
    ):
        assert any(form in shown for form in forms(secret)), shown
