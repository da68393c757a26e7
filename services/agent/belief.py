"""Whom the agent believes: the root key's roster, or keys that it was given by hand."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final, Protocol

from attestream.bus.connection import Bus
from attestream.bus.trust import Trust, read_roots
from attestream.config import AgentConfig, TrustConfig
from attestream.errors import AttestreamError, ConfigError, SignatureError
from attestream.signing import TrustedKeys
from schemas.events import Revocation, Signed
from schemas.roles import Role

ROSTER_FILE: Final = "roster"
"""Where the newest roster is kept in the data directory, unless the configuration names another place."""

_MAX_KEY_BYTES: Final = 65_536
_PAUSE_S: Final = 2.0
_ONCE_MORE_S: Final = 1.5
"""Seconds until the roster is looked at once more for a key that it does not have: it may be on its way."""

_log = logging.getLogger(__name__)


class Judge(Protocol):
    """Opens a revocation."""

    async def __call__(self, signed: Signed, received_at: int, /) -> Revocation:
        """Return what was signed; ``received_at`` is when it was stored, or has come (Unix ms).

        :raises SignatureError: by nobody who may revoke.
        :raises MalformedError: it is no revocation.
        """
        ...


def pinned(keys: TrustedKeys) -> Judge:
    """Return a judge that believes ``keys``."""

    async def judge(signed: Signed, _received_at: int, /) -> Revocation:
        return keys.open(signed, Revocation)

    return judge


def by_roster(trust: Trust) -> Judge:
    """Return a judge that believes the notifiers of the roster."""

    async def judge(signed: Signed, received_at: int, /) -> Revocation:
        try:
            return await trust.open(signed, Revocation, Role.NOTIFIER, received_at, _signed_at)
        except SignatureError:
            if trust.keyring.entry(signed.key_id) is not None:
                raise
        # A revocation must not be lost to a roster that comes a moment after it.
        await asyncio.sleep(_ONCE_MORE_S)
        return await trust.open(signed, Revocation, Role.NOTIFIER, received_at, _signed_at)

    return judge


class Belief:
    """What an agent is told in its configuration about whom to believe.

    :raises ConfigError: a key can not be used.
    """

    def __init__(self, config: AgentConfig, trust: TrustConfig) -> None:
        self._keys = _trusted_keys(config.revocation_keys)
        self._trust = Trust.unsigned()
        if trust.root_keys and not trust.unsigned:
            file = trust.roster_file or config.data_dir / ROSTER_FILE
            self._trust = Trust(read_roots(trust.root_keys), roster_file=file, installation=trust.installation)
        if self.revocations is None:
            _log.warning("neither [trust] root_keys nor agent.revocation_keys are configured: revocations are not heard")

    @property
    def revocations(self) -> Judge | None:
        """What judges revocations; None when there is nobody to believe. Keys that were given by hand go first: whoever
        names them wants no others."""
        if self._keys is not None:
            return pinned(self._keys)
        return by_roster(self._trust) if self._trust.checked else None

    async def start(self, bus: Bus) -> None:
        """Read the roster from ``bus``, and wait until there is one that can be believed.

        :raises BusError: the bus does not answer, or has closed the connection for good.
        """
        while True:
            try:
                await self._trust.start(bus)
            except ConfigError as error:
                _log.warning("there is nobody to believe on this bus: %s (%s)", error.message, error.hint)
                await asyncio.sleep(_PAUSE_S)
                continue
            return


def _signed_at(revocation: Revocation) -> int:
    return revocation.signed_at


def _trusted_keys(paths: list[Path]) -> TrustedKeys | None:
    if not paths:
        return None
    pems = []
    for path in paths:
        try:
            with path.open("rb") as file:
                pems.append(file.read(_MAX_KEY_BYTES))
        except OSError as error:
            raise ConfigError(f"the revocation key {path} can not be read: {error.strerror}") from error
    try:
        return TrustedKeys.from_pems(pems)
    except AttestreamError as error:
        raise ConfigError(f"agent.revocation_keys: {error.message}") from error
