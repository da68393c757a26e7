"""Public event logs with PCR values that other programs computed from them.

They stand outside this repository, in ``shared/eventlogs`` beside it or in the folder that ``ATTESTREAM_EVENTLOGS`` names.
Sources are the test data of go-eventlog, go-tpm-tools, tpm2-tools, ima-evm-utils and others. The folder has a
``MANIFEST.toml`` with a row for each log::

    [[log]]
    file = "rhel8.bin"                 # the log, in the folder
    sha256 = "..."                     # of the log
    repository = "google/go-eventlog"  # where it comes from: repository, commit, path in it, licence
    commit = "..."
    path = "testdata/eventlogs/tpm/rhel8-uefi.bin"
    licence = "Apache-2.0"
    events = 78                        # without the header of a crypto-agile log
    bank = "sha256"                    # in this bank ...
    claims = 70                        # ... so many claims are drawn, and these events give none
    rejected = []
    described = true                   # whether it has a dictionary form
    oracle = "rhel8.json"              # may be left out: PCR values by another program, {"sha256": {"0": "<hex>", ...}}
    values = 24                        # how many values the oracle has
"""

import hashlib
import json
import tomllib

import pytest

from attestream.uefi.claims import draw_claims
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import replay, reset_value
from devtools.given_folder import given_folder

MANIFEST = "MANIFEST.toml"
LAYOUT = f"""it holds {MANIFEST} and beside it the logs and oracles that this names: a table [[log]] for each log with
file, sha256, repository, commit, path, licence, events, bank, claims, rejected, described, and oracle with values where
there is one (an example is at the head of tests/attestream/uefi/test_public_logs.py)""".replace("\n", " ")
GIVEN = given_folder("ATTESTREAM_EVENTLOGS", "eventlogs", [MANIFEST], LAYOUT)
FOLDER = GIVEN.path
LOGS = [] if GIVEN.missing else tomllib.loads((FOLDER / MANIFEST).read_text(encoding="utf-8"))["log"]
NAMES = [row["file"] for row in LOGS]

pytestmark = pytest.mark.skipif(bool(GIVEN.missing), reason=GIVEN.missing)


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
