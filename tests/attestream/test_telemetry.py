"""Logs are one line per record, whatever is in them; metrics are named once."""

import json
import logging
import subprocess
import sys

import pytest

from attestream import telemetry
from attestream.config import LogConfig


def record(message: str, *args: object, failed: bool = False) -> logging.LogRecord:
    made = logging.LogRecord("services.x", logging.INFO, "x.py", 1, message, args, None)
    made.created = 1_700_000_000.25
    if failed:
        try:
            raise ValueError("broken")
        except ValueError:
            made.exc_info = sys.exc_info()
    return made


def test_a_line_names_time_level_service_and_logger() -> None:
    line = telemetry.LineFormatter("verifier").format(record("took %d partitions", 3))
    assert line == "2023-11-14T22:13:20.250Z INFO    verifier services.x: took 3 partitions"


def test_a_foreign_text_can_not_forge_a_second_record_or_drive_the_terminal() -> None:
    line = telemetry.LineFormatter("verifier").format(record("path %s", "/tmp/a\n2023 INFO fake\x1b[2J\u2028"))
    assert line.endswith(r"path /tmp/a\n2023 INFO fake\x1b[2J\u2028")


def test_a_traceback_stays_in_its_record() -> None:
    assert telemetry.LineFormatter("v").format(record("it failed", failed=True)).count("\n") == 0
    document = json.loads(telemetry.JsonFormatter("v").format(record("it failed", failed=True)))
    assert document["message"].startswith("it failed\nTraceback")
    assert document["level"] == "info"


def test_the_level_of_the_configuration_holds(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        telemetry.set_up_logging(LogConfig(level="warning"), "agent")
        telemetry.set_up_logging(LogConfig(level="warning"), "agent")
        logging.getLogger("x").info("not this")
        logging.getLogger("x").warning("but this")
    finally:
        root.handlers[:], root.level = handlers, level
    written = capsys.readouterr().err.splitlines()
    assert len(written) == 1
    assert written[0].endswith("agent x: but this")


def test_metric_names_are_unique_and_namespaced() -> None:
    names = [metric.name for metric in telemetry.METRICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("attestream.") for name in names)
    telemetry.counter(telemetry.APPRAISALS).add(1, {"verdict": "pass"})


def test_without_a_collector_nothing_of_the_exporter_is_loaded() -> None:
    code = (
        "import sys; from attestream.telemetry import set_up_telemetry; set_up_telemetry('x', {})();"
        "sys.exit(any(name.startswith('opentelemetry.exporter') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
