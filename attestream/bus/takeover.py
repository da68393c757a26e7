"""Taking over a durable consumer whose last user has died: what that one had been given is given out again at once.

The server would otherwise keep it back until the consumer's ``ack_wait_s`` has passed, and then out of order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestream.bus import jetstream
from attestream.bus.jetstream import ApiError

if TYPE_CHECKING:
    from attestream.bus.connection import Bus


async def take_over(bus: Bus, stream: str, durable: str) -> int:
    """Have everything that consumer ``durable`` has delivered and nobody has settled delivered anew, in order.

    Only for a stream that is a work queue, whose settled messages are gone: the consumer is deleted, and made anew by who
    starts it next. Return the last sequence that was delivered before: what comes up to there may come once more.

    :raises BusError: the server refuses, or does not answer.
    """
    try:
        info = await jetstream.call(bus, f"CONSUMER.INFO.{stream}.{durable}")
        # Pulls that still wait are those of a user who has stalled: what comes next would be given to him.
        if info["num_ack_pending"] or info["num_waiting"]:
            await jetstream.call(bus, f"CONSUMER.DELETE.{stream}.{durable}")
    except ApiError as error:
        if error.err_code != jetstream.CONSUMER_NOT_FOUND:
            raise
        return 0
    return int(info["delivered"]["stream_seq"])
