"""Boot logs: PCR values, boot aggregates and events, or why a log can not be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attestream.interop.boot_log import read_boot_log
from tests.conformance.outcome import Outcome


def run(case: Any, folder: Path) -> Outcome:
    inputs = case["inputs"]
    log = (folder / inputs["log"]).read_bytes()
    reading = read_boot_log(log, inputs["hash_alg"])
    values: dict[str, object] = {
        "recoverable": True,
        "highest": reading.event_ids[0] if reading.event_ids else None,
        "pcrs": {str(pcr): value.hex() for pcr, value in reading.pcrs.items()},
        "boot_aggregates": {bank: [item.hex() for item in items] for bank, items in reading.aggregates.items()} or None,
    }
    if reading.dictionary:
        events = reading.dictionary["events"]
        values["events"] = len(events)
        values["event_types"] = [event["EventType"] for event in events]
    return Outcome("fail" if reading.event_ids else "pass", list(reading.event_ids), values)
