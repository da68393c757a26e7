"""W3C trace context in message headers (``traceparent``, ``tracestate``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_PARENT: Final = "traceparent"
_PARENT_ELSEWHERE: Final = "Traceparent"


def inject(headers: dict[str, str]) -> None:
    """Add the active span's context to ``headers``; does nothing when no span is active."""
    if trace.get_current_span().get_span_context().is_valid:
        _PROPAGATOR.inject(headers)


def carried(headers: Mapping[str, str]) -> bool:
    """Return whether a message carries its sender's context."""
    return _PARENT in headers or _PARENT_ELSEWHERE in headers


@contextmanager
def extracted(headers: Mapping[str, str] | None) -> Iterator[None]:
    """Make the sender's span the parent of what is done inside; does nothing when the message carries none.

    Header names of NATS are case-sensitive and Go clients write ``Traceparent``: both spellings are heard.
    """
    parent = headers and (headers.get(_PARENT) or headers.get(_PARENT_ELSEWHERE))
    if not headers or not parent:
        yield
        return
    carrier = {_PARENT: parent, "tracestate": headers.get("tracestate") or headers.get("Tracestate") or ""}
    token = context.attach(_PROPAGATOR.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)
