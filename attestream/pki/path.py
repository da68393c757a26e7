"""Paths from a certificate to a trust store.

Candidates are found by name and proven by signature (RFC 4158); each whole path is then judged (RFC 5280 section 6.1). Key
identifiers only order the candidates: some makers issue wrong ones. Cross-signed CAs give several paths, of which the
one with the least to say against it is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from attestream.errors import MalformedError, SignatureError, UnsupportedError
from attestream.pki import extensions as ext
from attestream.pki.certificate import FRAMING, Certificate
from attestream.pki.profile import Mode, Profile
from attestream.pki.signatures import SHA1, certified_key, scheme_of, verify_issued
from attestream.pki.trust_store import TrustStore

MAX_DEPTH: Final = 8
"""Certificates in a path, the trust store's included."""
MAX_PATHS: Final = 16
"""Paths that are judged."""
MAX_SIGNATURES: Final = 64
"""Signatures that are verified in the search for one certificate."""


ANY_PURPOSE: Final = "2.5.29.37.0"
"""anyExtendedKeyUsage."""


class Problem(msgspec.Struct, frozen=True):
    """Something that speaks against a certificate."""

    code: str
    """Of :mod:`attestream.appraisal.findings`."""
    culprit: str
    """The subject of the certificate that is to blame, safe to print."""
    message: str
    """A sentence."""
    fatal: bool
    """Whether it rejects the certificate, by the profile; otherwise it is to be reported."""


class PathResult(msgspec.Struct, frozen=True):
    """The best path that was found."""

    path: tuple[Certificate, ...]
    """From the certificate to that of the trust store; empty when there is none."""
    problems: tuple[Problem, ...]

    @property
    def good(self) -> bool:
        """Whether the certificate is vouched for."""
        return bool(self.path) and not any(problem.fatal for problem in self.problems)


def find_path(
    target: Certificate,
    store: TrustStore,
    *,
    intermediates: Sequence[Certificate] = (),
    profile: Profile,
    now: int,
    purpose: str = "",
) -> PathResult:
    """Return the best path from ``target`` to ``store``, and what speaks against it.

    :param intermediates: of the agent: they are only used, never trusted.
    :param now: Unix time in milliseconds.
    :param purpose: extended key usage that CAs must allow when they restrict theirs; empty for any.
    """
    search = _Search(store, intermediates)
    best: PathResult | None = None
    for path in search.paths(target):
        problems = tuple(_judge(path, store, profile, now, purpose))
        if best is None or _weight(problems) < _weight(best.problems):
            best = PathResult(path, problems)
        if not problems:
            break
    return best or PathResult((), (search.dead_end(target),))


def _weight(problems: Sequence[Problem]) -> tuple[int, int]:
    return sum(problem.fatal for problem in problems), len(problems)


class _Search:
    """Depth first, with bounds on everything that an agent could choose."""

    def __init__(self, store: TrustStore, intermediates: Sequence[Certificate]) -> None:
        self._store = store
        self._pool = intermediates
        self._signatures = 0
        self._paths = 0
        self._wrong: Problem | None = None

    def paths(self, target: Certificate) -> Iterator[tuple[Certificate, ...]]:
        yield from self._extend((target,))

    def dead_end(self, target: Certificate) -> Problem:
        """Return why there is no path."""
        if self._signatures >= MAX_SIGNATURES:
            message = f"No path to the trust store was found within {MAX_SIGNATURES} signatures."
            return Problem("identity.certificate-chain", target.subject.text(), message, True)
        issuer = target.issuer.text()
        missing = Problem(
            "identity.certificate-chain",
            target.subject.text(),
            f"Nobody in the trust store vouches for it; issuer: {issuer}.",
            True,
        )
        return self._wrong or missing

    def _extend(self, path: tuple[Certificate, ...]) -> Iterator[tuple[Certificate, ...]]:
        last = path[-1]
        for candidate in _ordered(last, self._store.named(last.issuer)):
            if self._paths < MAX_PATHS and self._issued(last, candidate):
                self._paths += 1
                yield (*path, candidate)
        if len(path) + 1 >= MAX_DEPTH:
            return
        for candidate in _ordered(last, [one for one in self._pool if one.subject.key == last.issuer.key]):
            # The same key under the same name again is a loop, also when the certificate is another one.
            if any(_same(candidate, one) for one in path) or candidate in self._store:
                continue
            if self._paths < MAX_PATHS and self._issued(last, candidate):
                yield from self._extend((*path, candidate))

    def _issued(self, certificate: Certificate, issuer: Certificate) -> bool:
        # The certificate too: who holds a CA's key could pass the CA's own certificate off as that of an EK.
        for one in (certificate, issuer):
            if self._store.distrusts(one):
                distrusted = "The configuration distrusts this key."
                self._wrong = Problem("identity.certificate-distrusted", one.subject.text(), distrusted, True)
                return False
        if self._signatures >= MAX_SIGNATURES:
            return False
        self._signatures += 1
        try:
            verify_issued(certificate, issuer)
        except SignatureError as error:
            self._wrong = Problem(
                "identity.certificate-signature", certificate.subject.text(), _sentence(error.message), True
            )
        except (UnsupportedError, MalformedError) as error:
            self._wrong = Problem(
                "identity.certificate-algorithm", certificate.subject.text(), _sentence(error.message), True
            )
        else:
            return True
        return False


def _ordered(child: Certificate, candidates: Sequence[Certificate]) -> list[Certificate]:
    wanted = child.extensions.authority_key_id
    return sorted(candidates, key=lambda one: not wanted or one.extensions.subject_key_id != wanted)


def _same(one: Certificate, other: Certificate) -> bool:
    return one.subject.key == other.subject.key and one.public_key == other.public_key


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:] + "."


def _judge(path: Sequence[Certificate], store: TrustStore, profile: Profile, now: int, purpose: str) -> Iterator[Problem]:
    for depth, certificate in enumerate(path):
        yield from _validity(certificate, profile.expired_anchor if certificate in store else profile.expired, now)
        yield from _form(certificate, profile)
        if depth:
            yield from _authority(certificate, path[1:depth], profile, purpose)
        if depth + 1 < len(path):
            yield from _algorithms(certificate, profile)


def _problem(code: str, certificate: Certificate, message: str, mode: Mode = "reject") -> Problem:
    return Problem(f"identity.{code}", certificate.subject.text(), message, mode == "reject")


def _validity(certificate: Certificate, mode: Mode, now: int) -> Iterator[Problem]:
    if now < certificate.not_before:
        yield _problem("certificate-validity", certificate, "The certificate is not valid yet.")
    # The last second counts in full.
    if now >= certificate.not_after + 1000:
        yield _problem("certificate-validity", certificate, "The certificate has expired.", mode)


def _form(certificate: Certificate, profile: Profile) -> Iterator[Problem]:
    for name in certificate.irregularities:
        mode = profile.framing if name in FRAMING else profile.malformed
        yield _problem("certificate-malformed", certificate, f"The certificate is not well formed: {name}.", mode)
    for oid in certificate.extensions.unknown_critical:
        yield _problem("certificate-critical", certificate, f"The critical extension {oid} is not understood.")


def _authority(issuer: Certificate, below: Sequence[Certificate], profile: Profile, purpose: str) -> Iterator[Problem]:
    """Judge a certificate as issuer.

    :param below: the intermediates between it and the target.
    """
    said = issuer.extensions
    if not said.authority:
        yield _problem("certificate-issuer", issuer, "The issuer is no certificate authority.")
    if said.key_usage is not None and not said.key_usage & ext.KEY_CERT_SIGN:
        yield _problem("certificate-issuer", issuer, "The issuer's key may not sign certificates.")
    # Self-issued certificates do not count (RFC 5280 section 6.1.4).
    if said.path_length is not None and sum(not one.self_issued() for one in below) > said.path_length:
        yield _problem("certificate-issuer", issuer, f"More than {said.path_length} authorities stand below the issuer.")
    if said.constrains_names:
        yield _problem("certificate-issuer", issuer, "The issuer's names are constrained, which is not supported.")
    if purpose and said.purposes is not None and not said.purposes & {purpose, ANY_PURPOSE}:
        yield _problem("certificate-purpose", issuer, "The issuer's key is for other purposes.", profile.purpose)


def _algorithms(certificate: Certificate, profile: Profile) -> Iterator[Problem]:
    if scheme_of(certificate).hash == SHA1:
        yield _problem("certificate-sha1", certificate, "The certificate is signed with SHA-1.", profile.sha1)
    try:
        certified_key(certificate)
    except MalformedError as error:
        yield _problem("certificate-algorithm", certificate, _sentence(error.message))
