"""A registrar without a memory, for tests of agents: it grants what is proven, and can be made to misbehave."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus.connection import Bus
from attestream.tpm.credential import make_credential
from attestream.tpm.public import Public, parse_public
from schemas import subjects
from schemas.base import Message, decode, encode
from schemas.enrolment import ActivateRequest, EnrolChallenge, Enrolled, EnrolRequest, Refused, transcript


class SoftRegistrar:
    """Answers enrolments on ``bus`` after :meth:`start`."""

    def __init__(self, bus: Bus, *, enrolment: int = 1) -> None:
        self.refusals = 0
        """How many of the first requests are refused."""
        self.wrong_names = 0
        """How many of the next confirmations name another AK."""
        self.requests: list[EnrolRequest] = []
        """All requests."""
        self.proven: list[bool] = []
        """For each activation whether its proof was right."""
        self._subscriptions: list[Subscription] = []
        self._bus = bus
        self._enrolment = enrolment
        self._pending: dict[bytes, tuple[bytes, bytes, bytes, Public]] = {}

    async def start(self) -> None:
        """Begin to answer."""
        for subject, answer in ((subjects.REGISTRAR_ENROL, self._enrol), (subjects.REGISTRAR_ACTIVATE, self._activate)):
            self._subscriptions.append(await self._bus.subscribe(subject, answer))

    async def stop(self) -> None:
        """Answer no more."""
        while self._subscriptions:
            await self._subscriptions.pop().unsubscribe()

    async def _answer(self, message: Msg, answer: Message) -> None:
        """Answer, signed where the bus's trust signs."""
        place = (message.headers or {}).get(subjects.HEADER_REPLY_TO, "")
        await self._bus.publish(
            message.reply, answer, headers=self._bus.trust.sign(place, encode(answer)) if place else None
        )

    async def _enrol(self, message: Msg) -> None:
        request = decode(message.data, EnrolRequest)
        self.requests.append(request)
        answer: Message
        if len(self.requests) <= self.refusals:
            answer = Refused(code="enrolment-refused", message="not today")
        else:
            ak, secret, challenge_id = parse_public(request.ak_public), secrets.token_bytes(32), secrets.token_bytes(16)
            credential, sealed = make_credential(parse_public(request.ek_public), ak.name, secret)
            answer = EnrolChallenge(challenge_id=challenge_id, credential=credential, secret=sealed, expires_at=1)
            self._pending[challenge_id] = (secret, bytes(message.data), encode(answer), ak)
        await self._answer(message, answer)

    async def _activate(self, message: Msg) -> None:
        request = decode(message.data, ActivateRequest)
        secret, asked, challenged, ak = self._pending.pop(request.challenge_id)
        expected = hmac.new(secret, transcript(asked, challenged), hashlib.sha256).digest()
        proven = hmac.compare_digest(expected, request.proof)
        self.proven.append(proven)
        name = ak.name
        if self.wrong_names:
            self.wrong_names -= 1
            name = bytes(len(name))
        answer: Message = Refused(code="enrolment-refused", message="the proof is wrong")
        if proven:
            answer = Enrolled(agent_id=request.agent_id, ak_name=name, enrolment=self._enrolment, at=1)
        await self._answer(message, answer)
