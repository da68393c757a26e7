"""The operator's hook, as real programs on a real bus."""

import asyncio
import json
import os
import stat
import time
from pathlib import Path

import pytest

from attestream.config import DatabaseUrl, RegistrarConfig
from attestream.errors import EnrolmentError
from attestream.pki.trust_store import TrustStore
from attestream.tpm.public import parse_public
from devtools.certificates import Authority
from schemas.events import EventKind
from services.registrar.admission import Rules, examine
from services.registrar.hook import Hook
from services.registrar.service import serving

NOW = 1_800_000_000_000
ROOT = Authority("Maker CA", now=NOW)


@pytest.fixture
def script(tmp_path):
    """Writes an executable shell script."""

    def write(body: str) -> list[str]:
        path = tmp_path / "hook"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return [str(path), "argument"]

    return write


@pytest.fixture
def asked(make_agent):
    """A request with a good certificate, and what the registrar makes of it."""
    agent = make_agent("web-1")
    certificate = ROOT.endorse(parse_public(agent.tpm.ek_public).key())
    request = agent.enrol_request(ek_certificates=[certificate])
    return request, examine(request, Rules(accept_ek="hook", store=TrustStore.of([ROOT.der])), now=NOW)


async def test_hook_is_told_the_facts(script, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("ATTESTREAM_SECRET", "not for the hook")
    command = script(f'cat > {tmp_path}/given; env > {tmp_path}/env; test "$1" = argument')
    await Hook(command, timeout_s=10).ask(*asked)
    given = json.loads((tmp_path / "given").read_text())
    assert (given["agent_id"], given["trusted"], given["anchor"]) == ("web-1", True, "CN=Maker CA")
    assert (given["device_trusted"], given["device_anchor"], given["device_subject"]) == (False, "", "")
    assert given["ek_pem"].startswith("-----BEGIN PUBLIC KEY-----")
    environment = (tmp_path / "env").read_text()
    assert "ATTESTREAM_AGENT_ID=web-1\n" in environment
    assert f"ATTESTREAM_EK_CERTIFICATE={given['ek_certificates'][0]}\n" in environment
    assert "ATTESTREAM_EK_TRUSTED=1\n" in environment
    assert "not for the hook" not in environment


@pytest.mark.parametrize("body", ["exit 1", "kill -9 $$", "cat >/dev/null; exit 7"])
async def test_every_other_end_refuses(script, asked, body):
    with pytest.raises(EnrolmentError, match="does not accept"):
        await Hook(script(body), timeout_s=10).ask(*asked)


async def test_hook_that_can_not_be_run_refuses(asked, tmp_path):
    with pytest.raises(EnrolmentError):
        await Hook([str(tmp_path / "absent")], timeout_s=10).ask(*asked)


async def test_hook_that_does_not_answer_is_killed_with_its_children(script, asked, tmp_path):
    command = script(f"sleep 60 & echo $! > {tmp_path}/child; wait")
    start = time.monotonic()
    with pytest.raises(EnrolmentError):
        await Hook(command, timeout_s=0.5).ask(*asked)
    assert time.monotonic() - start < 10
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 30
    while _alive(child) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not _alive(child)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


async def test_decision_of_the_hook_is_on_the_record(bus, script, make_agent, enrol, events, clock, tmp_path):
    config = RegistrarConfig(
        database_url=DatabaseUrl(f"sqlite:///{tmp_path / 'registrar.db'}"),
        accept_ek="hook",
        ek_hook=script('test "$ATTESTREAM_AGENT_ID" = good'),
    )
    async with serving(bus, config, clock=clock):
        with pytest.raises(EnrolmentError, match="does not accept"):
            await enrol(make_agent("bad"))
        await enrol(make_agent("good"))
        deadline = time.monotonic() + 30
        while not (found := await events("good")) and time.monotonic() < deadline:
            pass
    assert [event.kind for event in found] == [EventKind.ENROLLED]
    codes = [finding.code for finding in found[0].findings]
    assert codes == ["identity.ek-hook", "identity.certificate-missing"]
    assert {finding.severity for finding in found[0].findings} == {"info", "warning"}
    assert await events("bad") == []
