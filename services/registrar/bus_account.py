"""The agents' account on the servers of the bus, reached over the bus's own account.

Each server answers for itself, so a cluster that shrinks or grows is seen by who answers. A server that was away takes the
newest token from its neighbours, or is given it at the next look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from nats.aio.msg import Msg

from attestream.bus.connection import Bus
from attestream.credentials.account import read_account, revised
from attestream.credentials.nkey import NKey
from attestream.credentials.token import Token, reissued
from attestream.errors import AttestreamError, BusError
from services.registrar.bus_servers import Server, gather

ANSWER_S: Final = 2.0
"""Seconds that servers have to answer."""
_QUICK_S: Final = 0.5
"""Seconds that a server which is away may hold up those that are there."""

_UPDATE: Final = "$SYS.REQ.CLAIMS.UPDATE"
_PING: Final = "$SYS.REQ.SERVER.PING.VARZ"


class _Error(msgspec.Struct):
    description: str = ""


class _Answer(msgspec.Struct):
    server: Server = Server()
    error: _Error | None = None


_DECODER: Final = msgspec.json.Decoder(_Answer)


class BusAccount:
    """Keeps the account's token up to date on all servers.

    :param account: its public key.
    :param operator: returns the key that signs the token at present; it is also whose tokens are believed.
    :param clock: Unix time in milliseconds.
    :param known: a token of the account that there has been; no older one is believed to be the newest.
    """

    def __init__(
        self,
        bus: Bus,
        account: str,
        operator: Callable[[], NKey],
        clock: Callable[[], int],
        *,
        known: Token | None = None,
    ) -> None:
        self._bus = bus
        self._account = account
        self._operator = operator
        self._clock = clock
        self._current: Token | None = None
        self._newest = known
        self._servers: frozenset[str] = frozenset()
        self._behind = False
        """Whether a server has another token than the newest: it was away."""

    async def look(self) -> None:
        """Find out which servers there are, and what they have.

        :raises BusError: none answers, or none has a token of the account that the operator's key has signed.
        """
        answers = await gather(self._bus, _PING, b"", ANSWER_S, 0)
        self._servers = frozenset(_decode(answer).server.id for answer in answers)
        await self._read(ANSWER_S)

    async def _read(self, timeout_s: float) -> None:
        lookup = f"$SYS.REQ.ACCOUNT.{self._account}.CLAIMS.LOOKUP"
        found = await gather(self._bus, lookup, b"", timeout_s, len(self._servers))
        tokens = self._believed(found)
        # Servers that have been taken over may all answer with a token of long ago, in which a key counts that has been
        # replaced since. Signed anew it would be the newest everywhere.
        known = tokens if self._newest is None else [*tokens, self._newest]
        self._current = self._newest = max(known, key=lambda token: token.issued_at)
        self._behind = len(tokens) < len(self._servers) or any(token != self._current for token in tokens)

    async def bring_in_line(self, revoke: Mapping[str, int], *, since: int) -> None:
        """See to it that the account says on all servers what :func:`attestream.credentials.account.revised` makes of it.

        :raises BusError: a server does not confirm it.
        """
        now, operator = self._clock() // 1000, self._operator()
        if self._current is None or not self._servers:
            await self.look()
        elif self._behind or revised(self._current, operator, revoke=revoke, since=since, now=now) is not None:
            # Others change the account too, as when the key that issues identities is replaced: that must not be undone.
            await self._read(_QUICK_S)
        # A token that is older than what a server has could lose against it when servers compare notes.
        assert self._current is not None
        issued_at = max(now, self._current.issued_at + 1)
        text = revised(self._current, operator, revoke=revoke, since=since, now=issued_at)
        if text is None:
            if not self._behind:
                return
            text = reissued(self._current, self._current.nats, operator, issued_at)
        answers = await gather(self._bus, _UPDATE, text.encode(), ANSWER_S, len(self._servers))
        confirmed = set()
        for answer in map(_decode, answers):
            if answer.error is not None:
                raise BusError(f"server {answer.server.name} refuses the account's token: {answer.error.description[:200]}")
            confirmed.add(answer.server.id)
        self._current = self._newest = read_account(text, self._account, frozenset([operator.public]), now)
        self._behind = False
        if missing := self._servers - confirmed:
            # Whether they are still there is found out by the next look.
            self._servers = frozenset()
            raise BusError(f"{len(missing)} of the bus's servers have not confirmed the account's token")

    def _believed(self, answers: list[Msg]) -> list[Token]:
        believed: list[Token] = []
        reason = "no server has it"
        for answer in answers:
            try:
                text = answer.data.decode("ascii", "replace")
                trusted = frozenset([self._operator().public])
                believed.append(read_account(text, self._account, trusted, self._clock() // 1000))
            except AttestreamError as error:
                reason = error.message
        if not believed:
            raise BusError(
                f"the token of the agents' account can not be used: {reason}",
                remedy="Check [registrar] `agent_account_file` and `operator_key_file`, and the servers' configuration.",
            )
        return believed


def _decode(answer: Msg) -> _Answer:
    try:
        return _DECODER.decode(answer.data)
    except ValueError as error:
        raise BusError("a server of the bus has answered what can not be read") from error
