"""What certificates and proofs of a TPM's identity can be found to be, as rows of :mod:`attestream.appraisal.findings`.

In events of the registrar these are warnings or less, by its profile: what rejects an identity leaves no enrolment to tell
of.
"""

from __future__ import annotations

from typing import Final

_INFO: Final = "info"
_WARNING: Final = "warning"
_FAILURE: Final = "failure"

_MAKER: Final = (
    "Ask the TPM's maker; to enrol the machine all the same, choose the mode or profile of the registrar accordingly."
)
_STORE: Final = (
    "If the maker is to be trusted, name it in `ek_manufacturers` of the registrar, or put its CA certificate into "
    "its `ek_store`."
)
_FORGED: Final = "Treat it as a forgery: enrol the machine only after its TPM was examined."

Row = tuple[str, str, str, str]
"""Code without its layer, severity, summary, remedy."""

IDENTITY: Final[tuple[Row, ...]] = (
    ("ek-vouched", _INFO, "A certificate authority of the trust store vouches for the endorsement key.", "Nothing."),
    (
        "ek-accepted",
        _WARNING,
        "The endorsement key is accepted although nobody vouches for it.",
        'Set `accept_ek` of the registrar to "certificate" to enrol only TPMs of known makers.',
    ),
    ("ek-hook", _INFO, "The hook of the registrar has accepted the endorsement key.", "Nothing."),
    ("iak-vouched", _INFO, "The initial attestation key vouches for the attestation key.", "Nothing."),
    ("idevid-vouched", _INFO, "A certificate authority of the trust store vouches for the device identity key.", "Nothing."),
    ("certificate-missing", _FAILURE, "A certificate is required and was not sent.", _MAKER),
    ("certificate-unreadable", _FAILURE, "A certificate can not be parsed.", _MAKER),
    ("certificate-malformed", _FAILURE, "A certificate breaks DER, or is wrapped in something else.", _MAKER),
    ("certificate-key", _FAILURE, "A certificate is of another key.", _FORGED),
    ("certificate-chain", _FAILURE, "No path leads from a certificate to the trust store.", _STORE),
    ("certificate-signature", _FAILURE, "The issuer that a certificate names did not sign it.", _FORGED),
    ("certificate-algorithm", _FAILURE, "A certificate has a key or signature of an unsupported kind.", _MAKER),
    ("certificate-sha1", _FAILURE, "A certificate is signed with SHA-1.", _MAKER),
    ("certificate-validity", _FAILURE, "A certificate has expired or is not valid yet.", _MAKER),
    ("certificate-issuer", _FAILURE, "A certificate was issued by one that may not issue it.", _FORGED),
    (
        "certificate-distrusted",
        _FAILURE,
        "The path from a certificate to the trust store needs a key that the configuration distrusts.",
        "Nothing, as long as the key stands rightly in `ek_distrust` of the registrar.",
    ),
    ("certificate-critical", _FAILURE, "A certificate has a critical extension that is not understood.", _MAKER),
    ("certificate-role", _FAILURE, "The certificate of a TPM's key is one of a certificate authority.", _MAKER),
    ("certificate-purpose", _FAILURE, "A certificate is not meant for this kind of key.", _MAKER),
    (
        "certificate-unrestricted",
        _FAILURE,
        "The certificate of an IAK does not say that its key signs only what its TPM has made.",
        'Ask the maker for one with the policy 2.23.133.11.1.3, or set `iak_policy` of the registrar to "warn".',
    ),
    ("certificate-subject", _FAILURE, "A certificate does not name the TPM as its profile asks.", _MAKER),
    ("device-mismatch", _FAILURE, "Two certificates of one machine name different devices.", _FORGED),
)
