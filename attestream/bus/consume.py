"""Durable pull consumers: a small overlapping pull loop that trusts no single pull.

A pull can be lost with a connection, a server or a leader, and nothing says so. Each pull therefore asks for idle
heartbeats; when neither a message nor a heartbeat comes for two and a half of them, pulling starts over. The consumer's
state is the server's, so nothing is lost by that.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from attestream.bus import jetstream, outcome, tracing
from attestream.bus.connection import Bus
from attestream.bus.delivery import ACK_PREFIX, Delivery
from attestream.bus.jetstream import nanoseconds
from attestream.bus.window import PullWindow
from attestream.errors import BusError
from attestream.telemetry import DEAD_LETTERS, counter
from schemas import subjects
from schemas.events import DeadLetter

__all__ = ["DEFERRED", "Consumer", "Deferred", "Delivery", "Handler", "Start"]

_LOG: Final = logging.getLogger(__name__)

_PULL_S: Final = 30.0
_HEARTBEAT_S: Final = 2.0
_SILENT_HEARTBEATS: Final = 2.5
_EPHEMERAL_S: Final = 60
_RECOVERY_S: Final = (0.05, 2.0)
_STOP_S: Final = 10.0
_DEAD_BYTES: Final = 65_536


class Deferred(enum.Enum):
    """The type of :data:`DEFERRED`."""

    DEFERRED = enum.auto()


DEFERRED: Final = Deferred.DEFERRED
"""What a handler returns when it settles the delivery itself, later."""

Handler = Callable[[Delivery], Awaitable[Deferred | None]]
Start = Literal["all", "new", "last", "last_per_subject"]


class Consumer:
    """Calls ``handler`` for each message, one after another.

    The handler returns ``None`` to acknowledge or :data:`DEFERRED` to settle later; what it raises is judged by
    :mod:`attestream.bus.outcome`. ``durable`` names the consumer on the server, whose place in the stream outlives this
    process; empty makes one that the server forgets a minute after this process has gone.

    Times are in seconds. ``batch``: messages of one pull, up to one and a half batches are buffered here.
    ``max_ack_pending``: deliveries that may be unsettled, 0 for one batch; more of them come out of order after a
    takeover. ``ack_wait_s``: a delivery that is not settled for so long is repeated; keep it well above the time that a
    whole batch takes. ``max_deliveries``: attempts at a message whose handler fails unexpectedly. ``start``: where a
    consumer that is created now begins, or the Unix time in milliseconds since which messages are wanted.
    ``heartbeat_s``: a lost pull is noticed after two and a half of these. ``on_doubt`` is for the only user of a durable:
    called when deliveries or acknowledgements may have been lost without the connection being lost, because the consumer's
    leader has changed, nothing was heard from it, or a delivery is missing between two others. What was lost would come
    again after ``ack_wait_s``; :func:`attestream.bus.takeover.take_over` between stop and start has it come at once.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        durable: str,
        handler: Handler,
        *,
        filters: list[str],
        batch: int = 64,
        max_ack_pending: int = 0,
        ack_wait_s: float = 30.0,
        max_deliveries: int = 10,
        start: Start | int = "all",
        heartbeat_s: float = _HEARTBEAT_S,
        on_doubt: Callable[[], None] | None = None,
    ) -> None:
        self.stream = stream
        self.name = durable or "e" + secrets.token_hex(8)
        self.lost_pulls = 0
        """How often pulling had to start over."""
        self._bus = bus
        self._durable = bool(durable)
        self._handler = handler
        self._filters = filters
        self._max_deliveries = max_deliveries
        self._heartbeat_s = heartbeat_s
        self._on_doubt = on_doubt
        self._config: dict[str, Any] = {
            "ack_policy": "explicit",
            "ack_wait": nanoseconds(ack_wait_s),
            "max_ack_pending": max_ack_pending or batch,
            "max_deliver": -1,
            "deliver_policy": "by_start_time" if isinstance(start, int) else start,
            "replay_policy": "instant",
        }
        if isinstance(start, int):
            self._config["opt_start_time"] = datetime.fromtimestamp(start / 1000, UTC).isoformat()
        self._dead = counter(DEAD_LETTERS)
        self._window = PullWindow(batch)
        self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{self.name}"
        self._pull_body = _pull_body(batch, heartbeat_s)
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._forget_reconnect: Callable[[], None] | None = None
        self._heard = 0.0
        self._busy = False
        self._stopping = False
        self._unhandled: list[Delivery] = []
        self._last_sequence = 0
        self._last_delivery = 0
        """Number of the newest delivery, of any message; 0: none yet."""
        self._missing = False

    @property
    def behind(self) -> bool:
        """Whether a message is being handled, or more have come and wait for that."""
        return self._busy or (self._subscription is not None and self._subscription.pending_msgs > 0)

    async def __aenter__(self) -> Consumer:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Create the consumer on the server (or take up the existing one) and begin to pull.

        :raises BusError: the server refuses, or does not answer.
        """
        self._stopping = False
        self._last_delivery, self._missing = 0, False
        self._window.reset()
        await self._create()
        self._inbox = self._bus.nc.new_inbox() + "."
        try:
            self._subscription = await self._bus.nc.subscribe(self._inbox + "*", cb=self._take, pending_bytes_limit=0)
        except nats.errors.Error as error:
            raise BusError(f"{self.name} can not listen: {error}") from error
        self._bus.nc.attend(self._subscription, self._beat)
        self._forget_reconnect = self._bus.on_reconnect(self._reconnected)
        self._heard = time.monotonic()
        await self._pull()
        self._look_again()

    async def stop(self, timeout_s: float = _STOP_S) -> None:
        """Let the running handler end and give back what is buffered, so that the next owner gets it at once.

        A handler that takes longer than ``timeout_s`` seconds is cancelled.
        """
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        if self._forget_reconnect is not None:
            self._forget_reconnect()
        if self._recovery is not None:
            self._recovery.cancel()
        subscription, self._subscription = self._subscription, None
        if subscription is None or self._bus.nc.is_closed:
            return
        if not self._bus.nc.is_connected:
            # Nothing can be given back: what was delivered comes again after its ack_wait_s.
            await subscription.unsubscribe()
            return
        try:
            async with asyncio.timeout(timeout_s):
                # Leaves the inbox, waits for what was on its way, and runs the callback for all of it.
                await subscription.drain()  # type: ignore[no-untyped-call]  # the library leaves it without annotations
                await self._give_back(timeout_s)
                await self._bus.nc.flush()
        except (nats.errors.Error, TimeoutError, OSError, BusError) as error:
            _LOG.warning("%s/%s did not stop in order: %s", self.stream, self.name, str(error) or type(error).__name__)
            subscription._stop_processing()  # noqa: SLF001 - no public call ends a subscription that is half drained
        except asyncio.CancelledError:
            subscription._stop_processing()  # noqa: SLF001 - the same
            raise

    async def _give_back(self, timeout_s: float) -> None:
        verb = "INFO" if self._durable else "DELETE"
        # The server tries a returned message on each pull that still waits, finds that nobody listens, and puts the message
        # behind the others. Asked for information it first drops such pulls, so that the order stays.
        await jetstream.call(self._bus, f"CONSUMER.{verb}.{self.stream}.{self.name}", timeout_s=timeout_s)
        for delivery in self._unhandled:
            await delivery.retry()
        self._unhandled.clear()

    async def _create(self) -> None:
        config = dict(self._config)
        if self._durable:
            config["durable_name"] = self.name
        else:
            config |= {"name": self.name, "inactive_threshold": nanoseconds(_EPHEMERAL_S), "mem_storage": True}
            if self._last_sequence:
                config.pop("opt_start_time", None)
                config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last_sequence + 1}
        subject = f"CONSUMER.CREATE.{self.stream}.{self.name}"
        if len(self._filters) == 1:
            config["filter_subject"] = self._filters[0]
            subject += "." + self._filters[0]
        else:
            config["filter_subjects"] = self._filters
        await jetstream.call(self._bus, subject, {"stream_name": self.stream, "config": config})

    async def _pull(self) -> None:
        self._window.opened()
        try:
            await self._bus.nc.publish(self._pull_subject, self._pull_body, reply=f"{self._inbox}{self._window.generation}")
        except nats.errors.Error as error:
            # The watch makes the next attempt.
            _LOG.debug("%s/%s: no pull: %s", self.stream, self.name, error)

    async def _take(self, message: Msg) -> None:
        if not message.reply.startswith(ACK_PREFIX):
            # The server's own word comes to the inbox itself; a message keeps its subject, and may carry any header.
            if message.subject.startswith(self._inbox):
                await self._control(message)
            return
        self._window.arrived()
        delivery = Delivery(self._bus.nc, message)
        if self._stopping or self._misses(delivery):
            self._unhandled.append(delivery)
            return
        if self._window.due:
            await self._pull()
        self._busy = True
        try:
            await self._handle(delivery)
        finally:
            self._busy = False
            self._heard = time.monotonic()

    def _misses(self, delivery: Delivery) -> bool:
        """Return whether a delivery before this one is lost: only by beginning anew does it come in order."""
        if self._on_doubt is None:
            return False
        if not self._missing and self._last_delivery and delivery.number != self._last_delivery + 1:
            self._missing = True
            self._doubt()
        self._last_delivery = delivery.number
        return self._missing

    async def _handle(self, delivery: Delivery) -> None:
        try:
            if tracing.carried(delivery.headers):
                with tracing.extracted(delivery.headers):
                    result = await self._handler(delivery)
            else:
                result = await self._handler(delivery)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Something inside the handler was cancelled; passing it on would end the subscription without a word.
            await self.fail(delivery, RuntimeError("the handler was cancelled from within"))
        except Exception as error:  # noqa: BLE001 - whatever it is, outcome.decide() gives the message its fate
            await self.fail(delivery, error)
        else:
            self._last_sequence = delivery.sequence
            if result is not DEFERRED:
                await delivery.ack()

    async def fail(self, delivery: Delivery, error: Exception) -> None:
        """Let :mod:`attestream.bus.outcome` decide about a delivery that was deferred and has ended in ``error``."""
        fate = outcome.decide(error, delivery.deliveries, self._max_deliveries)
        unexpected = error if fate.code == "internal" else None
        where = f"{self.stream}/{self.name} message {delivery.sequence} delivery {delivery.deliveries}"
        if fate.fate is outcome.Fate.RETRY:
            _LOG.warning("%s: retried in %.2f s: %s", where, fate.delay_s, fate.message, exc_info=unexpected)
            await delivery.retry(fate.delay_s)
            return
        _LOG.error("%s: dead: %s", where, fate.message, exc_info=unexpected)
        letter = DeadLetter(
            stream=self.stream,
            subject=delivery.subject,
            sequence=delivery.sequence,
            deliveries=delivery.deliveries,
            at=delivery.at,
            code=fate.code,
            message=fate.message,
            data=delivery.data[:_DEAD_BYTES],
        )
        self._dead.add(1, {"stream": self.stream})
        message_id = f"dead.{self.stream}.{self.name}.{delivery.sequence}"
        try:
            await self._bus.publish_durable(subjects.dead(self.stream), letter, message_id=message_id)
        except BusError as failure:
            _LOG.warning("%s: no dead letter yet: %s", where, failure)
            await delivery.retry(outcome.FIRST_DELAY_S)
            return
        await delivery.terminate()

    def _beat(self, subject: str) -> None:
        if subject[len(self._inbox) :] == str(self._window.generation):
            self._heard = time.monotonic()

    async def _control(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status", "")
        generation = message.subject[len(self._inbox) :]
        if generation != str(self._window.generation) or self._stopping:
            return
        self._heard = time.monotonic()
        if status == "100":
            return
        if status in ("404", "408"):
            left = headers.get("Nats-Pending-Messages", "")
            self._window.ended(int(generation), int(left) if left.isdigit() else self._window.batch)
            if self._window.due:
                await self._pull()
            return
        # 409: the leader or the consumer has changed; 503: nobody knows the consumer.
        reason = headers.get("Description", "")
        _LOG.info("%s/%s: pull ended: %s %s", self.stream, self.name, status, reason)
        self._start_over(recreate=status == "503" or "Deleted" in reason)
        self._doubt()

    def _look_again(self) -> None:
        silence = _SILENT_HEARTBEATS * self._heartbeat_s
        idle = not self._busy and self._subscription is not None and not self._subscription.pending_msgs
        if idle and self._bus.nc.is_connected and time.monotonic() - self._heard > silence:
            self.lost_pulls += 1
            _LOG.info("%s/%s: silent for %.1f s, pulling anew", self.stream, self.name, time.monotonic() - self._heard)
            self._start_over(recreate=not self._durable)
            self._doubt()
        self._watch = asyncio.get_running_loop().call_later(self._heartbeat_s, self._look_again)

    def _doubt(self) -> None:
        if self._on_doubt is not None and not self._stopping:
            self._on_doubt()

    async def _reconnected(self) -> None:
        self._start_over(recreate=not self._durable)

    def _start_over(self, *, recreate: bool) -> None:
        self._window.reset()
        self._heard = time.monotonic()
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.create_task(self._recover(recreate=recreate))

    async def _recover(self, *, recreate: bool) -> None:
        delay, longest = _RECOVERY_S
        while not self._stopping:
            try:
                if recreate:
                    await self._create()
                break
            except BusError as error:
                _LOG.warning("%s/%s can not be set up again yet: %s", self.stream, self.name, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, longest)
        self._window.reset()
        await self._pull()


def _pull_body(batch: int, heartbeat_s: float) -> bytes:
    expires_s = max(_PULL_S, 3 * heartbeat_s)
    body = {"batch": batch, "expires": nanoseconds(expires_s), "idle_heartbeat": nanoseconds(heartbeat_s)}
    return json.dumps(body).encode()
