"""The installation's own certificate authority, and the certificates that it issues to servers and clients of the bus.

ECDSA with P-256 and SHA-256 (RFC 5758), X.509 version 3 (RFC 5280). The authority vouches for this bus alone: clients name
it as ``ca_file`` and nothing else trusts it, so its names are not constrained.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestream.errors import ConfigError
from attestream.installation.files import PUBLIC, make_directory, read_secret, read_text, replace, write_new

AUTHORITY_DAYS: Final = 3653
CERTIFICATE_DAYS: Final = 397
"""Life of a server's or client's certificate; renewal is one command and disturbs nobody."""

Purpose = Literal["server", "client"]

_BACKDATED: Final = dt.timedelta(minutes=5)  # for clocks that are a little behind
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*\Z", re.ASCII)
_USAGES: Final = {
    # Servers of a cluster are clients of each other.
    "server": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
}


class Pair(NamedTuple):
    """Where a certificate and its private key are."""

    certificate: Path
    key: Path


class Authority:
    """The authority in a directory: ``ca.pem``, whose first certificate is its own, and ``ca.key``, which can be kept away
    from this machine."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory: Final = directory
        self.own: Final = self.pair(name)

    @property
    def server(self) -> Pair:
        """The certificate of the server on this machine."""
        return self.pair("server")

    def pair(self, name: str) -> Pair:
        """Return where a certificate of this authority is."""
        return Pair(self.directory / f"{name}.pem", self.directory / f"{name}.key")

    def make(self, name: str, now: dt.datetime) -> None:
        """Make the authority.

        :raises ConfigError: it exists.
        :raises OSError: it can not be written.
        """
        make_directory(self.directory)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_new(self.own.key, _private_pem(key))
        write_new(self.own.certificate, certificate.public_bytes(Encoding.PEM), PUBLIC)

    def issue(
        self,
        pair: Pair,
        name: str,
        hosts: Sequence[str],
        now: dt.datetime,
        *,
        purpose: Purpose = "server",
        again: bool = False,
    ) -> x509.Certificate:
        """Write a new key and its certificate for ``hosts``, over older ones only if ``again``.

        :raises ConfigError: the authority's key is not here, a host is none, or the files exist.
        :raises OSError: they can not be written.
        """
        authority, signer = self._load()
        if not again:
            for path in pair:
                if path.exists():
                    raise ConfigError(f"{path} exists already, and nothing is overwritten")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_name(name), authority.subject, key.public_key(), now, CERTIFICATE_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(_USAGES[purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
        certificate = builder.sign(signer, hashes.SHA256())
        # Key first: a server that starts in between sees a pair that does not match, and refuses.
        replace(pair.key, _private_pem(key))
        replace(pair.certificate, certificate.public_bytes(Encoding.PEM), PUBLIC)
        return certificate

    def _load(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        text = read_secret(self.own.key, "the certificate authority's key")
        certificate = load_certificate(self.own.certificate)
        try:
            key = load_pem_private_key(text.encode(), password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self.own.key} is not an unencrypted private key in PEM") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{self.own.key} is not the key of {self.own.certificate}")
        return certificate, key


def load_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file, the first of several.

    :raises ConfigError: it can not be read, or is none.
    """
    text = read_text(path, "a certificate")
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError as error:
        raise ConfigError(f"{path} is not a certificate in PEM") from error


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def check_host(host: str) -> str:
    """Return ``host`` if it can stand in a certificate.

    :raises ConfigError: it can not.
    """
    _general_name(host)
    return host


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST.match(host) or len(host) > 253:
            raise ConfigError(f"{host[:300]!r} is neither a host's name nor an IP address") from None
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Attestream"), x509.NameAttribute(NameOID.COMMON_NAME, text[:64])]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
