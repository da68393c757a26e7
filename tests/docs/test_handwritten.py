"""What people wrote: links lead somewhere, examples work, and nothing of this machine is in them."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from attestream.appraisal.findings import FINDINGS
from attestream.appraisal.policy import BANKS, FORMAT, RECOVERIES, compile_policy
from attestream.appraisal.runtime_policy import Proofs
from attestream.bus import jetstream
from attestream.cli.main import COMMANDS
from attestream.clock import unix_ms
from attestream.ima.log import read_ascii
from devtools.ima_log import record
from devtools.roster_keys import RosterKeys
from schemas import subjects
from schemas.events import Finding, Revocation, Standing

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLE = ROOT / "docs" / "examples" / "cut_off.py"


def prose(page):
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def headings(page):
    slugs = set()
    for line in prose(page).splitlines():
        if line.startswith("#"):
            text = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            slugs.add(text.replace(" ", "-"))
    return slugs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, heading = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), f"{target} is not there"
        if heading:
            assert heading in headings(path), f"{target} has no such heading"


def test_every_page_is_linked_from_the_readme_or_an_index():
    linked = set()
    for index in (ROOT / "README.md", ROOT / "docs" / "adr" / "README.md", ROOT / "docs" / "contract.md"):
        linked |= {(index.parent / target).resolve() for target in re.findall(r"\]\(([^)\s#]+)\)", prose(index))}
    missing = [page for page in PAGES if page.resolve() not in linked and page.name != "README.md"]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    words = {words[0] for words in re.findall(r"(?:^|[`/ ])attestream ([a-z]+)( |`|$)", text, flags=re.MULTILINE)}
    assert words <= COMMANDS.keys(), words - COMMANDS.keys()
    targets = set(re.findall(r"^make ([a-z]+)", text, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_findings_that_pages_name_exist():
    for page in PAGES:
        named = re.findall(r"`((?:identity|freshness|quote|boot|runtime)\.[a-z]+-[a-z-]+)`", prose(page))
        assert set(named) <= FINDINGS.keys(), page


def test_policy_example_is_valid_and_shows_every_key():
    page = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    document = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1]
    policy = compile_policy(document.encode())
    assert policy.entries == 5
    [entry] = read_ascii(f"{record('/home/me/.cache/x', bytes(32)).ascii}\n".encode(), "sha256")
    assert policy.runtime.decide(entry, Proofs()).allowed
    for word in (FORMAT, *BANKS, *RECOVERIES, *json.loads(document)):
        assert f"`{word}`" in page


def test_example_is_short_and_shown_as_it_is():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 30
    shown = (ROOT / "docs" / "sdk.md").read_text(encoding="utf-8")
    assert text.partition('"""\n\n')[2] in shown


async def test_example_prints_a_revocation_once_it_is_acknowledged(bus, nats_server, tmp_path):
    keys = RosterKeys(tmp_path / "keys")
    await keys.publish(bus)
    for agent_id in ("web-1", "web-2"):
        await revoke(bus, keys.signers["notifier"], agent_id)
        # A second start prints only what the first has not acknowledged.
        assert await run_example(bus, keys.root_file, nats_server.url) == f"{agent_id} is revoked: /usr/bin/evil\n"


async def revoke(bus, signer, agent_id):
    finding = Finding(
        code="runtime.path-unknown", layer="runtime", severity="failure", culprit="/usr/bin/evil", message="m", remedy="r"
    )
    revocation = Revocation(
        id=agent_id,
        agent_id=agent_id,
        at=1,
        signed_at=unix_ms(),
        standing=Standing.FAILED,
        enrolment=1,
        policy="p@1",
        findings=[finding],
    )
    await bus.publish_durable(subjects.revocation(agent_id), signer.sign(revocation), message_id=agent_id)


async def run_example(bus, root_key, url):
    """Return the first line that the program prints; end it when it has acknowledged everything."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), str(root_key), url, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        async with asyncio.timeout(90):
            line = await process.stdout.readline()
            while (await jetstream.call(bus, "CONSUMER.INFO.REVOCATIONS.cut-off"))["num_ack_pending"]:
                await asyncio.sleep(0.02)
        return line.decode()
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "architecture.svg"], ids=lambda page: page.name)
def test_nothing_of_this_machine(page):
    text = page.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
