"""Hears challenges and answers them: bare evidence to whoever asked, news over the stream."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from typing import Final

import msgspec
from nats.aio.msg import Msg

from attestream.bus.connection import Bus
from attestream.errors import AttestreamError
from attestream.rates import TokenBucket
from schemas import subjects
from schemas.attestation import Challenge, Evidence
from schemas.base import Decoder, SchemaError
from services.agent.evidence import EvidenceMaker, check, cut, is_bare
from services.agent.tpm_device import KeyLostError

COMPLAINTS: Final = 5
COMPLAINT_S: Final = 60.0
"""So many refused challenges are logged at once, and then one in so many seconds."""

_log = logging.getLogger(__name__)

_CHALLENGE: Final = Decoder[Challenge](Challenge)


class _Waiting(msgspec.Struct, frozen=True):
    challenge: Challenge
    reply: str
    until: float
    """Time of the event loop after which an answer is not awaited."""


class Answerer:
    """Answers one challenge at a time. While it does, the newest of those that come in waits; older ones are dropped.

    :param executor: runs the blocking work on the TPM and the log.
    """

    def __init__(self, bus: Bus, agent_id: str, maker: EvidenceMaker, executor: Executor) -> None:
        self._bus = bus
        self._agent_id = agent_id
        self._maker = maker
        self._executor = executor
        self._next: _Waiting | None = None
        self._wake = asyncio.Event()
        self._complaints = TokenBucket(COMPLAINT_S, COMPLAINTS, time.monotonic)

    async def hear(self, message: Msg) -> None:
        """Take a challenge off the bus; never waits for its answer."""
        try:
            challenge = _CHALLENGE.decode(message.data)
            check(challenge, self._agent_id)
        except (SchemaError, AttestreamError) as error:
            # Other agents can have the server send its answers here: what they make happen must stay little.
            if self._complaints.take():
                _log.warning("a challenge was refused: %s", error)
            return
        # The life of a challenge is counted from its arrival: the clocks of agent and verifier may differ.
        life_s = (challenge.deadline - challenge.issued_at) / 1000
        if self._next is not None:
            _log.info("challenge %d is superseded by %d", self._next.challenge.seq, challenge.seq)
        self._next = _Waiting(challenge, message.reply, asyncio.get_running_loop().time() + life_s)
        self._wake.set()

    async def run(self) -> None:
        """Answer for ever.

        :raises KeyLostError: when the AK is gone; the agent must enrol anew.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._next = self._next, None
            if waiting is None:
                continue
            if asyncio.get_running_loop().time() >= waiting.until:
                _log.info("challenge %d is past its deadline", waiting.challenge.seq)
                continue
            try:
                await self._answer(waiting)
            except KeyLostError:
                raise
            except AttestreamError as error:
                _log.error("challenge %d was not answered: %s", waiting.challenge.seq, error)

    async def _answer(self, waiting: _Waiting) -> None:
        loop = asyncio.get_running_loop()
        evidence = await loop.run_in_executor(self._executor, self._maker.make, waiting.challenge)
        if is_bare(evidence) and waiting.reply:
            await self._bus.publish(waiting.reply, evidence)
        else:
            await publish_news(self._bus, evidence)


async def publish_news(bus: Bus, evidence: Evidence) -> None:
    """Store ``evidence`` in the stream, in parts where it is large: the quote first, then the parts in order.

    :raises BusError: when the bus does not confirm one of them in time.
    """
    subject = subjects.evidence(evidence.agent_id)
    # The nonce tells challenges apart that have one number: a deleted agent that is added again starts from 1.
    base = f"{evidence.agent_id}:{evidence.enrolment}:{evidence.seq}:{evidence.nonce[:8].hex()}"
    for index, message in enumerate(cut(evidence)):
        await bus.publish_durable(subject, message, message_id=f"{base}:{index - 1}" if index else base)
