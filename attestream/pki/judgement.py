"""What the certificates of a TPM's keys are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from attestream.appraisal.findings import FAILURE, WARNING, finding
from attestream.errors import MalformedError
from attestream.pki.certificate import Certificate, parse_certificate
from attestream.pki.path import PathResult, Problem
from schemas.events import Finding

MAX_PROBLEMS: Final = 32
"""Problems that a judgement lists."""

MISSING: Final = "identity.certificate-missing"
WRONG_KEY: Final = "identity.certificate-key"
UNREADABLE: Final = "identity.certificate-unreadable"

UNCONDITIONAL: Final = frozenset({WRONG_KEY, UNREADABLE, "identity.device-mismatch"})
"""Fatal problems that no mode overlooks: what was sent is not about this TPM, or nothing at all."""


class Judgement(msgspec.Struct, frozen=True):
    """Whether a key is vouched for."""

    problems: tuple[Problem, ...]
    anchor: str = ""
    """Subject of the trust store's certificate at the end of the path, safe to print; empty when there is no path."""
    subject: str = ""
    """Subject of the key's own certificate, safe to print; empty when none could be read."""

    @property
    def trusted(self) -> bool:
        """Whether there is a path, and nothing rejects it."""
        return bool(self.anchor) and not self.fatal

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """What rejects the certificate."""
        return tuple(problem for problem in self.problems if problem.fatal)

    def findings(self) -> list[Finding]:
        """Return the problems as findings: a failure for what rejects, a warning for the rest."""
        return [
            finding(one.code, one.culprit, one.message, severity=FAILURE if one.fatal else WARNING) for one in self.problems
        ]


def read_chain(chain: Sequence[bytes]) -> tuple[list[Certificate], Problem | None]:
    """Return the certificates of ``chain``, and what is wrong with the first that can not be parsed.

    :param chain: DER, the key's own certificate first.
    """
    found: list[Certificate] = []
    for position, data in enumerate(chain):
        try:
            found.append(parse_certificate(data))
        except MalformedError as error:
            return found, Problem(
                UNREADABLE, f"certificate {position + 1}", f"{error.message[:1].upper()}{error.message[1:]}.", True
            )
    return found, None


def concluded(own: Certificate, result: PathResult, found: Iterator[Problem]) -> Judgement:
    """Return the judgement that a certificate's path and its own problems amount to."""
    problems = tuple(dict.fromkeys((*found, *result.problems)))
    # What rejects is kept when the list is cut.
    ordered = sorted(problems, key=lambda problem: not problem.fatal)[:MAX_PROBLEMS]
    anchor = result.path[-1].subject.text() if result.path else ""
    return Judgement(tuple(ordered), anchor, own.subject.text())
