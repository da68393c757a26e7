"""A small certificate authority for tests and demonstrations: chains as TPM makers issue them, and ones that are wrong."""

from __future__ import annotations

import datetime as dt
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from attestream.pki.der import BIT_STRING, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, Notes, Reader

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

EK_PURPOSE: Final = "2.23.133.8.1"
TPM_HARDWARE: Final = "2.23.133.1.2"
DEVICE_POLICIES: Final = {
    "IAK": ("2.23.133.11.1.1", "2.23.133.11.1.3"),
    "IDevID": ("2.23.133.11.1.1", "2.23.133.11.1.2"),
}
"""What the TCG has makers say of each key: verifiedTPMResidency, and verifiedTPMRestricted or verifiedTPMFixed."""
FOR_EVER: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
"""The end of a certificate that has none (RFC 5280 section 4.1.2.5)."""

ONE_SET: Final = x509.Name(
    [
        x509.RelativeDistinguishedName(
            [x509.NameAttribute(NameOID.COUNTRY_NAME, "TW"), x509.NameAttribute(NameOID.COMMON_NAME, "Root")]
        )
    ]
)
"""A name whose attributes stand in one SET, see :func:`unsorted`."""
_COUNTRY: Final = bytes.fromhex("3009060355040613025457")
_COMMON: Final = bytes.fromhex("300b06035504030c04526f6f74")


def common_name(text: str) -> x509.Name:
    """Return the name CN=``text``; the empty name for the empty text."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def tpm_name(manufacturer: str = "id:41545331", model: str = "Soft", version: str = "id:00010002") -> x509.DirectoryName:
    """Return the directory name that the TCG EK Credential Profile asks for."""
    values = {"2.23.133.2.1": manufacturer, "2.23.133.2.2": model, "2.23.133.2.3": version}
    return x509.DirectoryName(
        x509.Name(
            [
                x509.RelativeDistinguishedName([x509.NameAttribute(ObjectIdentifier(oid), text)])
                for oid, text in values.items()
            ]
        )
    )


def hardware_module(kind: str, serial: bytes) -> x509.OtherName:
    """Return the HardwareModuleName (RFC 4108 section 5) with hwType ``kind``."""
    first, second, *arcs = (int(arc) for arc in kind.split("."))
    content = b"".join(map(_arc, (40 * first + second, *arcs)))
    module = _value(OBJECT_IDENTIFIER, content) + _value(OCTET_STRING, serial)
    return x509.OtherName(ObjectIdentifier("1.3.6.1.5.5.7.8.4"), _value(SEQUENCE, module))


def key_usage(*, sign: bool = False, issue: bool = False, encipher: bool = False, agree: bool = False) -> x509.KeyUsage:
    """Return a KeyUsage with few bits."""
    return x509.KeyUsage(sign, False, encipher, False, agree, issue, False, False, False)


class Authority:
    """A CA: a key, a name, a certificate."""

    def __init__(
        self,
        name: str | x509.Name,
        *,
        now: int,
        parent: Authority | None = None,
        key: PrivateKey | None = None,
        authority: bool | None = True,
        path_length: int | None = None,
        usage: x509.KeyUsage | None = None,
        days: tuple[float, float] = (-1000, 1000),
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        digest: Digest | None = None,
    ) -> None:
        """:param now: Unix time in milliseconds, around which certificates are valid.
        :param parent: who signs it; None for itself.
        :param authority: the CA flag; None for no basic constraints at all.
        :param days: validity, from and to, relative to ``now``.
        """
        self.now = now
        self.name = name if isinstance(name, x509.Name) else common_name(name)
        self.key: PrivateKey = key or ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = list(extra)
        if authority is not None:
            extensions.append((x509.BasicConstraints(ca=authority, path_length=path_length if authority else None), True))
        if usage is not None:
            extensions.append((usage, True))
        extensions.append((x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False))
        issuer = parent or self
        self.certificate = issuer.sign(
            self.name, self.key.public_key(), days=days, extensions=tuple(extensions), digest=digest
        )

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    def sign(
        self,
        subject: x509.Name,
        public: PublicKey,
        *,
        days: tuple[float, float | None] = (-10, 10),
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        digest: Digest | None = None,
        issuer: str | None = None,
        pss: bool = False,
    ) -> x509.Certificate:
        """Return a certificate of any kind.

        :param days: validity, from and to, relative to ``now``; without an end for None.
        :param issuer: another issuer name than the CA's own.
        """
        moment = dt.datetime.fromtimestamp(self.now / 1000, dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name if issuer is None else common_name(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment + dt.timedelta(days=days[0]))
            .not_valid_after(FOR_EVER if days[1] is None else moment + dt.timedelta(days=days[1]))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        digest = digest or hashes.SHA256()
        if pss:
            scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
            return builder.sign(self.key, digest, rsa_padding=scheme)
        return builder.sign(self.key, digest)

    def endorse(
        self,
        public: PublicKey,
        *,
        days: tuple[float, float] = (-10, 10),
        purpose: str = EK_PURPOSE,
        alternative: x509.GeneralName | None = None,
        usage: x509.KeyUsage | None = None,
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
        digest: Digest | None = None,
        issuer: str | None = None,
        pss: bool = False,
    ) -> bytes:
        """Return an EK certificate in DER, in everything as the TCG EK Credential Profile says unless told otherwise."""
        is_rsa = isinstance(public, rsa.RSAPublicKey)
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectAlternativeName([alternative or tpm_name()]), True),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage or key_usage(encipher=is_rsa, agree=not is_rsa), True),
            *extra,
        ]
        if purpose:
            extensions.append((x509.ExtendedKeyUsage([ObjectIdentifier(purpose)]), False))
        made = self.sign(
            x509.Name([]), public, days=days, extensions=tuple(extensions), digest=digest, issuer=issuer, pss=pss
        )
        return made.public_bytes(Encoding.DER)

    def identify(
        self,
        role: str,
        public: PublicKey,
        *,
        serial: str = "1234",
        subject: x509.Name | None = None,
        hardware: str = TPM_HARDWARE,
        policies: tuple[str, ...] | None = None,
        purposes: tuple[str, ...] = (),
        usage: x509.KeyUsage | None = None,
        days: tuple[float, float] | None = None,
    ) -> bytes:
        """Return the certificate of an ``IAK`` or ``IDevID`` in DER, as the TCG says unless told otherwise.

        :param serial: of the device, and of its TPM.
        :param hardware: hwType of the HardwareModuleName; none for the empty text.
        :param days: validity; None: without an end.
        """
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (usage or key_usage(sign=True), True),
        ]
        if hardware:
            module = hardware_module(hardware, serial.encode())
            extensions.append((x509.SubjectAlternativeName([module]), False))
        if said := DEVICE_POLICIES[role] if policies is None else policies:
            texts = ["https://ca.example/policy"]
            information = [x509.PolicyInformation(ObjectIdentifier(oid), texts) for oid in said]
            extensions.append((x509.CertificatePolicies(information), False))
        if purposes:
            extensions.append((x509.ExtendedKeyUsage(list(map(ObjectIdentifier, purposes))), False))
        device = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "Server"), x509.NameAttribute(NameOID.SERIAL_NUMBER, serial)]
        )
        made = self.sign(subject or device, public, days=days or (-10, None), extensions=tuple(extensions))
        return made.public_bytes(Encoding.DER)


def resigned(der: bytes, key: PrivateKey, old: bytes, new: bytes, digest: hashes.HashAlgorithm | None = None) -> bytes:
    """Return the certificate ``der`` with ``old`` replaced by ``new`` everywhere, signed anew: what no library would make.

    :param new: as long as ``old``, so that no length changes.
    """
    if len(old) != len(new) or old not in der:
        raise ValueError("the bytes must be there, and keep their length")
    tbs = x509.load_der_x509_certificate(der).tbs_certificate_bytes.replace(old, new)
    digest = digest or hashes.SHA256()
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(tbs, padding.PKCS1v15(), digest)
    else:
        signature = key.sign(tbs, ec.ECDSA(digest))
    outer = Reader(Reader(der, Notes()).take(SEQUENCE).content, Notes())
    outer.take(SEQUENCE)
    scheme = outer.take(SEQUENCE).raw.replace(old, new)
    return _value(SEQUENCE, tbs + scheme + _value(BIT_STRING, b"\0" + signature))


def unsorted(der: bytes, key: PrivateKey) -> bytes:
    """Return a certificate in which :data:`ONE_SET` stands out of order, signed anew: as Nuvoton's roots do."""
    return resigned(der, key, _COUNTRY + _COMMON, _COMMON + _COUNTRY)


def _arc(number: int) -> bytes:
    content = bytes([number & 0x7F])
    while number := number >> 7:
        content = bytes([0x80 | number & 0x7F]) + content
    return content


def _value(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
