"""Webhooks: each receiver has its own durable consumer, so that it gets everything in order and delays nobody else.

A delivery that fails is given back to the server with a delay that grows with the number of deliveries, which the server
counts: neither the message nor the pace is lost when the notifier restarts. Only one message of a sink is under way at any
time, so that a later one never overtakes one that waits.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from attestream import __version__
from attestream.bus.connection import Bus
from attestream.bus.consume import DEFERRED, Consumer, Deferred
from attestream.bus.delivery import Delivery
from attestream.config import Webhook
from attestream.errors import ConfigError
from attestream.signing import TrustedKeys
from attestream.telemetry import DELIVERIES, counter
from schemas import subjects, topology
from schemas.base import Decoder
from schemas.events import Revocation, Signed

LONGEST_DELAY_S: Final = 60.0
STOP_S: Final = 3.0
"""Seconds that a delivery which is under way has to end when the notifier stops; after that it is repeated later."""
MAX_TOKEN_BYTES: Final = 8192

_ACK_MARGIN_S: Final = 2.0
_DECODER: Final = Decoder[Signed](Signed)
_JSON: Final = msgspec.json.Encoder()
_log = logging.getLogger(__name__)


def durable_name(sink: str) -> str:
    """Return the name of a sink's durable consumer."""
    return f"webhook-{sink}"


def delay_s(deliveries: int, base_s: float, uniform: Callable[[float, float], float] = random.uniform) -> float:
    """Return the seconds to wait after failed delivery ``deliveries`` (from 1): doubling from ``base_s`` to 60, jittered."""
    longest = min(LONGEST_DELAY_S, base_s * 2.0 ** min(max(deliveries, 1) - 1, 16))
    return uniform(longest / 2, longest)


def body(revocation: Revocation, signed: Signed) -> bytes:
    """Return the JSON document of a revocation. ``signed`` holds the envelope in base64, for receivers that verify it."""
    return _JSON.encode(
        {
            "id": revocation.id,
            "agent_id": revocation.agent_id,
            "at": revocation.at,
            "signed_at": revocation.signed_at,
            "standing": revocation.standing,
            "enrolment": revocation.enrolment,
            "policy": revocation.policy,
            "findings": [
                {name: getattr(finding, name) for name in finding.__struct_fields__} for finding in revocation.findings
            ],
            "signed": {
                "payload": base64.b64encode(signed.payload).decode(),
                "key_id": signed.key_id,
                "algorithm": signed.algorithm,
                "signature": base64.b64encode(signed.signature).decode(),
            },
        }
    )


class Sink:
    """Delivers every revocation to one receiver, for as long as it runs."""

    def __init__(self, bus: Bus, webhook: Webhook, keys: TrustedKeys, *, retry_base_s: float) -> None:
        """:raises ConfigError: when a file of the webhook can not be used, or its token would travel unprotected."""
        self._webhook = webhook
        self._keys = keys
        self._retry_base_s = retry_base_s
        self._tls = _tls(webhook)
        if webhook.token_file is not None:
            _check_protected(webhook)
            _token(webhook.token_file)
        self._counter = counter(DELIVERIES)
        self._delivered = 0
        self._session: aiohttp.ClientSession | None = None
        self._consumer = Consumer(
            bus,
            topology.REVOCATIONS.name,
            durable_name(webhook.name),
            self._deliver,
            filters=[subjects.REVOCATIONS],
            batch=4,
            max_ack_pending=1,
            ack_wait_s=webhook.timeout_s + _ACK_MARGIN_S,
            start="new",
        )

    async def start(self) -> None:
        """Begin to deliver; a sink that the server has not met gets the revocations from now on.

        :raises BusError: when the server refuses, or does not answer.
        """
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._webhook.timeout_s),
            headers={"User-Agent": f"attestream/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self._consumer.start()

    async def stop(self) -> None:
        """End; what was not delivered stays with the server."""
        await self._consumer.stop(STOP_S)
        if self._session is not None:
            await self._session.close()

    async def _deliver(self, delivery: Delivery) -> Deferred | None:
        signed = _DECODER.decode(delivery.data)
        # The broker is not believed: what it holds must bear the notifier's own signature.
        revocation = self._keys.open(signed, Revocation)
        failure = await self._post(revocation, signed)
        name = self._webhook.name
        self._counter.add(1, {"sink": name, "outcome": "failed" if failure else "delivered"})
        if failure:
            wait = delay_s(delivery.deliveries, self._retry_base_s)
            _log.warning(
                "sink %s: revocation %s not delivered (attempt %d): %s; again in %.1f s",
                name,
                revocation.id,
                delivery.deliveries,
                failure,
                wait,
            )
            await delivery.retry(wait)
            return DEFERRED
        self._delivered += 1
        _log.info("sink %s: delivered revocation %s; %d since the start", name, revocation.id, self._delivered)
        return None

    async def _post(self, revocation: Revocation, signed: Signed) -> str:
        """Return why the receiver has not taken it; empty when it has."""
        if self._session is None:
            raise RuntimeError("the sink was not started")
        headers = {"Content-Type": "application/json", "Idempotency-Key": revocation.id}
        try:
            if self._webhook.token_file is not None:
                headers["Authorization"] = f"Bearer {_token(self._webhook.token_file)}"
            async with self._session.post(
                self._webhook.url,
                data=body(revocation, signed),
                headers=headers,
                ssl=self._tls,
                allow_redirects=False,
            ) as response:
                return "" if 200 <= response.status < 300 else f"status {response.status}"
        except TimeoutError:
            return f"no answer within {self._webhook.timeout_s:g} s"
        except (aiohttp.ClientError, ConfigError, OSError) as error:
            # The error's own text may hold the URL and with it a password.
            return error.message if isinstance(error, ConfigError) else type(error).__name__


def _tls(webhook: Webhook) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=webhook.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if webhook.client_cert is not None:
            context.load_cert_chain(webhook.client_cert, webhook.client_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the certificates of webhook {webhook.name!r} can not be used: {error}") from error
    return context


def _check_protected(webhook: Webhook) -> None:
    parts = urlsplit(webhook.url)
    if parts.scheme == "https" or _loopback(parts.hostname or ""):
        return
    raise ConfigError(
        f"webhook {webhook.name!r} would send its token over plain http", remedy="Use an https URL, or no `token_file`."
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TOKEN_BYTES + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} can not be read: {type(error).__name__}") from error
    if not text or len(text) > MAX_TOKEN_BYTES or not text.isprintable() or " " in text:
        raise ConfigError(f"{path} does not hold one bearer token")
    return text
