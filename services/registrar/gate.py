"""Who may ask for enrolment, prove one, and ask for renewal how often: a flood is told to come back later, or not heard."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Callable
from typing import Final

import msgspec
from nats.aio.msg import Msg

from attestream.config import LimitsConfig
from attestream.errors import BusyError
from attestream.rates import Buckets, TokenBucket
from schemas import subjects
from schemas.base import Decoder, SchemaError
from schemas.enrolment import ActivateRequest, EnrolRequest

BURST_PER_SOURCE: Final = 20
"""Requests of one machine that are let through at once after a quiet time, or those of a minute if these are more."""

RENEWALS_PER_MIN: Final = 12
"""Renewals that one agent may ask for in a minute, on average; an identity is renewed once in its life."""

BURST_S: Final = 2
"""Seconds of the whole rate that are let through at once after a quiet time."""

SHARES: Final = 20
"""One address is sure of such a part of the whole rate; what it asks for beyond that waits for all others."""

_NETWORK_BITS: Final = 64
"""Of an IPv6 address: who has one of a network can have all."""

_REQUEST: Final = Decoder[EnrolRequest](EnrolRequest, 131_072)
_PROOF: Final = Decoder[ActivateRequest](ActivateRequest, 131_072)


class _Asker(msgspec.Struct):
    """Who asks, as the server tells it; an account that does not share this tells its name alone."""

    acc: str = ""
    host: str = ""


_ASKER: Final = msgspec.json.Decoder(_Asker)


class Gate:
    """Lets enrolment requests through at the rates of ``limits``. ``clock`` is steady, in seconds; ``told`` says whether the
    bus tells who asks.

    Anybody who may enrol can make up ids and endorsement keys without end, but not addresses. So half of what may pass at
    once is kept for those who have not used up the share of their address: whoever floods gets what is left by others.
    """

    def __init__(self, limits: LimitsConfig, clock: Callable[[], float] = time.monotonic, *, told: bool = False) -> None:
        self._told = told
        everybody, per_minute = limits.enrolments_per_s, limits.enrolments_per_agent_min
        burst = max(1, int(BURST_S * everybody))
        self._all = TokenBucket(1 / everybody, burst, clock)
        self._kept = burst // 2
        self._sources = Buckets(SHARES / everybody, max(1, burst // SHARES), clock)
        self._machines = Buckets(60 / per_minute, max(BURST_PER_SOURCE, int(per_minute)), clock)

    def __call__(self, message: Msg) -> bool:
        """Count a request.

        :raises BusyError: there were too many.
        """
        try:
            ek_public = _REQUEST.decode(message.data).ek_public
        except SchemaError:
            # It is told so when its turn comes.
            ek_public = b""
        self.enter(source_of(message), ek_public)
        return True

    def enter(self, source: str, who: bytes) -> None:
        """Count a request that comes from ``source`` (:func:`source_of`); ``who`` is what the machine says that it is.

        A machine is told apart by its address too: nobody elsewhere can use up what it may ask for.

        :raises BusyError: there were too many.
        """
        machine = self._machines.of(hashlib.sha256(source.encode() + b"\0" + who).hexdigest())
        if not machine.take():
            raise BusyError("this machine asks for enrolment too often", retry_after_s=machine.wait_s)
        share = self._sources.of(source)
        # Requests of which the server tells nothing have one share together: headers can be such that it is not found.
        within = share.take() if source or self._told else True
        if not self._all.take(leave=0 if within else self._kept):
            raise BusyError("too many agents ask for enrolment", retry_after_s=max(self._all.wait_s, share.wait_s))


def source_of(message: Msg) -> str:
    """Return what is common to requests from one address and account; empty where the server tells nothing of it."""
    try:
        asker = _ASKER.decode((message.headers or {}).get(subjects.HEADER_REQUEST_INFO, "{}"))
    except (ValueError, RecursionError):
        return ""
    return f"{asker.acc} {_network(asker.host)}" if asker.host else ""


def _network(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), _NETWORK_BITS), strict=False))
    return str(address)


class ProofGate:
    """Lets proofs of enrolment through, at the rates at which :class:`Gate` lets requests through.

    Whoever sends more has been given no challenge for them. That is not answered: an answer is signed.
    """

    def __init__(self, limits: LimitsConfig, *, told: bool = False) -> None:
        self._gate = Gate(limits, told=told)

    def __call__(self, message: Msg) -> bool:
        """Count a proof, and return whether it is to be dealt with."""
        try:
            agent_id = _PROOF.decode(message.data).agent_id
        except SchemaError:
            agent_id = ""
        try:
            self._gate.enter(source_of(message), agent_id.encode())
        except BusyError:
            return False
        return True


class RenewalGate:
    """Lets requests for renewal through, at the same rate for each agent.

    Agents are told apart by the subject, which the bus lets nobody else use. What a request says of its sender is not known
    to be true before its signature is verified, and that costs what a flood wants to spend.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._agents = Buckets(60 / RENEWALS_PER_MIN, BURST_PER_SOURCE, clock)

    def __call__(self, message: Msg) -> bool:
        """Count a request, and return whether it is to be dealt with."""
        return self._agents.of(message.subject).take()
