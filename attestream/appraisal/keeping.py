"""What a policy says about keeping evidence::

    "archive": {"keep": "failures", "days": 90, "logs": true}

``keep``: ``failures`` keeps evidence that failed, ``changes`` also what changed a standing or brought new warnings, ``all``
everything, bare answers included. ``days``: how long, 1 to 400; default 90. ``logs``: whether the proven entries of the IMA
log are kept per boot; default true. It changes nothing about how evidence is judged.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from attestream.appraisal.document import check_keys, choice, truth
from attestream.errors import PolicyError

FAILURES: Final = "failures"
CHANGES: Final = "changes"
ALL: Final = "all"
KEEPS: Final = (FAILURES, CHANGES, ALL)

MAX_DAYS: Final = 400
DEFAULT_DAYS: Final = 90


class Keeping(NamedTuple):
    """What is kept of the evidence of a policy's agents."""

    keep: str
    days: int
    logs: bool

    def wants(self, *, failed: bool, changed: bool) -> bool:
        """Return whether an appraisal is kept that failed, or that changed what is known of the agent."""
        return self.keep == ALL or failed or (changed and self.keep == CHANGES)


def compile_keeping(value: Any, place: str = "archive") -> Keeping:
    """Return what ``value`` says.

    :raises PolicyError: when it is not valid.
    """
    check_keys(value, place, {"keep"}, {"days", "logs"})
    days = value.get("days", DEFAULT_DAYS)
    if type(days) is not int or not 1 <= days <= MAX_DAYS:
        raise PolicyError(f"{place}.days: must be a whole number from 1 to {MAX_DAYS}")
    return Keeping(choice(value["keep"], f"{place}.keep", KEEPS), days, truth(value.get("logs", True), f"{place}.logs"))
