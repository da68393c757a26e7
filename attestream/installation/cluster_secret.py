"""The cluster secret is replaced: what was asked under the one before may still be answered."""

from __future__ import annotations

import secrets
import time
from typing import Final

from attestream.errors import ConfigError
from attestream.installation.files import replace
from attestream.installation.places import Installation

SECRET_BYTES: Final = 32
"""Length of the cluster secret."""

KEPT_S: Final = 3_600
"""Seconds after which nothing is answered any more that was asked under the secret before: far more than a challenge lives,
so that machines can be given the files one after another."""


def rotate_cluster_secret(place: Installation, *, at_once: bool) -> None:
    """Make a new secret and keep the old one beside it, unless ``at_once``.

    :raises ConfigError: the secret is not here.
    :raises OSError: a file can not be written.
    """
    try:
        old = place.cluster_secret.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"the cluster secret is not here ({place.cluster_secret})") from error
    if at_once:
        place.cluster_secret_before.unlink(missing_ok=True)
    else:
        replace(place.cluster_secret_before, old)
    replace(place.cluster_secret, secrets.token_bytes(SECRET_BYTES))


def prune_cluster_secret(place: Installation) -> bool:
    """Remove the secret before once its time is over; return whether it is gone now.

    :raises OSError: it can not be removed.
    """
    before = place.cluster_secret_before
    if not before.exists() or time.time() - before.stat().st_mtime < KEPT_S:
        return False
    before.unlink()
    return True
