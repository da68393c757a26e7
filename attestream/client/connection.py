"""The connection of a program that relies on attestation."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attestream.client import policies, pool, standing, verification
from attestream.client.commands import Commander
from attestream.client.deliveries import DeliveredEvent, DeliveredResult, VerifiedRevocation
from attestream.client.forgotten import Forgotten, told
from attestream.client.subscription import OnRejected, Source, Subscription, log_rejected
from attestream.errors import ConfigError, MalformedError, RefusedError, TimedOutError
from schemas import subjects
from schemas.base import SchemaError
from schemas.commands import Command, Outcome, PolicyRecord, PolicyState, WorkerStatus
from schemas.enrolment import DeleteIdentity, Done
from schemas.events import EventKind, Signed
from schemas.roles import Role
from schemas.topology import CLUSTER, EVENTS, KEY_NOTIFIER, RESULTS, REVOCATIONS

if TYPE_CHECKING:
    from attestream.bus.connection import Bus
    from attestream.bus.trust import Trust
    from attestream.signing import TrustedKeys

DEFAULT_URL: Final = "nats://127.0.0.1:4222"


class CommandRefusedError(RefusedError):
    """A command that was executed with a refusal; ``outcome`` has its code."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message or "the command was refused", remedy=outcome.remedy)
        self.outcome = outcome


@asynccontextmanager
async def connect(
    url: str | Sequence[str] = DEFAULT_URL,
    *,
    trust: Trust | None = None,
    keys: TrustedKeys | None = None,
    name: str = "attestream-client",
    timeout_s: float = 5.0,
    credentials: Path | None = None,
    ca_file: Path | None = None,
    client_cert: Path | None = None,
    client_key: Path | None = None,
) -> AsyncIterator[Client]:
    """Connect to the bus at ``url``, one server or several of one cluster, and disconnect at the end of the block.

    ``trust`` says whose word counts: :func:`attestream.client.trusted` with the installation's root key, and with one's own
    key for commands. ``keys`` are public keys whose revocations are believed (``attestream.signing.TrustedKeys``) instead of
    those of the roster. ``timeout_s`` is how many seconds a server may take to answer.

    ``credentials`` is the file that says who asks. ``ca_file`` has the CAs that may vouch for the servers (PEM): with it, or
    with a ``tls://`` or ``wss://`` URL, nothing is sent without TLS. ``client_cert`` and ``client_key`` are shown to servers
    that ask for a certificate.

    :raises ConfigError: when there is no ``trust``, the bus has another installation's roster, or a file can not be used.
    :raises ExpiredError: when the credentials hold no more, or not yet.
    :raises ForbiddenError: when the servers refuse the credentials, or ask for some and there are none.
    :raises BusError: when no server answers.
    """
    if trust is None:
        raise ConfigError(
            "nothing can be verified without the installation's root key",
            remedy="Give it: connect(trust=trusted('trusted/root.pem')).",
        )
    from attestream.bus.connection import BusSettings
    from attestream.bus.connection import connect as connect_bus
    from attestream.bus.encryption import Encryption

    encryption = Encryption(ca_file=ca_file, client_cert=client_cert, client_key=client_key)
    urls = [url] if isinstance(url, str) else list(url)
    bus = await connect_bus(
        BusSettings(urls=urls, name=name, connect_timeout_s=timeout_s, credentials=credentials, encryption=encryption)
    )
    client = Client(bus, keys=keys)
    try:
        await trust.start(bus, timeout_s=timeout_s)
        yield client
    finally:
        await client.close()


class Client:
    """Subscriptions, commands and queries over one connection. Made by :func:`connect`."""

    def __init__(self, bus: Bus, *, keys: TrustedKeys | None = None) -> None:
        self.bus = bus
        self._keys = keys
        self.places: Path | None = None
        """Directory in which durable subscriptions keep their places on a bus with identities; none: the user's own."""
        self._commander = Commander(bus)
        self._stops: list[Callable[[], Awaitable[None]]] = []

    async def close(self) -> None:
        """Stop every subscription and disconnect."""
        for stop in self._stops:
            await stop()
        await self.bus.close()

    def revocations(
        self, durable: str = "", *, from_start: bool = True, on_rejected: OnRejected = log_rejected
    ) -> Subscription[VerifiedRevocation]:
        """Iterate over revocations: the stored ones first, unless ``from_start`` is false and there is no ``durable`` name.

        Each was signed by one of the trusted keys. One that was not, or can not be read, is never yielded: it is handed to
        ``on_rejected`` (default: logged as an error), and under a ``durable`` name it goes to the stream DEAD.

        :raises ConfigError: when the client knows neither a roster nor trusted keys.
        """
        if self._keys is None and not self.bus.trust.checked:
            raise ConfigError(
                "revocations can not be verified without trusted keys",
                remedy="Give the notifier's public key to connect(keys=...).",
            )
        source = Source(
            stream=REVOCATIONS.name,
            filters=[subjects.REVOCATIONS],
            live=[subjects.REVOKED],
            durable=durable,
            places=self.places,
            from_start=from_start or bool(durable),
        )
        read = verification.revocations(self.bus.trust, self._keys, durable=bool(durable))
        revocations = Subscription(self.bus, source, read, on_rejected)
        self._stops.append(revocations.stop)
        return revocations

    def results(
        self, durable: str = "", *, agent_id: str = "", on_rejected: OnRejected = log_rejected
    ) -> Subscription[DeliveredResult]:
        """Iterate over attestation results: first the last one of each agent, then each new one and each lapse.

        :raises MalformedError: when ``agent_id`` is given and can not be one.
        """
        try:
            subject = subjects.result(agent_id) if agent_id else subjects.RESULTS
        except SchemaError as error:
            raise MalformedError(str(error)) from error
        source = Source(stream=RESULTS.name, filters=[subject], durable=durable, places=self.places)
        results = Subscription(self.bus, source, verification.results(self.bus.trust, durable=bool(durable)), on_rejected)
        self._stops.append(results.stop)
        return results

    def events(
        self,
        durable: str = "",
        *,
        kinds: Iterable[EventKind] = (),
        agent_id: str = "",
        from_start: bool = False,
        since: int = 0,
        on_rejected: OnRejected = log_rejected,
    ) -> Subscription[DeliveredEvent]:
        """Iterate over events of ``kinds`` (default: all) about ``agent_id`` (default: all).

        Without a ``durable`` name it begins with the first stored one (``from_start``), with those since a Unix time in
        milliseconds (``since``), or with what comes next. Under a new name it begins with the first stored one.

        :raises MalformedError: when ``agent_id`` is given and can not be one.
        """
        try:
            filters = [
                subjects.event(kind, agent_id) if agent_id else subjects.events_of_kind(kind)
                for kind in tuple(kinds) or EventKind
            ]
        except SchemaError as error:
            raise MalformedError(str(error)) from error
        source = Source(
            stream=EVENTS.name,
            filters=filters,
            live=[subjects.EVENTS],
            durable=durable,
            places=self.places,
            from_start=from_start or bool(durable),
            since=0 if durable else since,
        )
        events = Subscription(self.bus, source, verification.events(self.bus.trust, durable=bool(durable)), on_rejected)
        self._stops.append(events.stop)
        return events

    async def command(self, command: Command, *, timeout_s: float = 10.0) -> Outcome:
        """Have ``command`` executed and return its outcome.

        :raises CommandRefusedError: when it was executed with a refusal.
        :raises PendingCommandError: when it is accepted but has no outcome after ``timeout_s`` seconds.
        :raises MalformedError: when its agent or policy has an impossible name.
        :raises BusError: when the bus does not take it.
        """
        return _granted(await self._commander.send(command, timeout_s=timeout_s))

    async def push_policy(self, name: str, document: bytes, *, timeout_s: float = 10.0) -> str:
        """Publish ``document`` as the next version of policy ``name`` and return ``name@version``.

        Where the installation asks for two people it is only proposed: another has to approve it. Where it asks for a
        signature, ``document`` is an envelope (DSSE) with the document in it.

        :raises PolicyError: when the document is not valid; nothing has been sent then.
        :raises CommandRefusedError: when a verifier refused it.
        :raises PendingCommandError: when no verifier has answered within ``timeout_s`` seconds.
        :raises MalformedError: when ``name`` can not be a policy's name.
        :raises BusError: when the bus does not take it.
        """
        return (await self.propose_policy(name, document, timeout_s=timeout_s))[0]

    async def propose_policy(self, name: str, document: bytes, *, timeout_s: float = 10.0) -> tuple[str, bool]:
        """Do the same as :meth:`push_policy`, and return besides whether the version can be used already."""
        outcome = _granted(await policies.push(self.bus, self._commander, name, document, timeout_s=timeout_s))
        reference, _, state = outcome.detail.partition(" ")
        return reference, state != PolicyState.PROPOSED

    async def approve_policy(self, reference: str, *, digest: str = "", timeout_s: float = 10.0) -> str:
        """Approve the proposed version ``name@version`` of somebody else, and return it. ``digest`` is the SHA-256 in hex of
        the document that was looked at; without it, of the one that the bus has now.

        :raises UnknownPolicyError: when there is none.
        :raises MalformedError: when ``reference`` has no version.
        :raises CommandRefusedError: when a verifier refused it: to its author, or when it is decided already.
        :raises PendingCommandError: when no verifier has answered within ``timeout_s`` seconds.
        :raises BusError: when the bus does not take it.
        """
        return await self._decide(reference, approve=True, digest=digest, timeout_s=timeout_s)

    async def reject_policy(self, reference: str, *, digest: str = "", reason: str = "", timeout_s: float = 10.0) -> str:
        """Reject the proposed version ``name@version``, and return it; its author may take it back so. Arguments and errors
        are those of :meth:`approve_policy`; ``reason`` goes on the record."""
        return await self._decide(reference, approve=False, digest=digest, reason=reason, timeout_s=timeout_s)

    async def _decide(self, reference: str, *, approve: bool, digest: str, timeout_s: float, reason: str = "") -> str:
        outcome = await policies.decide(
            self.bus, self._commander, reference, approve=approve, digest=digest, reason=reason, timeout_s=timeout_s
        )
        return _granted(outcome).detail

    async def policies(self) -> list[PolicyRecord]:
        """Return every version of every policy, by name and version.

        :raises BusError: when the bus does not answer.
        """
        return await policies.records(self.bus)

    async def policy(self, reference: str) -> tuple[PolicyRecord, bytes]:
        """Return the record and the document of ``name@version``, or of the newest version of ``name``.

        :raises UnknownPolicyError: when there is none.
        :raises BusError: when the bus does not answer.
        """
        return await policies.find(self.bus, reference)

    async def fleet(self, *, timeout_s: float = 5.0) -> standing.Fleet:
        """Return what is known of every agent.

        :raises BusError: when the bus does not answer. Silent services only leave gaps, which the answer names.
        """
        return await standing.fleet(self.bus, now=_now(), timeout_s=timeout_s)

    async def forgotten(self, *, timeout_s: float = 5.0) -> list[Forgotten]:
        """Return what the record tells of agents that nobody attests, because the verifiers' database is older.

        :raises TimedOutError: when no verifier answers.
        :raises BusError: when the bus does not answer.
        """
        fleet = await self.fleet(timeout_s=timeout_s)
        if not fleet.verifier:
            raise TimedOutError("no verifier answers")
        return await told(self.bus, fleet.forgotten)

    async def agent(self, agent_id: str, *, timeout_s: float = 5.0) -> standing.AgentView:
        """Return what is known of one agent.

        :raises UnknownAgentError: when nobody knows it.
        :raises BusError: when the bus does not answer, or nobody who could know the agent does.
        """
        return await standing.agent(self.bus, agent_id, now=_now(), timeout_s=timeout_s)

    async def workers(self) -> list[WorkerStatus]:
        """Return the verifier workers that are alive.

        :raises BusError: when the bus does not answer.
        :raises MalformedError: when a heartbeat can not be read.
        """
        return await pool.workers(self.bus)

    async def drain_worker(self, worker: str, *, wait: bool = True, timeout_s: float = 30.0) -> WorkerStatus | None:
        """Have ``worker`` give its partitions to others, a few at a time, and by default wait until it has none.

        It takes none again until :meth:`undrain_worker`, or until it starts again. Return its last heartbeat, if it has one.

        :raises RefusedError: when there is no such worker, or nobody who could take its partitions.
        :raises ForbiddenError: when one's own role may not do that.
        :raises TimedOutError: when it does not answer, or still has partitions after ``timeout_s`` seconds.
        """
        return await pool.drain(self.bus, worker, drain=True, wait=wait, timeout_s=timeout_s)

    async def undrain_worker(self, worker: str, *, timeout_s: float = 5.0) -> WorkerStatus | None:
        """Let ``worker`` take partitions again; errors as of :meth:`drain_worker`."""
        return await pool.drain(self.bus, worker, drain=False, wait=False, timeout_s=timeout_s)

    async def rebalance_workers(self, *, timeout_s: float = 5.0) -> int:
        """Have the partitions shared out by what their agents need now, and return how many move.

        :raises ForbiddenError: when one's own role may not do that.
        :raises TimedOutError: when no worker answers.
        """
        return await pool.rebalance(self.bus, timeout_s=timeout_s)

    async def delete_enrolment(self, agent_id: str, *, timeout_s: float = 5.0) -> None:
        """Remove an enrolment, so that the id is free for another TPM.

        :raises UnknownAgentError: when there is none.
        :raises TimedOutError: when the registrar does not answer.
        """
        request = DeleteIdentity(agent_id=agent_id)
        answers = (Role.REGISTRAR,)
        await self.bus.request(subjects.REGISTRAR_DELETE, request, Done, timeout_s=timeout_s, sign=True, signed_by=answers)

    async def change_roster(self, signed: Signed, *, timeout_s: float = 5.0) -> None:
        """Hand in a roster that the root key has signed; the registrar publishes it and puts each change on the record.

        :raises SupersededError: when the bus has one that is as new.
        :raises SignatureError: when no root key has signed it.
        :raises ForbiddenError: when one's own role may not do that.
        :raises TimedOutError: when the registrar does not answer.
        """
        answers = (Role.REGISTRAR,)
        await self.bus.request(subjects.REGISTRAR_ROSTER, signed, Done, timeout_s=timeout_s, sign=True, signed_by=answers)

    async def published_keys(self) -> dict[str, str]:
        """Return the notifier's public keys in PEM, by key id, on the bus's word alone: whoever holds the bus can put others
        there. Keep those that you have compared with the notifier's own.

        :raises BusError: when the bus does not answer.
        """
        from attestream.bus import keyvalue

        found = await keyvalue.entries(self.bus, CLUSTER.name, f"{KEY_NOTIFIER}.*")
        return {key.rpartition(".")[2]: entry.value.decode("ascii", "replace") for key, entry in sorted(found.items())}


def _granted(outcome: Outcome) -> Outcome:
    if not outcome.ok:
        raise CommandRefusedError(outcome)
    return outcome


def _now() -> int:
    return int(time.time() * 1000)
