"""What the server refuses, told to those who caused it: a refusal names its subject, but no call."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import nats.errors

from attestream.bus.transport import UnaskedError
from attestream.errors import AttestreamError, BusError, ExpiredError, ForbiddenError
from attestream.telemetry import BUS_VIOLATIONS, counter

_LOG: Final = logging.getLogger(__name__)

Action = Literal["publish", "subscription"]

_VIOLATION: Final = re.compile(r'permissions violation for (publish|subscription)[a-z ]* "([^"]*)"')
_REMEMBERED: Final = 256

_HOST_NAME: Final = (62, 64)
_TIME: Final = (9, 10)


class Violations:
    """Ends what waits for an answer that will never come, counts, and logs each refused subject once."""

    def __init__(self) -> None:
        self.count = 0
        """Refusals so far."""
        self._watched: dict[tuple[str, str], list[asyncio.Future[Any]]] = {}
        self._logged: set[tuple[str, str]] = set()
        self._counter = counter(BUS_VIOLATIONS)

    @contextmanager
    def watch(self, action: Action, subject: str, future: asyncio.Future[Any]) -> Iterator[None]:
        """End ``future`` with :class:`ForbiddenError` when the server refuses ``action`` on ``subject`` during the block."""
        key = (action, subject.lower())
        waiting = self._watched.setdefault(key, [])
        waiting.append(future)
        try:
            yield
        finally:
            waiting.remove(future)
            if not waiting:
                self._watched.pop(key, None)

    def take(self, error: Exception) -> bool:
        """Return whether ``error`` is such a refusal; if so, it is dealt with."""
        found = _VIOLATION.search(str(error).lower())
        if found is None:
            return False
        action, subject = found.groups()
        self.count += 1
        self._counter.add(1, {"action": action})
        key = (action, subject)
        if key not in self._logged and len(self._logged) < _REMEMBERED:
            self._logged.add(key)
            _LOG.error("the bus refuses %s %s: these credentials do not allow it", _verb(action), subject)
        for future in self._watched.get(key, ()):
            if not future.done():
                future.set_exception(
                    ForbiddenError(f"the bus refuses {_verb(action)} {subject}: the credentials do not allow it")
                )
        return True


def _verb(action: str) -> str:
    return "publishing to" if action == "publish" else "listening to"


def explained(server: str, error: Exception, *, credentials: bool) -> AttestreamError | None:
    """Return what an attempt to connect to ``server`` failed of, if trying again can not help; else ``None``."""
    if isinstance(error, AttestreamError):
        return error
    if isinstance(error, ssl.SSLError):
        return _encryption_error(server, error)
    if isinstance(error, nats.errors.SecureConnWantedError):
        return BusError(
            f"{server} offers no TLS, and nothing is sent without it",
            remedy="Check the URL; a server with TLS is configured by `attestream init`.",
        )
    if isinstance(error, UnaskedError):
        return BusError(
            f"{server} does not ask for credentials: it is not a server of this installation, or not configured as one",
            remedy="Check the URL and the server's configuration; leave the credentials away for an insecure test server.",
        )
    text = str(error).lower() if isinstance(error, nats.errors.Error) else ""
    if "expired" in text:
        return ExpiredError(f"{server} says that the credentials have expired")
    if "authorization" in text or "authentication" in text or "revoked" in text:
        return ForbiddenError(
            f"{server} refuses these credentials: unknown to it, or revoked"
            if credentials
            else f"{server} asks for credentials, and there are none",
            remedy="Have new ones made (`attestream operators add`)."
            if credentials
            else "Name a file with `--credentials`.",
        )
    return None


def _encryption_error(server: str, error: ssl.SSLError) -> BusError:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if error.verify_code in _HOST_NAME:
            remedy = "Use a name or address that is in the server's certificate, or have one made with this name."
        elif error.verify_code in _TIME:
            remedy = "Have the server's certificate renewed; check that the clocks agree."
        else:
            remedy = "Name the CA of the installation with `--ca` or `[bus] ca_file`."
        return BusError(f"{server} can not be trusted: {reason}", remedy=remedy)
    if "certificate required" in str(error).lower() or "CERTIFICATE_REQUIRED" in str(error):
        return BusError(f"{server} wants a client certificate", remedy="Set `[bus] client_cert` and `client_key`.")
    return BusError(
        f"{server} does not speak TLS as it should: {error.reason or error}",
        remedy="Check the port, and that the server allows TLS 1.2 or 1.3.",
    )
