"""Logs, metrics and traces of a service.

Logs go to standard error, one line per record. Metrics and traces go to an OpenTelemetry collector when
``OTEL_EXPORTER_OTLP_ENDPOINT`` is set and the extra ``attestream[telemetry]`` is installed; otherwise they cost next to
nothing.
The other ``OTEL_*`` variables of the OpenTelemetry specification are honoured by its SDK.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from opentelemetry import metrics

from attestream.config import LogConfig
from attestream.errors import ConfigError

ENDPOINT_VARIABLE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Environment variable with the collector's address."""


class Metric(NamedTuple):
    """A counter's name, unit (UCUM) and meaning."""

    name: str
    unit: str
    doc: str


APPRAISALS: Final = Metric("attestream.appraisals", "{appraisal}", "Evidence appraised; attribute `verdict`.")
CHALLENGES_MISSED: Final = Metric(
    "attestream.challenges.missed", "{challenge}", "Challenges that no evidence answered in time."
)
LATENESS: Final = Metric(
    "attestream.verifier.lateness",
    "s",
    "How late challenges are at most, since the worker can not do more; attribute `worker`.",
)
ENROLMENTS: Final = Metric("attestream.enrolments", "{enrolment}", "Enrolment requests; attribute `outcome`.")
BUS_IDENTITIES: Final = Metric(
    "attestream.bus.identities",
    "{identity}",
    "Agents' identities on the bus; attribute `outcome`: `issued`, `renewed`, `refused` or `revoked`.",
)
BUS_SURPLUS: Final = Metric(
    "attestream.bus.surplus_connections",
    "{connection}",
    "Connections that were closed because their identity had too many; attribute `role`.",
)
BUS_REVOCATION_TIME: Final = Metric(
    "attestream.bus.revocation.time",
    "s",
    "From the event that cuts an agent off until the servers have closed its connection (histogram).",
)
REVOCATIONS: Final = Metric("attestream.revocations", "{revocation}", "Revocations signed and published.")
DELIVERIES: Final = Metric(
    "attestream.webhook.deliveries", "{delivery}", "Webhook deliveries; attributes `sink`, `outcome`."
)
STREAM_FILL: Final = Metric(
    "attestream.stream.fill_ratio", "1", "How full a stream, the account or the disk is, from 0 to 1; attribute `place`."
)
ARCHIVED: Final = Metric("attestream.archive.entries", "{entry}", "Appraisals whose evidence was kept.")
ARCHIVE_DROPPED: Final = Metric(
    "attestream.archive.dropped",
    "{entry}",
    "Evidence and log entries that were not kept; attribute `reason`: `overflow`, `allowance`, `too-large` or `bus`.",
)
DEAD_LETTERS: Final = Metric("attestream.dead_letters", "{message}", "Messages given up; attribute `stream`.")
REJECTED: Final = Metric(
    "attestream.rejected",
    "{message}",
    "Messages that were not believed: not signed, or not by whoever may say this; attribute `what`.",
)
ROSTER_AGE: Final = Metric(
    "attestream.roster.age", "s", "For how long no registrar has said that the roster of keys is the newest."
)
BUS_VIOLATIONS: Final = Metric(
    "attestream.bus.violations",
    "{refusal}",
    "What the bus has refused to this service's credentials; attribute `action`: `publish` or `subscription`.",
)
DATABASE_FAILURES: Final = Metric(
    "attestream.database.failures",
    "{transaction}",
    "Transactions that the database did not take; attribute `reason`: `unreachable`, `locked`, `full` or `refused`.",
)
DATABASE_SIZE: Final = Metric(
    "attestream.database.size", "By", "Bytes of the database of a registrar or verifier; attribute `service`."
)
RESTARTS: Final = Metric("attestream.restarts", "{restart}", "Services restarted by `attestream up`; attribute `service`.")
METRICS: Final = (
    APPRAISALS,
    CHALLENGES_MISSED,
    LATENESS,
    ENROLMENTS,
    BUS_IDENTITIES,
    BUS_SURPLUS,
    BUS_REVOCATION_TIME,
    REVOCATIONS,
    DELIVERIES,
    STREAM_FILL,
    ARCHIVED,
    ARCHIVE_DROPPED,
    DEAD_LETTERS,
    REJECTED,
    ROSTER_AGE,
    BUS_VIOLATIONS,
    DATABASE_FAILURES,
    DATABASE_SIZE,
    RESTARTS,
)
"""Every metric that Attestream reports."""


def counter(metric: Metric) -> metrics.Counter:
    """Return the instrument that counts ``metric``. Keep it: looking it up anew costs more than counting."""
    return metrics.get_meter("attestream").create_counter(metric.name, metric.unit, metric.doc)


def gauge(metric: Metric) -> metrics._Gauge:
    """Return the instrument that shows ``metric``'s newest values. Keep it, as a counter."""
    return metrics.get_meter("attestream").create_gauge(metric.name, metric.unit, metric.doc)


def histogram(metric: Metric) -> metrics.Histogram:
    """Return the instrument that ``metric``'s values are recorded with. Keep it, as a counter."""
    return metrics.get_meter("attestream").create_histogram(metric.name, metric.unit, metric.doc)


class LineFormatter(logging.Formatter):
    """Formats a record as one line of text: control characters, among them line ends, are escaped."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return ``TIME LEVEL SERVICE LOGGER: MESSAGE``."""
        text = f"{_time(record)} {record.levelname:<7} {self._service} {record.name}: {_message(self, record)}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON document on one line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return an object with ``time``, ``level``, ``service``, ``logger`` and ``message``."""
        return json.dumps(
            {
                "time": _time(record),
                "level": record.levelname.lower(),
                "service": self._service,
                "logger": record.name,
                "message": _message(self, record),
            }
        )


def set_up_logging(config: LogConfig, service: str) -> None:
    """Send the log of this process to standard error. Repeating it replaces what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if config.format == "json" else LineFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())


def set_up_telemetry(service: str, environment: Mapping[str, str]) -> Callable[[], None]:
    """Report metrics and traces to the collector that ``environment`` names, if it does. Return what flushes and ends it.

    :raises ConfigError: when a collector is named and the exporter is not installed.
    """
    if not environment.get(ENDPOINT_VARIABLE):
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConfigError(
            f"{ENDPOINT_VARIABLE} is set, but the OTLP exporter is not installed",
            remedy="Install `attestream[telemetry]`, or unset the variable.",
        ) from error
    from opentelemetry import trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({SERVICE_NAME: f"attestream-{service}"})
    meters = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())])
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    metrics.set_meter_provider(meters)
    trace.set_tracer_provider(tracers)

    def shut_down() -> None:
        meters.shutdown()
        tracers.shutdown()

    return shut_down


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info:
        message = f"{message}\n{formatter.formatException(record.exc_info)}"
    return message
