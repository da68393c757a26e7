"""The machine's TPM: its keys, quotes and PCRs, through TSS2 and any TCTI.

Each operation opens the TPM, does its work, flushes what it loaded and closes it again: another program may want the TPM
between two of ours, and swtpm serves one connection at a time. All calls block: run them in a thread, not in the event loop.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TSS2_Exception,
)
from tpm2_pytss.utils import NVReadEK, create_ek_template

from attestream.errors import MalformedError, TpmError
from services.agent import tpm_pcrs
from services.agent.private_file import read_private, write_private
from services.agent.tpm_nv import ek_certificates
from services.agent.tpm_objects import SavedContext, flush, storage_primary
from services.agent.tpm_pcrs import Banks
from services.agent.tpm_sealed import seal, unseal
from services.agent.tpm_templates import EK_KINDS, attestation_key, attestation_kind, endorsement_kind
from services.agent.tpm_transport import Transport, refused_for_good

_log = logging.getLogger(__name__)

_T = TypeVar("_T")
_KEY_FILE_LIMIT: Final = 16_384


class KeyLostError(TpmError):
    """The TPM does not load the AK that it made: it was cleared or replaced."""

    remedy = "Restart the agent: it makes a new AK and enrols it."
    permanent = True


class StoredKey(msgspec.Struct, frozen=True):
    """The AK as it is kept in the data directory: both blobs are useless outside their TPM."""

    kind: tuple[str, str]
    public: bytes
    private: bytes


class EndorsementKey(msgspec.Struct, frozen=True):
    """The EK's public part and what its manufacturer says of it."""

    public: bytes
    """TPM2B_PUBLIC."""
    certificates: list[bytes]


class TpmDevice:
    """A TPM behind a TCTI string such as ``device:/dev/tpmrm0`` or ``swtpm:host=127.0.0.1,port=2321``.

    :param data_dir: where the AK's blobs are kept (file ``ak.key``, mode 0600).
    :param ek: ``rsa2048`` or ``p256``.
    :param ak: ``rsa2048`` or ``p256``.
    :param ak_scheme: ``rsassa`` or ``rsapss``, ``ecdsa``; empty: the first that fits. The hash is SHA-256 in each case.
    :param busy_s: how long a TPM that is busy or away is waited for, in seconds.
    :raises ConfigError: on an unknown kind of key.
    """

    def __init__(
        self,
        tcti: str,
        data_dir: Path,
        *,
        ek: str = "rsa2048",
        ak: str = "rsa2048",
        ak_scheme: str = "",
        busy_s: float = 5.0,
    ) -> None:
        self._ek_kind = endorsement_kind(ek)
        self._ak_kind = attestation_kind(ak, ak_scheme)
        self._transport = Transport(tcti, busy_s=busy_s)
        self._key_file = data_dir / "ak.key"
        self._stored: StoredKey | None = None
        self._saved = SavedContext()

    def endorsement_key(self) -> EndorsementKey:
        """Derive the EK and read its certificates.

        :raises TpmError: when the TPM refuses or can not be reached.
        """

        def derive(tpm: ESAPI) -> EndorsementKey:
            with self._endorsement(tpm) as (_, public):
                return EndorsementKey(public=public.marshal(), certificates=ek_certificates(tpm, self._ek_kind))

        return self._transport.run("derive the EK", derive)

    def attestation_key(self) -> bytes:
        """Return the AK's TPM2B_PUBLIC. A new AK is made only when there is none that this TPM can load.

        :raises TpmError: when the TPM refuses or can not be reached.
        :raises ConfigError: when the data directory can not be used.
        """

        def public(tpm: ESAPI) -> bytes:
            handle = self._saved.load(tpm) or self._from_file(tpm) or self._make(tpm)
            flush(tpm, handle)
            return self._stored.public if self._stored else b""

        return self._transport.run("load the AK", public)

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        """Return what was sealed to this TPM's EK and AK (TPM2_ActivateCredential, TPM 2.0 Part 3, section 12.5).

        :param credential: TPM2B_ID_OBJECT; :param secret: TPM2B_ENCRYPTED_SECRET.
        :raises MalformedError: when one of them is not such a structure.
        :raises KeyLostError: when there is no AK, or the TPM does not load it any more.
        :raises TpmError: when they were made for other keys, or the TPM can not be reached.
        """
        try:
            blob, used = TPM2B_ID_OBJECT.unmarshal(credential)
            seed, used_seed = TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
        except TSS2_Exception as error:
            raise MalformedError("the registrar's credential is not a TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET") from error
        if used != len(credential) or used_seed != len(secret):
            raise MalformedError("the registrar's credential is followed by more bytes")

        def activate(tpm: ESAPI) -> bytes:
            with self._attestation(tpm) as ak, self._endorsement(tpm) as (ek, _), _endorsement_session(tpm) as session:
                return bytes(tpm.activate_credential(ak, ek, blob, seed, session1=ESYS_TR.PASSWORD, session2=session))

        return self._transport.run("activate the credential", activate)

    def certify(self, signer: Callable[[ESAPI], AbstractContextManager[ESYS_TR]], qualifying: bytes) -> tuple[bytes, bytes]:
        """Return TPMS_ATTEST and TPMT_SIGNATURE: another key of this TPM vouches for the AK (TPM2_Certify, TPM 2.0 Part 3,
        section 18.2).

        :param signer: has that key loaded while a block runs.
        :raises KeyLostError: when there is no AK, or the TPM does not load it any more.
        :raises TpmError: when the TPM refuses or can not be reached.
        """

        def certify(tpm: ESAPI) -> tuple[bytes, bytes]:
            with self._attestation(tpm) as ak, signer(tpm) as key:
                attest, signature = tpm.certify(ak, key, qualifying, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL))
                return bytes(attest), bytes(signature.marshal())

        return self._transport.run("certify the AK", certify)

    def perform(self, what: str, operation: Callable[[ESAPI], _T]) -> _T:
        """Do ``operation`` on the opened TPM.

        :param what: for messages, as in "the TPM can not ``what``".
        :raises TpmError: when the TPM refuses or can not be reached.
        """
        return self._transport.run(what, operation)

    def quote(self, qualifying: bytes, banks: Banks) -> tuple[bytes, bytes]:
        """Return TPMS_ATTEST and TPMT_SIGNATURE of a quote by the AK over ``banks`` (bank -> PCR indexes).

        :raises KeyLostError: when there is no AK, or the TPM does not load it any more.
        :raises TpmError: when the TPM refuses or can not be reached.
        """
        selection = tpm_pcrs.selection(banks)

        def quote(tpm: ESAPI) -> tuple[bytes, bytes]:
            with self._attestation(tpm) as ak:
                attest, signature = tpm.quote(ak, selection, qualifying)
                return bytes(attest), bytes(signature.marshal())

        return self._transport.run("quote", quote)

    def read_pcrs(self, banks: Banks) -> dict[str, dict[int, bytes]]:
        """Return the values of ``banks`` (bank -> PCR indexes); a bank or PCR that the TPM does not have is left out.

        :raises TpmError: when the TPM refuses or can not be reached.
        """

        return self._transport.run("read PCRs", lambda tpm: tpm_pcrs.read(tpm, banks))

    def seal(self, secret: bytes) -> bytes:
        """Return a small secret as a blob that only this TPM opens (:mod:`services.agent.tpm_sealed`).

        :raises TpmError: when the TPM refuses or can not be reached.
        """
        return self._transport.run("seal", lambda tpm: seal(tpm, secret))

    def unseal(self, blob: bytes) -> bytes | None:
        """Return what was sealed, or None when another TPM has sealed it.

        :raises MalformedError: when it is no such blob.
        :raises TpmError: when the TPM refuses or can not be reached.
        """
        return self._transport.run("unseal", lambda tpm: unseal(tpm, blob))

    @contextlib.contextmanager
    def _endorsement(self, tpm: ESAPI) -> Iterator[tuple[ESYS_TR, TPM2B_PUBLIC]]:
        # A template or nonce that the manufacturer left in NV is honoured: without it the certificate would not match.
        _, template = create_ek_template(EK_KINDS[self._ek_kind], NVReadEK(tpm))
        handle, public, *_ = tpm.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
        try:
            yield handle, public
        finally:
            flush(tpm, handle)

    @contextlib.contextmanager
    def _attestation(self, tpm: ESAPI) -> Iterator[ESYS_TR]:
        handle = self._saved.load(tpm) or self._from_file(tpm)
        if handle is None:
            raise KeyLostError("the TPM does not load the AK any more")
        try:
            yield handle
        finally:
            flush(tpm, handle)

    def _from_file(self, tpm: ESAPI) -> ESYS_TR | None:
        stored = self._stored or self._read_key()
        if stored is None:
            return None
        try:
            public, _ = TPM2B_PUBLIC.unmarshal(stored.public)
            private, _ = TPM2B_PRIVATE.unmarshal(stored.private)
            with storage_primary(tpm) as parent:
                handle = tpm.load(parent, private, public)
        except TSS2_Exception as error:
            # Format-one codes are about the key that was given; any other says nothing of it.
            if not refused_for_good(error) or not error.fmt1:
                raise
            _log.warning("the stored AK does not load in this TPM (%s)", error)
            return None
        self._stored = stored
        self._saved.save(tpm, handle)
        return handle

    def _make(self, tpm: ESAPI) -> ESYS_TR:
        with storage_primary(tpm) as parent:
            private, public, *_ = tpm.create(parent, TPM2B_SENSITIVE_CREATE(), attestation_key(self._ak_kind))
            stored = StoredKey(kind=self._ak_kind, public=public.marshal(), private=private.marshal())
            write_private(self._key_file, msgspec.msgpack.encode(stored))
            handle = tpm.load(parent, private, public)
        _log.info("made a new AK (%s) in %s", " ".join(self._ak_kind), self._key_file)
        self._stored = stored
        self._saved.save(tpm, handle)
        return handle

    def _read_key(self) -> StoredKey | None:
        data = read_private(self._key_file, _KEY_FILE_LIMIT)
        if data is None:
            return None
        try:
            stored = msgspec.msgpack.decode(data, type=StoredKey)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.warning("%s is damaged: a new AK will be made", self._key_file)
            return None
        if stored.kind != self._ak_kind:
            _log.info("the stored AK is of another kind than is configured now: a new one will be made")
            return None
        return stored


@contextlib.contextmanager
def _endorsement_session(tpm: ESAPI) -> Iterator[ESYS_TR]:
    """A policy session that satisfies the EK template's PolicyA: PolicySecret(TPM_RH_ENDORSEMENT)."""
    session = tpm.start_auth_session(
        ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256
    )
    try:
        tpm.policy_secret(ESYS_TR.ENDORSEMENT, session, expiration=0)
        yield session
    finally:
        # ActivateCredential ends the session itself; it is still there only when something failed before.
        flush(tpm, session)
