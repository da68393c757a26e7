"""The agent's identity on the bus, from one renewal to the next."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from attestream.bus.connection import Bus
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import NKey
from attestream.credentials.token import read
from attestream.errors import AttestreamError, BusError, ForbiddenError, MalformedError
from schemas import subjects
from schemas.enrolment import Renewed, RenewRequest, renewal_bytes
from schemas.roles import Role

_log = logging.getLogger(__name__)

SHARE: Final = (0.60, 0.67)
"""Share of the life after which the next identity is asked for: by lot, so that a fleet does not ask at once."""
_PAUSE_S: Final = (1.0, 30.0)
_TIMEOUT_S: Final = 10.0


class BusIdentity:
    """A token for the agent's key, renewed for as long as it is used.

    :param now: Unix time in milliseconds.
    :raises MalformedError: the token is not for this agent and key.
    """

    def __init__(self, agent_id: str, key: NKey, token: str, now: Callable[[], int]) -> None:
        self._agent_id = agent_id
        self._key = key
        self._now = now
        self._take(token)

    def credentials(self) -> Credentials:
        """Return what to connect with now."""
        return Credentials(self._token, self._key)

    async def renew(self, bus: Bus) -> None:
        """Renew for ever. What fails is tried again until the identity has expired.

        :raises ForbiddenError: the registrar refuses: the agent is cut off.
        :raises BusError: the identity has expired without a next one.
        """
        pause = _PAUSE_S[0]
        # The life counts from here, not by the date: this machine's clock may be wrong.
        received, share = asyncio.get_running_loop().time(), random.uniform(*SHARE)  # noqa: S311 - jitter, not a secret
        while True:
            await asyncio.sleep(received + share * self._life_s - asyncio.get_running_loop().time())
            try:
                renewed = await bus.request(
                    subjects.renewal(self._agent_id),
                    self._request(),
                    Renewed,
                    timeout_s=_TIMEOUT_S,
                    signed_by=(Role.REGISTRAR,),
                )
                self._take(renewed.bus_token)
            except ForbiddenError:
                raise
            except AttestreamError as error:
                elapsed = asyncio.get_running_loop().time() - received
                _log.warning("the identity on the bus is not renewed yet: %s (%s)", error, error.hint)
                if elapsed >= self._life_s:
                    raise BusError("the identity on the bus has expired") from error
                share = min(1.0, (elapsed + random.uniform(pause / 2, pause)) / self._life_s)  # noqa: S311 - jitter
                pause = min(2 * pause, _PAUSE_S[1])
                continue
            _log.info("the identity on the bus is renewed for %d s", self._life_s)
            pause, received = _PAUSE_S[0], asyncio.get_running_loop().time()
            share = random.uniform(*SHARE)  # noqa: S311 - jitter, not a secret
            # The server ends a connection when the identity that it began with has expired.
            await bus.nc.force_reconnect()

    def _request(self) -> RenewRequest:
        at = self._now()
        signature = self._key.sign(renewal_bytes(self._agent_id, self._key.public, at))
        return RenewRequest(agent_id=self._agent_id, bus_key=self._key.public, at=at, signature=signature)

    def _take(self, token: str) -> None:
        found = read(token)
        if (found.kind, found.subject, found.name) != ("user", self._key.public, subjects.token(self._agent_id)):
            raise MalformedError("the registrar has issued an identity for another agent or key")
        if found.expires_at <= found.issued_at:
            raise MalformedError("the registrar has issued an identity without an end")
        self._token = token
        self._life_s = found.expires_at - found.issued_at
