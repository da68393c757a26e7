"""The incumbent runs with its defaults but for what is said."""

from configparser import RawConfigParser
from pathlib import Path

from bench.side.theirs_settings import write_settings


def test_only_what_is_asked_for_differs(tmp_path: Path):
    environment = write_settings(tmp_path, (1, 2, 3), workers=1, interval_s=0.0, webhook="https://127.0.0.1:4/")
    verifier = RawConfigParser()
    verifier.read(environment["KEYLIME_VERIFIER_CONFIG"])
    assert verifier["verifier"]["quote_interval"] == "0"
    assert verifier["verifier"]["max_workers"] == "1"
    assert verifier["revocations"]["enabled_revocation_notifications"] == "['webhook']"
    assert verifier["verifier"]["enable_agent_mtls"] == "True"
    quiet = write_settings(tmp_path, (1, 2, 3), workers=1, interval_s=2.0, webhook="")
    verifier.read(quiet["KEYLIME_VERIFIER_CONFIG"])
    assert verifier["revocations"]["enabled_revocation_notifications"] == "[]"
