"""What a code of a finding is made of."""

from __future__ import annotations

from typing import Final, NamedTuple

INFO: Final = "info"
WARNING: Final = "warning"
FAILURE: Final = "failure"


class Kind(NamedTuple):
    """What a code means."""

    code: str
    layer: str
    """``identity``, ``quote``, ``boot``, ``runtime`` or ``limits``."""
    severity: str
    summary: str
    """One sentence: the message, unless the place that found it knows more."""
    remedy: str
