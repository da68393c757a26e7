"""Endorsement key certificates.

Source: TCG EK Credential Profile for TPM Family 2.0, sections 3.1 and 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from attestream.errors import MalformedError
from attestream.pki import extensions as ext
from attestream.pki.certificate import Certificate
from attestream.pki.judgement import MISSING, UNREADABLE, WRONG_KEY, Judgement, concluded, read_chain
from attestream.pki.path import ANY_PURPOSE, Problem, find_path
from attestream.pki.profile import Mode, Profile
from attestream.pki.signatures import CertifiedKey, certified_key, is_of
from attestream.pki.trust_store import TrustStore

EK_CERTIFICATE: Final = "2.23.133.8.1"
"""tcg-kp-EKCertificate."""

_MANUFACTURER: Final = "2.23.133.2.1"
_MODEL: Final = "2.23.133.2.2"
_VERSION: Final = "2.23.133.2.3"
_VENDOR_ID: Final = re.compile(r"id:[0-9A-Fa-f]{8}")


def judge_endorsement(
    chain: Sequence[bytes], store: TrustStore, *, profile: Profile, now: int, key: CertifiedKey | None = None
) -> Judgement:
    """Judge an EK certificate. What the certificates say never raises: it becomes a problem.

    :param chain: DER, the EK's own certificate first, then what the agent has of intermediates.
    :param now: Unix time in milliseconds.
    :param key: the EK; None to judge the certificate alone.
    """
    if not chain:
        return Judgement((Problem(MISSING, "", "The agent has sent no EK certificate.", True),))
    certificates, broken = read_chain(chain)
    if broken is not None:
        return Judgement((broken,))
    own, *intermediates = certificates
    result = find_path(own, store, intermediates=intermediates, profile=profile, now=now, purpose=EK_CERTIFICATE)
    return concluded(own, result, _problems(own, key, profile))


def _problems(own: Certificate, key: CertifiedKey | None, profile: Profile) -> Iterator[Problem]:
    def problem(code: str, message: str, mode: Mode) -> Problem:
        return Problem(f"identity.{code}", own.subject.text(), message, mode == "reject")

    try:
        if key is not None and not is_of(own, key):
            yield Problem(WRONG_KEY, own.subject.text(), "The EK certificate is of another key than the EK.", True)
        kind = certified_key(own)
    except MalformedError as error:
        yield Problem(UNREADABLE, own.subject.text(), f"{error.message[:1].upper()}{error.message[1:]}.", True)
        return
    said = own.extensions
    if said.authority:
        yield problem("certificate-role", "The EK certificate is one of a certificate authority.", profile.leaf_authority)
    usage = ext.KEY_ENCIPHERMENT if isinstance(kind, rsa.RSAPublicKey) else ext.KEY_AGREEMENT
    if said.key_usage is None or not said.key_usage & usage:
        yield problem("certificate-purpose", "The key usage is not that of an endorsement key.", profile.purpose)
    if said.purposes is None or not said.purposes & {EK_CERTIFICATE, ANY_PURPOSE}:
        yield problem(
            "certificate-purpose",
            f"The extended key usage does not name EK certificates ({EK_CERTIFICATE}).",
            profile.purpose,
        )
    if not _names_tpm(own):
        yield problem(
            "certificate-subject",
            "The subject's alternative name does not give manufacturer, model and version of a TPM.",
            profile.subject,
        )


def _names_tpm(certificate: Certificate) -> bool:
    """Whether one directory name has all three attributes, the manufacturer and version as the TCG registries write them."""
    for name in certificate.extensions.directory_names:
        values = dict(name.attributes)
        if (
            _VENDOR_ID.fullmatch(values.get(_MANUFACTURER, ""))
            and values.get(_MODEL)
            and values.get(_VERSION, "").startswith("id:")
        ):
            return True
    return False
