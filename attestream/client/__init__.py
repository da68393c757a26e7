"""The SDK: subscribe to revocations, results and events, and send commands.

::

    from attestream.client import connect, trusted

    async with connect("nats://127.0.0.1:4222", trust=trusted("trusted/root.pem")) as client:
        async for revocation in client.revocations(durable="siem"):
            cut_off(revocation.agent_id)
            await revocation.ack()

A subscription is an async iterator that goes on for ever and outlives restarts of the bus. Under a durable name its place
is kept by the bus: what was not acknowledged comes again, also to another process that subscribes under that name. A
message may come twice, never not at all; ``revocation.id`` and ``sequence`` are stable.
"""

from attestream.client.commands import PendingCommandError, new_command_id
from attestream.client.connection import Client, CommandRefusedError, connect
from attestream.client.deliveries import DeliveredEvent, DeliveredResult, VerifiedRevocation
from attestream.client.forgotten import Forgotten
from attestream.client.standing import AgentView, Fleet
from attestream.client.subscription import Rejected, Subscription, log_rejected
from attestream.client.verification import trusted, unverified

__all__ = [
    "AgentView",
    "Client",
    "CommandRefusedError",
    "DeliveredEvent",
    "DeliveredResult",
    "Fleet",
    "Forgotten",
    "PendingCommandError",
    "Rejected",
    "Subscription",
    "VerifiedRevocation",
    "connect",
    "log_rejected",
    "new_command_id",
    "trusted",
    "unverified",
]
