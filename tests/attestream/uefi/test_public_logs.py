"""Public event logs with PCR values that other programs computed from them.

They stand outside this repository: a folder with ``MANIFEST.toml``, whose rows name each log, where it comes from, and the
file with its oracle. The folder is ``shared/eventlogs`` beside the repository, or that in ``ATTESTREAM_EVENTLOGS``.
"""

import hashlib
import json
import os
import tomllib
from pathlib import Path

import pytest

from attestream.uefi.claims import draw_claims
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import replay, reset_value

FOLDER = Path(os.environ.get("ATTESTREAM_EVENTLOGS") or Path(__file__).parents[4] / "shared" / "eventlogs")
MANIFEST = FOLDER / "MANIFEST.toml"
LOGS = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))["log"] if MANIFEST.exists() else []
NAMES = [row["file"] for row in LOGS]

pytestmark = pytest.mark.skipif(not MANIFEST.exists(), reason="the folder of public event logs is not here")


def content(row) -> bytes:
    data = (FOLDER / row["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    return data


def test_the_manifest_is_whole():
    assert len(LOGS) == len(set(NAMES)) > 0
    for row in LOGS:
        assert all(row[key] for key in ("repository", "commit", "path", "licence"))


@pytest.mark.parametrize("row", LOGS, ids=NAMES)
def test_parses_and_every_oracle_value_is_equal(row):
    log = parse_log(content(row))
    assert len(log.events) == row["events"]
    replayed = replay(log).pcrs
    if "oracle" not in row:
        return
    oracle = json.loads((FOLDER / row["oracle"]).read_text(encoding="utf-8"))
    compared = 0
    for bank, values in oracle.items():
        for pcr, value in values.items():
            expected = bytes.fromhex(value)
            assert replayed[bank].get(int(pcr)) or reset_value(int(pcr), len(expected)) == expected
            assert replayed[bank].get(int(pcr), expected) == expected
            compared += 1
    # An oracle without values would agree with anything.
    assert compared == row["values"] > 0


@pytest.mark.parametrize("row", LOGS, ids=NAMES)
def test_its_own_values_prove_its_claims(row):
    log = parse_log(content(row))
    for bank, values in replay(log).pcrs.items():
        claims = draw_claims(log, bank, values)
        assert claims.differing == ()
        if bank == row["bank"]:
            assert [found.event for found in claims.rejected] == row["rejected"]
            assert len(claims.claims) == row["claims"]


@pytest.mark.parametrize("row", [row for row in LOGS if row["described"]], ids=str)
def test_has_a_dictionary_form(row):
    log = parse_log(content(row))
    dictionary = to_dictionary(content(row)[: log.size])
    assert len(dictionary["events"]) == len(log.events) + (log.header is not None)
