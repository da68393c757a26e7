"""The maker's device identity: finds the IAK and the IDevID of the machine, and has the IAK vouch for the AK."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_PUBLIC, TPM2B_SENSITIVE_CREATE, TSS2_Exception

from attestream.config import AgentConfig
from attestream.errors import ConfigError, MalformedError, TpmError
from attestream.pki.certificate import Certificate, parse_certificate
from attestream.pki.signatures import certified_key, is_of
from attestream.pki.trust_store import read_certificates
from attestream.tpm.public import parse_public
from schemas.enrolment import MAX_CERTIFICATES, DeviceIdentity, EnrolRequest, certified_data
from services.agent.device_templates import HANDLES, IAK, IDEVID, Role, templates
from services.agent.tpm_device import KeyLostError, TpmDevice
from services.agent.tpm_nv import MAX_BYTES, certificates, handles
from services.agent.tpm_objects import SavedContext, flush
from services.agent.tpm_transport import refused_for_good

MAX_HANDLES: Final = 16
"""Persistent keys that are looked at."""
_MAX_PASSWORD: Final = 64
"""Bytes: the digest of the largest hash, which is what a TPM2B_AUTH can hold."""

_log = logging.getLogger(__name__)


class DeviceIdentityError(TpmError):
    """The device identity that is required can not be shown."""

    remedy = 'See docs/device-identity.md; `[agent] device_identity = "auto"` enrols without one.'
    permanent = True


class DeviceKey(msgspec.Struct, frozen=True):
    """A key of the device's identity that the TPM has."""

    public: bytes
    """TPM2B_PUBLIC."""
    certificates: list[bytes]
    """DER, its own first, then those of CAs that stand beside it."""
    handle: int = 0
    """Persistent handle; 0: it is derived."""
    template: bytes = b""
    """TPM2B_PUBLIC that it is derived from."""


class DeviceKeys:
    """The keys of one machine's device identity. They are looked for once; all calls block.

    :raises ConfigError: when a file that is configured can not be used.
    """

    def __init__(self, tpm: TpmDevice, config: AgentConfig) -> None:
        self._tpm = tpm
        self._mode = config.device_identity
        self._wanted = self._mode != "off"
        files = {IAK.name: config.iak_certificate, IDEVID.name: config.idevid_certificate} if self._wanted else {}
        self._given = {name: _from_file(path) for name, path in files.items() if path is not None}
        self._handles = {IAK.name: config.iak_handle, IDEVID.name: config.idevid_handle}
        self._password = _password(config.iak_password_file) if self._wanted else b""
        self._found: tuple[DeviceKey, DeviceKey | None] | None = None
        self._saved = SavedContext()

    def prove(self, request: EnrolRequest) -> DeviceIdentity | None:
        """Return the device identity with the IAK's word for the AK, bound to ``request``; None without one.

        What the TPM refuses for good is not asked for again by this process: wrong passwords would lock the TPM.

        :raises DeviceIdentityError: when one is required and can not be shown.
        :raises KeyLostError: when there is no AK, or the TPM does not load it any more.
        :raises TpmError: when the TPM is busy or away.
        """
        if not self._wanted:
            return None
        try:
            self._found = self._found or self._tpm.perform("look for the device identity", self._find)
            if self._found is None:
                self._go_without("the TPM has no IAK certificate in its NV memory", logging.INFO)
                return None
            iak, idevid = self._found
            attest, signature = self._tpm.certify(lambda tpm: self._loaded(tpm, iak), certified_data(request))
        except KeyLostError:
            raise
        except TpmError as error:
            if not error.permanent:
                raise
            self._go_without(error.message, logging.WARNING)
            return None
        return DeviceIdentity(
            iak_public=iak.public,
            iak_certificates=iak.certificates,
            attest=attest,
            signature=signature,
            idevid_public=idevid.public if idevid else b"",
            idevid_certificates=idevid.certificates if idevid else [],
        )

    def _go_without(self, why: str, level: int) -> None:
        """:raises DeviceIdentityError: where one is required."""
        if self._mode == "required":
            raise DeviceIdentityError(f"the device identity can not be shown: {why}")
        self._wanted = False
        _log.log(level, "enrolling without a device identity: %s", why)

    def _find(self, tpm: ESAPI) -> tuple[DeviceKey, DeviceKey | None] | None:
        iak = self._key(tpm, IAK)
        if iak is None:
            return None
        idevid = None
        try:
            idevid = self._key(tpm, IDEVID)
        except DeviceIdentityError as error:
            if IDEVID.name in self._given or self._handles[IDEVID.name]:
                raise
            _log.warning("the IAK is shown without an IDevID: %s", error.message)
        _log.info("the machine has a device identity: IAK%s", " and IDevID" if idevid else "")
        return iak, idevid

    def _key(self, tpm: ESAPI, role: Role) -> DeviceKey | None:
        """Return the key that a certificate is of; None when there is no certificate.

        :raises DeviceIdentityError: when the TPM does not have the key.
        """
        found = self._given.get(role.name) or list(_parsed(certificates(tpm, role.certificates)))
        if not found:
            return None
        issuers = [one for one in found if one.extensions.authority]
        own = [one for one in found if not one.extensions.authority] or found[:1]
        wanted = self._handles[role.name]
        persistent = [int(wanted, 16)] if wanted else handles(tpm, HANDLES)[:MAX_HANDLES]
        for certificate in own:
            chain = [one.der for one in (certificate, *issuers)][:MAX_CERTIFICATES]
            for handle in persistent:
                if _matches(certificate, public := _public_of(tpm, handle)):
                    return DeviceKey(public, chain, handle=handle)
            if not wanted:
                for template in _templates(role, certificate):
                    if _matches(certificate, public := _derived(tpm, template)):
                        return DeviceKey(public, chain, template=template.marshal())
        subjects = "; ".join(one.subject.text() for one in own)
        where = f"at handle {wanted}" if wanted else "at the handles of device identities or from the TCG's templates"
        raise DeviceIdentityError(f"the key of the {role.name} certificate ({subjects}) is not {where} of this TPM")

    @contextlib.contextmanager
    def _loaded(self, tpm: ESAPI, key: DeviceKey) -> Iterator[ESYS_TR]:
        if key.handle:
            handle = tpm.tr_from_tpmpublic(key.handle)
            tpm.tr_set_auth(handle, self._password)
            yield handle
            return
        handle = self._saved.load(tpm) or self._derive(tpm, key)
        try:
            yield handle
        finally:
            flush(tpm, handle)

    def _derive(self, tpm: ESAPI, key: DeviceKey) -> ESYS_TR:
        template, _ = TPM2B_PUBLIC.unmarshal(key.template)
        handle, *_ = tpm.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
        self._saved.save(tpm, handle)
        return handle


def _public_of(tpm: ESAPI, handle: int) -> bytes:
    """Return the TPM2B_PUBLIC of a persistent key; nothing when there is none."""
    try:
        public, *_ = tpm.read_public(tpm.tr_from_tpmpublic(handle))
    except TSS2_Exception as error:
        if not refused_for_good(error):
            raise
        return b""
    return bytes(public.marshal())


def _derived(tpm: ESAPI, template: TPM2B_PUBLIC) -> bytes:
    """Return the TPM2B_PUBLIC of the key that the TPM derives from a template; nothing when it knows no such keys."""
    try:
        handle, public, *_ = tpm.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
    except TSS2_Exception as error:
        if not refused_for_good(error) or not error.fmt1:
            raise
        return b""
    flush(tpm, handle)
    return bytes(public.marshal())


def _templates(role: Role, certificate: Certificate) -> Iterator[TPM2B_PUBLIC]:
    with contextlib.suppress(MalformedError):  # a key of a kind that no TPM has
        key = certified_key(certificate)
        yield from templates(role, "rsa" if isinstance(key, rsa.RSAPublicKey) else "ecc", key.key_size)


def _matches(certificate: Certificate, public: bytes) -> bool:
    if not public:
        return False
    try:
        return is_of(certificate, parse_public(public).key())
    except MalformedError:
        return False  # a key of another kind, such as a storage key that somebody put there


def _parsed(items: list[bytes]) -> Iterator[Certificate]:
    """Return the certificates among what NV memory holds; what is none is passed over."""
    for item in items:
        with contextlib.suppress(MalformedError):
            yield parse_certificate(item)


def _from_file(path: Path) -> list[Certificate]:
    try:
        return read_certificates(_content(path, MAX_BYTES))
    except MalformedError as error:
        raise ConfigError(f"{path} is not a certificate in PEM or DER: {error.message}") from error


def _password(path: Path | None) -> bytes:
    return _content(path, _MAX_PASSWORD).rstrip(b"\r\n") if path else b""


def _content(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path} can not be read: {error.strerror}") from error
    if len(data) > limit:
        raise ConfigError(f"{path} is larger than {limit} bytes")
    return data
