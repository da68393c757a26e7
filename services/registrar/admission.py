"""What an enrolment request must fulfil before it is worth a challenge. Pure: clock and trust stores are arguments."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from attestream.appraisal.findings import WARNING, finding
from attestream.errors import EnrolmentError, MalformedError, SignatureError, TooLargeError
from attestream.pki.certificate import MAX_CERTIFICATE
from attestream.pki.device_identity import judge_device_key, judge_same_device
from attestream.pki.endorsement import judge_endorsement
from attestream.pki.judgement import UNCONDITIONAL, Judgement
from attestream.pki.path import Problem
from attestream.pki.profile import PERMISSIVE, Profile
from attestream.pki.trust_store import TrustStore
from attestream.tpm.certification import verify_certification
from attestream.tpm.public import Public, check_attestation_key, check_endorsement_key, parse_public
from schemas.enrolment import MAX_CERTIFICATES, DeviceIdentity, EnrolRequest, certified_data
from schemas.events import Finding
from schemas.subjects import AGENT_ID

MAX_PUBLIC_BYTES: Final = 768
"""Largest TPM2B_PUBLIC that is taken: RSA-4096 needs about 570 bytes. A page of 500 identities stays under 1 MiB."""

MAX_ATTEST_BYTES: Final = 1024
"""Largest TPMS_ATTEST and TPMT_SIGNATURE that are taken."""

TRANSPORT_KEY_BYTES: Final = 32
NONCE_BYTES: Final = 32

AcceptEk = Literal["any", "warn", "certificate", "hook"]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """By what the registrar admits."""

    accept_ek: AcceptEk
    store: TrustStore = TrustStore()
    """CAs that vouch for endorsement keys."""
    devices: TrustStore | None = None
    """CAs that vouch for device identities; None when those are passed over."""
    profile: Profile = PERMISSIVE


class Examined(msgspec.Struct, frozen=True):
    """The claims of a request, checked and judged."""

    ek: Public
    ak: Public
    ek_certificate: bytes
    """DER; empty when none was given."""
    endorsement: Judgement
    device: Judgement | None
    """Of the IAK, which is proven to have certified the AK; None when there is none."""
    iak: Public | None

    @property
    def machine(self) -> Public:
        """The key that tells the machine: an EK that nobody vouches for may be one of many."""
        vouched = self.device is not None and self.device.trusted and not self.endorsement.trusted
        return self.iak if vouched and self.iak is not None else self.ek


class Admitted(msgspec.Struct, frozen=True):
    """An examined request that is worth a challenge."""

    ek: Public
    ak: Public
    ek_certificate: bytes
    ek_trust: str
    """As in :class:`schemas.enrolment.Identity`."""
    findings: list[Finding]
    """Why: at most warnings."""
    machine: Public
    """The key that tells the machine."""


def examine(request: EnrolRequest, rules: Rules, *, now: int) -> Examined:
    """Check the bounds and keys of a request and judge its certificates.

    :param now: Unix time in milliseconds.
    :raises MalformedError: when a field is out of bounds or a key can not be parsed.
    :raises EnrolmentError: when a key has not the attributes of an EK, AK or IAK (TPM 2.0 Part 2, TPMA_OBJECT), a
        certificate can not be parsed or is of another key, or the IAK has not certified the AK.
    """
    _check_bounds(request)
    ek = parse_public(request.ek_public)
    check_endorsement_key(ek)
    ak = parse_public(request.ak_public)
    check_attestation_key(ak)
    endorsement = judge_endorsement(request.ek_certificates, rules.store, profile=rules.profile, now=now, key=ek.key())
    _refuse(endorsement, UNCONDITIONAL)
    device = iak = None
    if request.device is not None and rules.devices is not None:
        iak = parse_public(request.device.iak_public)
        device = _device(request, request.device, iak, ak, rules.devices, rules.profile, now)
        _refuse(device, UNCONDITIONAL)
    own = request.ek_certificates[0] if request.ek_certificates else b""
    return Examined(ek, ak, own, endorsement, device, iak)


def decide(examined: Examined, accept_ek: AcceptEk) -> Admitted:
    """Admit what was examined, or not. For ``hook`` the hook has been asked, and has accepted.

    :raises EnrolmentError: when nobody trusted vouches for the TPM and ``accept_ek`` is ``certificate``.
    """
    if accept_ek == "any":
        return _admitted(examined, "accepted", [finding("identity.ek-accepted")])
    found = _warnings(examined.endorsement)
    if examined.endorsement.trusted:
        found.insert(0, finding("identity.ek-vouched", examined.endorsement.anchor))
    if examined.device is not None:
        found += _warnings(examined.device)
        if examined.device.trusted:
            vouched = (
                f"The initial attestation key of the machine {examined.device.subject} vouches for the attestation key."
            )
            found.insert(0, finding("identity.iak-vouched", examined.device.anchor, vouched))
    if accept_ek == "hook":
        return _admitted(examined, "hook", [finding("identity.ek-hook"), *found])
    if examined.endorsement.trusted:
        return _admitted(examined, "certificate", found)
    if examined.device is not None and examined.device.trusted:
        return _admitted(examined, "iak", found)
    if accept_ek == "warn":
        return _admitted(examined, "accepted", [finding("identity.ek-accepted"), *found])
    if examined.device is not None and not examined.ek_certificate:
        _refuse(examined.device)  # what the agent has shown, rather than what it has not
    _refuse(examined.endorsement)
    raise EnrolmentError("nobody in the registrar's store vouches for the EK")


def _admitted(examined: Examined, trust: str, findings: list[Finding]) -> Admitted:
    return Admitted(examined.ek, examined.ak, examined.ek_certificate, trust, findings, examined.machine)


def _warnings(judgement: Judgement) -> list[Finding]:
    """Return the problems as warnings: the machine is admitted with them."""
    return [finding(one.code, one.culprit, one.message, severity=WARNING) for one in judgement.problems]


def _refuse(judgement: Judgement, codes: frozenset[str] | None = None) -> None:
    """Raise for the first problem that rejects, of those in ``codes`` when they are given."""
    for problem in judgement.fatal:
        if codes is None or problem.code in codes:
            culprit = f" ({problem.culprit})" if problem.culprit else ""
            remedy = finding(problem.code).remedy
            raise EnrolmentError(f"{problem.code}: {problem.message}{culprit}", remedy=remedy)


def _device(
    request: EnrolRequest, device: DeviceIdentity, iak: Public, ak: Public, store: TrustStore, profile: Profile, now: int
) -> Judgement:
    """Judge the device identity; its proof of the AK must be right in any case."""
    check_attestation_key(iak)
    wanted = certified_data(request)
    try:
        verify_certification(iak, device.attest, device.signature, name=ak.name, extra_data=wanted)
    except SignatureError as error:
        raise EnrolmentError(f"the IAK does not vouch for the AK: {error.message}") from error
    judged = judge_device_key("IAK", device.iak_certificates, store, profile=profile, now=now, key=iak.key())
    if not device.idevid_public:
        return judged
    idevid = parse_public(device.idevid_public).key()
    other = judge_device_key("IDevID", device.idevid_certificates, store, profile=profile, now=now, key=idevid)
    mismatch = judge_same_device(device.iak_certificates, device.idevid_certificates)
    further: tuple[Problem, ...] = (mismatch,) if mismatch else ()
    return msgspec.structs.replace(judged, problems=(*judged.problems, *other.problems, *further))


def _check_bounds(request: EnrolRequest) -> None:
    if not AGENT_ID.match(request.agent_id):
        raise MalformedError("the agent id is not 1-80 characters of A-Z a-z 0-9 . _ -")
    if len(request.transport_key) != TRANSPORT_KEY_BYTES:
        raise MalformedError(f"the transport key has not {TRANSPORT_KEY_BYTES} bytes")
    if len(request.nonce) != NONCE_BYTES:
        raise MalformedError(f"the nonce has not {NONCE_BYTES} bytes")
    publics, chains = [request.ek_public, request.ak_public], [request.ek_certificates]
    if request.device is not None:
        publics += [request.device.iak_public, request.device.idevid_public]
        chains += [request.device.iak_certificates, request.device.idevid_certificates]
        if max(len(request.device.attest), len(request.device.signature)) > MAX_ATTEST_BYTES:
            raise TooLargeError(f"the certification of the AK is larger than {MAX_ATTEST_BYTES} bytes")
    if max(map(len, publics)) > MAX_PUBLIC_BYTES:
        raise TooLargeError(f"a TPM2B_PUBLIC is larger than {MAX_PUBLIC_BYTES} bytes")
    for chain in chains:
        if len(chain) > MAX_CERTIFICATES:
            raise TooLargeError(f"more than {MAX_CERTIFICATES} certificates of one key")
        if any(len(certificate) > MAX_CERTIFICATE for certificate in chain):
            raise TooLargeError(f"a certificate is larger than {MAX_CERTIFICATE} bytes")
