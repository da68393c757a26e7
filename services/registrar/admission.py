"""What an enrolment request must fulfil before it is worth a challenge. Pure: clock and trust store are arguments."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Final, Literal

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestream.errors import ConfigError, EnrolmentError, MalformedError, TooLargeError
from attestream.tpm.public import Public, check_attestation_key, check_endorsement_key, parse_public
from schemas.enrolment import MAX_CERTIFICATES, EnrolRequest
from schemas.subjects import AGENT_ID

MAX_PUBLIC_BYTES: Final = 768
"""Largest TPM2B_PUBLIC that is taken: RSA-4096 needs about 570 bytes. A page of 500 identities stays under 1 MiB."""

MAX_CERTIFICATE_BYTES: Final = 8192
TRANSPORT_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 32
MAX_STORE_FILE_BYTES: Final = 1_048_576

AcceptEk = Literal["any", "certificate"]


class Admitted(msgspec.Struct, frozen=True):
    """The claims of a request, checked."""

    ek: Public
    ak: Public
    ek_certificate: bytes
    """DER; empty when none was given."""
    ek_trust: str
    """As in :class:`schemas.enrolment.Identity`."""


class TrustStore:
    """CA certificates of TPM makers."""

    def __init__(self, certificates: list[x509.Certificate]) -> None:
        self._by_subject: dict[bytes, list[x509.Certificate]] = {}
        for certificate in certificates:
            self._by_subject.setdefault(certificate.subject.public_bytes(), []).append(certificate)

    @classmethod
    def from_directory(cls, path: Path) -> TrustStore:
        """Read every ``.pem``, ``.crt``, ``.cer`` and ``.der`` file of a directory, in PEM (one or more) or DER.

        :raises ConfigError: when the directory or a file can not be read, or a file is not a certificate.
        """
        certificates: list[x509.Certificate] = []
        try:
            for file in sorted(path.iterdir()):
                if file.suffix in (".pem", ".crt", ".cer", ".der"):
                    certificates += _read_certificates(file)
        except OSError as error:
            raise ConfigError(f"the store of TPM makers' certificates {path} can not be read: {error.strerror}") from error
        return cls(certificates)

    def vouches_for(self, certificate: x509.Certificate, now: dt.datetime) -> bool:
        """Whether a CA of the store signed ``certificate`` itself and both are valid at ``now`` (RFC 5280 section 6.1.3)."""
        return any(
            _is_authority(issuer) and _valid_at(issuer, now) and _valid_at(certificate, now) and _signed(certificate, issuer)
            for issuer in self._by_subject.get(certificate.issuer.public_bytes(), ())
        )


def admit(request: EnrolRequest, *, accept_ek: AcceptEk, store: TrustStore, now: int) -> Admitted:
    """Check the bounds and keys of a request.

    :param now: Unix time in milliseconds.
    :raises MalformedError: when a field is out of bounds or a key can not be parsed.
    :raises EnrolmentError: when a key has not the attributes of an EK or AK (TPM 2.0 Part 2, TPMA_OBJECT), a certificate is
        not of this EK, or nobody trusted vouches for the EK and ``accept_ek`` is ``certificate``.
    """
    _check_bounds(request)
    ek = parse_public(request.ek_public)
    check_endorsement_key(ek)
    ak = parse_public(request.ak_public)
    check_attestation_key(ak)
    own = request.ek_certificates[0] if request.ek_certificates else b""
    certificate = _certificate_of(ek, own) if own else None
    if accept_ek == "any":
        return Admitted(ek=ek, ak=ak, ek_certificate=own, ek_trust="accepted")
    if certificate is None:
        raise EnrolmentError(
            "an EK certificate is required, and the agent has sent none",
            remedy='Provision the TPM with its EK certificate, or set `accept_ek` of the registrar to "any".',
        )
    if not store.vouches_for(certificate, dt.datetime.fromtimestamp(now / 1000, dt.UTC)):
        raise EnrolmentError(
            "no certificate of the registrar's store has signed the EK certificate",
            remedy="Put the TPM maker's CA certificate into the directory `ek_store` of the registrar.",
        )
    return Admitted(ek=ek, ak=ak, ek_certificate=own, ek_trust="certificate")


def _check_bounds(request: EnrolRequest) -> None:
    if not AGENT_ID.match(request.agent_id):
        raise MalformedError("the agent id is not 1-80 characters of A-Z a-z 0-9 . _ -")
    if max(len(request.ek_public), len(request.ak_public)) > MAX_PUBLIC_BYTES:
        raise TooLargeError(f"a TPM2B_PUBLIC is larger than {MAX_PUBLIC_BYTES} bytes")
    if len(request.transport_key) != TRANSPORT_KEY_BYTES:
        raise MalformedError(f"the transport key has not {TRANSPORT_KEY_BYTES} bytes")
    if len(request.nonce) != NONCE_BYTES:
        raise MalformedError(f"the nonce has not {NONCE_BYTES} bytes")
    if len(request.ek_certificates) > MAX_CERTIFICATES:
        raise TooLargeError(f"more than {MAX_CERTIFICATES} EK certificates")
    if any(len(certificate) > MAX_CERTIFICATE_BYTES for certificate in request.ek_certificates):
        raise TooLargeError(f"an EK certificate is larger than {MAX_CERTIFICATE_BYTES} bytes")


def _certificate_of(ek: Public, der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        certified = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentError("the EK certificate can not be parsed") from error
    if certified != ek.key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise EnrolmentError("the EK certificate is of another key than the EK")
    return certificate


def _read_certificates(file: Path) -> list[x509.Certificate]:
    with file.open("rb") as opened:
        data = opened.read(MAX_STORE_FILE_BYTES + 1)
    if len(data) > MAX_STORE_FILE_BYTES:
        raise ConfigError(f"{file} is larger than {MAX_STORE_FILE_BYTES} bytes: not a certificate")
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificates(data)
        return [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        raise ConfigError(f"{file} is not a certificate in PEM or DER") from error


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _valid_at(certificate: x509.Certificate, now: dt.datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
