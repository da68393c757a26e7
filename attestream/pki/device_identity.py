"""Certificates of initial attestation keys (IAK) and initial device identities (IDevID).

An IAK signs only what its TPM has made; an IDevID signs anything. The holder of an IDevID could claim that it is an IAK, and
sign a certification that no TPM has made. Only the maker's word in the certificate tells the two apart: the TCG demands that
who relies on an IAK looks for it.

Sources: TCG TPM 2.0 Keys for Device Identity and Attestation, section 8; TCG OID registry; IEEE 802.1AR section 8; RFC 4108
section 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from attestream.errors import MalformedError
from attestream.pki import extensions as ext
from attestream.pki.certificate import Certificate
from attestream.pki.judgement import MISSING, UNREADABLE, WRONG_KEY, Judgement, concluded, read_chain
from attestream.pki.path import Problem, find_path
from attestream.pki.profile import Mode, Profile
from attestream.pki.signatures import CertifiedKey, certified_key, is_of
from attestream.pki.trust_store import TrustStore

TPM_HARDWARE: Final = "2.23.133.1.2"
"""hwType of a TPM 2.0 in a HardwareModuleName."""
VERIFIED_FIXED: Final = "2.23.133.11.1.2"
"""tcg-cap-verifiedTPMFixed: the issuer has seen that the key never leaves its TPM."""
VERIFIED_RESTRICTED: Final = "2.23.133.11.1.3"
"""tcg-cap-verifiedTPMRestricted: and that it signs nothing but what its TPM has made."""
AIK_CERTIFICATE: Final = "2.23.133.8.3"
"""tcg-kp-AIKCertificate."""

_SERIAL_NUMBER: Final = "2.5.4.5"


def judge_device_key(
    role: str, chain: Sequence[bytes], store: TrustStore, *, profile: Profile, now: int, key: CertifiedKey | None = None
) -> Judgement:
    """Judge the certificate of an IAK or IDevID. What the certificates say never raises: it becomes a problem.

    :param role: ``IAK`` or ``IDevID``, for messages.
    :param chain: DER, the key's own certificate first, then what the agent has of intermediates.
    :param now: Unix time in milliseconds.
    :param key: the key itself; None to judge the certificate alone.
    """
    if not chain:
        return Judgement((Problem(MISSING, role, f"The agent has sent no {role} certificate.", True),))
    certificates, broken = read_chain(chain)
    if broken is not None:
        return Judgement((msgspec.structs.replace(broken, culprit=f"{role} {broken.culprit}"),))
    own, *intermediates = certificates
    for_life = msgspec.structs.replace(profile, expired=profile.expired_device_identity)
    result = find_path(own, store, intermediates=intermediates, profile=for_life, now=now)
    return concluded(own, result, _problems(role, own, key, profile))


def judge_same_device(iak: Sequence[bytes], idevid: Sequence[bytes]) -> Problem | None:
    """Return the problem when both certificates name their hardware, and not the same.

    :param iak: as for :func:`judge_device_key`; chains that can not be parsed are judged there.
    """
    modules = [set(certificates[0].extensions.hardware) for chain in (iak, idevid) if (certificates := read_chain(chain)[0])]
    if len(modules) == 2 and all(modules) and not modules[0] & modules[1]:
        return Problem(
            "identity.device-mismatch", "IDevID", "The IAK and IDevID certificates are of different devices.", True
        )
    return None


def _problems(role: str, own: Certificate, key: CertifiedKey | None, profile: Profile) -> Iterator[Problem]:
    def problem(code: str, message: str, mode: Mode) -> Problem:
        return Problem(f"identity.{code}", own.subject.text(), message, mode == "reject")

    try:
        if key is not None and not is_of(own, key):
            yield Problem(WRONG_KEY, own.subject.text(), f"The {role} certificate is of another key than the {role}.", True)
        certified_key(own)
    except MalformedError as error:
        yield Problem(UNREADABLE, own.subject.text(), f"{error.message[:1].upper()}{error.message[1:]}.", True)
        return
    said = own.extensions
    if said.authority:
        yield problem(
            "certificate-role", f"The {role} certificate is one of a certificate authority.", profile.leaf_authority
        )
    if said.key_usage is None or not said.key_usage & ext.DIGITAL_SIGNATURE:
        yield problem("certificate-purpose", "The key usage does not allow digital signatures.", profile.purpose)
    if not said.hardware:
        yield problem(
            "certificate-subject", "The subject's alternative name does not give the TPM's identity.", profile.subject
        )
    elif all(kind != TPM_HARDWARE for kind, _ in said.hardware):
        yield problem("certificate-subject", f"The {role} certificate is of hardware that is no TPM.", "reject")
    if all(oid != _SERIAL_NUMBER for oid, _ in own.subject.attributes):
        yield problem("certificate-subject", "The subject has no serial number of the device.", "warn")
    # Drafts of the TCG had these as extended key usages, and some makers have kept to them.
    promises = said.policies | (said.purposes or frozenset())
    if role == "IAK" and not promises & {VERIFIED_RESTRICTED, AIK_CERTIFICATE}:
        message = f"The IAK certificate does not say that the key is restricted ({VERIFIED_RESTRICTED})."
        yield problem("certificate-unrestricted", message, profile.unrestricted)
    if role == "IDevID" and not promises & {VERIFIED_FIXED, VERIFIED_RESTRICTED}:
        message = f"The IDevID certificate does not say that the key is fixed to its TPM ({VERIFIED_FIXED})."
        yield problem("certificate-purpose", message, "warn")
