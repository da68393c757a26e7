"""How late a roster is known to have been the newest: by its own date, and by the word that registrars have given since.

The bus can make neither; it can keep both back. So what is known gets older, and whoever is shown an old roster notices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attestream.errors import StaleRosterError
from attestream.trust import publication
from attestream.trust.keyring import Keyring, check_role
from schemas import subjects
from schemas.roles import Role

VOUCH_S: Final = 60.0
"""Seconds after which a registrar gives its word anew."""

MIN_AGE_S: Final = 600
"""Least age at which a roster may be taken for too old: registrars, replicas and readers each lag, and clocks differ."""


def vouched_at(keyring: Keyring, subject: str, data: bytes, headers: Mapping[str, str], now: int) -> int:
    """Return when a registrar said of the roster of ``keyring``, stored as ``data`` under ``subject``, that it is the newest
    (Unix ms); 0: ``headers`` hold nobody's word. ``now`` is Unix ms.

    :raises SignatureError: the signature does not verify, or its key did not count then, or it is of the future.
    :raises ForbiddenError: it is not a registrar's.
    """
    header = headers.get(subjects.HEADER_SIGNATURE, "")
    if not header:
        return 0
    signature = publication.parse(header)
    # The word may be old, that is what is looked at; it must not be of the future, or it would hold for too long.
    author = keyring.verify(signature, subject, data, received_at=min(now, signature.signed_at))
    check_role(author, (Role.REGISTRAR,))
    return author.signed_at


class Freshness:
    """What is known of one reader's roster. After ``max_age_ms`` it does not count any more; 0: it always does."""

    def __init__(self, max_age_ms: int) -> None:
        self._max_age_ms = max_age_ms
        self._newest_at = 0

    def know(self, at: int, now: int) -> None:
        """Note that the roster was the newest ``at`` a time; both are Unix ms."""
        self._newest_at = max(self._newest_at, min(at, now))

    def age_ms(self, now: int) -> int:
        """Return for how long nothing has been heard."""
        return max(0, now - self._newest_at)

    def stale(self, now: int) -> bool:
        """Return whether that is too long."""
        return bool(self._max_age_ms) and self.age_ms(now) > self._max_age_ms

    def check(self, now: int) -> None:
        """Do nothing while the roster counts.

        :raises StaleRosterError: it is too old.
        """
        if self.stale(now):
            raise StaleRosterError(
                f"for {self.age_ms(now) // 1000} s no registrar has said that the roster of keys is the newest"
            )
