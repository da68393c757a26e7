"""Targets that read keys and certificates, and what an agent finds on its machine."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization.pkcs7 import PKCS7Options, PKCS7SignatureBuilder

from attestream.bus.delivery import parse_ack_subject
from attestream.clock import unix_ms
from attestream.ima.digests import digest_field
from attestream.ima.keys import KeyRing, SigningKey, load_key
from attestream.ima.modsig import verify_appended
from attestream.pki.device_identity import judge_device_key, judge_same_device
from attestream.pki.endorsement import judge_endorsement
from attestream.pki.profile import PERMISSIVE
from attestream.pki.trust_store import TrustStore, read_certificates
from attestream.uefi import kinds
from attestream.uefi.ccel import draw_rtmr_claims, replay_rtmrs
from attestream.uefi.parser import parse_log
from devtools import ima_log
from devtools.boot_log import BootLog
from devtools.certificates import Authority
from fuzz.target import Target
from services.agent.identity import FILE_NAME, Identity, load, store
from services.agent.ima_log import ImaLog
from services.agent.tpm_nv import split_der

_NOW: Final = unix_ms()
_ROOT: Final = Authority("Maker CA", now=_NOW)
_STORE: Final = TrustStore.of([_ROOT.der])
_KEY: Final = ec.generate_private_key(ec.SECP256R1())
_CONTENT: Final = b"a kernel module"
_NV_INDEX: Final = 700
"""Bytes in the first index, so that a certificate runs over into the next."""
_ACK: Final = b"$JS.ACK.EVENTS.c.1.2.3.1700000000000000000.5"


def _issued() -> list[bytes]:
    public = _KEY.public_key()
    return [_ROOT.endorse(public), _ROOT.identify("IAK", public), _ROOT.der]


def _keys() -> list[bytes]:
    public = _KEY.public_key()
    forms = [public.public_bytes(form, PublicFormat.SubjectPublicKeyInfo) for form in (Encoding.DER, Encoding.PEM)]
    return [_ROOT.der, *forms, _KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]


def _endorsement(data: bytes) -> object:
    chain = [data, _ROOT.der]
    return (
        judge_endorsement(chain, _STORE, profile=PERMISSIVE, now=_NOW, key=_KEY.public_key()),
        judge_device_key("IAK", chain, _STORE, profile=PERMISSIVE, now=_NOW, key=_KEY.public_key()),
        judge_same_device(chain, [_ROOT.der]),
    )


def _appended(data: bytes) -> object:
    digest = digest_field("sha256", hashlib.sha256(_CONTENT).digest())
    return verify_appended(data, digest, KeyRing([SigningKey(_KEY.public_key())]), ("sha256",))


def _appended_signatures() -> list[bytes]:
    signer = PKCS7SignatureBuilder().set_data(_CONTENT)
    signer = signer.add_signer(x509.load_der_x509_certificate(_ROOT.der), _ROOT.key, hashes.SHA256())
    options = (PKCS7Options.DetachedSignature, PKCS7Options.Binary)
    return [signer.sign(Encoding.DER, [*options, *more]) for more in ((), (PKCS7Options.NoAttributes, PKCS7Options.NoCerts))]


def _registers(data: bytes) -> object:
    log = parse_log(data)
    return draw_rtmr_claims(log, dict(enumerate(replay_rtmrs(log))))


def _tdx_logs() -> list[bytes]:
    log = BootLog(("sha384",), header_pcr=1)
    log.add(1, kinds.SEPARATOR, bytes(4))
    log.add(3, kinds.IPL, b"kernel_cmdline: quiet\0", measured=b"quiet")
    return [bytes(log)]


def _kernel_log(data: bytes) -> object:
    """Follow a log that grows by a half at a time, and read all of it."""
    with tempfile.TemporaryDirectory(prefix="attestream-fuzz-") as name:
        path = Path(name, "log")
        found = []
        for ascii_form in (False, True):
            log = ImaLog(path, ascii_form=ascii_form)
            for end in (len(data) // 2, len(data)):
                path.write_bytes(data[:end])
                found.append(log.read(0, 1 << 20))
        return found


def _kernel_logs() -> list[bytes]:
    records = [
        ima_log.record("/usr/bin/ls", b"d" * 32),
        ima_log.record("/bin/sh", b"s" * 20, hash_name="sha1", template="ima"),
    ]
    return [b"".join(one.binary for one in records), "".join(one.ascii + "\n" for one in records).encode()]


def _nv_certificates(data: bytes) -> object:
    return list(split_der([data[:_NV_INDEX], data[_NV_INDEX:]]))


def _identity(data: bytes) -> object:
    with tempfile.TemporaryDirectory(prefix="attestream-fuzz-") as name:
        Path(name, FILE_NAME).write_bytes(data)
        return load(Path(name), "").transport_digest


def _identities() -> list[bytes]:
    with tempfile.TemporaryDirectory(prefix="attestream-fuzz-") as name:
        store(Path(name), Identity(agent_id="a", transport_private=bytes(range(32)), enrolment=1, ak_public=b"ak"))
        return [Path(name, FILE_NAME).read_bytes()]


def _pems() -> list[bytes]:
    pem = x509.load_der_x509_certificate(_ROOT.der).public_bytes(Encoding.PEM)
    return [b"the maker's\n" + pem + pem, _ROOT.der]


IDENTITY: Final = (
    Target("signing_key", load_key, _keys),
    Target("appended_signature", _appended, _appended_signatures),
    Target("certificates", read_certificates, _pems),
    Target("endorsement", _endorsement, _issued),
    Target("tdx_log", _registers, _tdx_logs),
    Target(
        "nv_certificates",
        lambda data: list(split_der([data[:700], data[700:]])),
        lambda: [b"".join(_issued()) + b"\xff" * 40],
    ),
    Target("kernel_log", _kernel_log, _kernel_logs, 4 << 20),
    Target("agent_identity", _identity, _identities),
    Target(
        "ack_subject",
        lambda data: parse_ack_subject(data.decode("latin-1")),
        lambda: [b"$JS.ACK.EVENTS.c.1.2.3.1700000000000000000.5"],
    ),
)
"""Every parser of keys and certificates besides that of one certificate, and of what an agent reads."""
