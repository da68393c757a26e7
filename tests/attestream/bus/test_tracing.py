from __future__ import annotations

import asyncio

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from attestream.bus import tracing
from attestream.bus.consume import Consumer
from schemas import subjects
from schemas.enrolment import AgentQuery, Done

TRACER = TracerProvider().get_tracer("test")


def active_trace() -> int:
    return trace.get_current_span().get_span_context().trace_id


def test_no_span_no_header():
    headers: dict[str, str] = {}
    tracing.inject(headers)
    assert headers == {}


def test_senders_span_is_the_receivers_parent():
    headers: dict[str, str] = {}
    with TRACER.start_as_current_span("send") as span:
        tracing.inject(headers)
    for name in ("traceparent", "Traceparent"):
        with tracing.extracted({name: headers["traceparent"]}):
            assert active_trace() == span.get_span_context().trace_id
        assert active_trace() == 0


def test_headers_without_context_or_with_nonsense_are_harmless():
    for headers in (None, {}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"}):
        with tracing.extracted(headers):
            assert active_trace() == 0


async def test_trace_goes_through_stream_and_request(bus):
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def handle(_) -> None:
        seen.put_nowait(active_trace())

    async def answer(_: AgentQuery) -> Done:
        seen.put_nowait(active_trace())
        return Done()

    await bus.serve("t.ask", "q", AgentQuery, answer)
    async with Consumer(bus, "EVENTS", "t", handle, filters=[subjects.EVENTS]):
        with TRACER.start_as_current_span("send") as span:
            await bus.publish_durable(subjects.event("failed", "a"), Done(), message_id="1")
            await bus.request("t.ask", AgentQuery(agent_id="a"), Done)
        expected = span.get_span_context().trace_id
        assert [await asyncio.wait_for(seen.get(), 30) for _ in range(2)] == [expected, expected]
