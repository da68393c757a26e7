"""How strictly certificates are judged."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Mode = Literal["reject", "warn"]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about each kind of problem that is no forgery: the certificate is rejected, or the finding only warns.

    What is not listed here always rejects: a signature that does not verify, an issuer that is no CA or may not sign
    certificates, a path length that is exceeded, a validity that has not begun, name constraints, and critical extensions
    that are not understood.
    """

    malformed: Mode
    """The encoding of a certificate breaks DER."""
    framing: Mode
    """A header or padding stands around a certificate."""
    sha1: Mode
    """A signature uses SHA-1."""
    expired: Mode
    """The certificate or an intermediate of the agent has expired."""
    expired_anchor: Mode
    """A certificate of the trust store has expired. RFC 5280 (section 6.1.1) does not ask: to trust it is configuration, and
    makers' CAs expire long before the TPMs they vouched for are gone."""
    expired_device_identity: Mode
    """The certificate of an IAK or IDevID has expired. Those keys are the device's for life (IEEE 802.1AR), but not every
    maker dates their certificates so."""
    purpose: Mode
    """Key usage or extended key usage do not name the certificate's role."""
    subject: Mode
    """The alternative name does not name the TPM as the profile of its role asks."""
    leaf_authority: Mode
    """The certificate of a TPM's key is one of a CA."""
    unrestricted: Mode
    """The certificate of an IAK does not say that its key signs nothing but what its TPM has made. Where that is overlooked,
    an IDevID, which signs anything, can stand in an IAK's place."""


STRICT: Final = Profile(
    malformed="reject",
    framing="reject",
    sha1="reject",
    expired="reject",
    expired_anchor="reject",
    expired_device_identity="reject",
    purpose="reject",
    subject="reject",
    leaf_authority="reject",
    unrestricted="reject",
)
"""The TCG EK Credential Profile to the letter."""

PERMISSIVE: Final = Profile(
    malformed="reject",
    framing="warn",
    sha1="warn",
    expired="reject",
    expired_anchor="warn",
    expired_device_identity="warn",
    purpose="warn",
    subject="warn",
    leaf_authority="warn",
    unrestricted="reject",
)
"""What makers really issue, in so far as a signature of a trusted CA still means what it says."""

PROFILES: Final = {"strict": STRICT, "permissive": PERMISSIVE}
