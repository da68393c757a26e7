"""The commands about kept evidence, on a bus where everything is signed, and offline."""

import asyncio
import contextlib
import io
import json

import pytest

from attestream.archive import reading
from attestream.bus import jetstream, objects
from attestream.bus.stored import messages
from attestream.bus.topology import ensure_topology
from attestream.cli import exits
from attestream.cli.main import main
from attestream.config import VerifierConfig
from attestream.errors import SignatureError
from attestream.signing import Signer
from devtools.pool import Pool, Tenant, allowing, digest_of, eventually, make_agent
from devtools.soft_fleet import SoftFleet
from schemas import subjects, topology
from schemas.base import encode
from schemas.events import Standing

AGENT = "host-7"
SETTINGS = VerifierConfig(lease_floor_s=2, challenge_timeout_ms=600, flush_ms=50, partition_lease_s=2)


@pytest.fixture
async def failed(nats_server, tmp_path, keys, as_holder):
    """A bus with the archive of an agent that was trusted and has failed."""
    pool = Pool(nats_server.url, tmp_path, SETTINGS, trust=lambda: keys.trust("verifier"))
    fleet = SoftFleet(await as_holder("registrar"), [make_agent(AGENT)])
    await fleet.start()
    await fleet.serve_identities()
    await pool.start("one")
    bus = await as_holder("alice")
    alice = Tenant(bus)
    await alice.push("base", allowing("boot_aggregate", archive={"keep": "changes", "days": 30}))
    assert (await alice.add(AGENT, interval_ms=60_000)).ok
    await alice.becomes(AGENT, Standing.TRUSTED)
    fleet.agents[AGENT].run("/usr/bin/evil", digest_of("evil"))
    await fleet.notice(AGENT)
    await alice.becomes(AGENT, Standing.FAILED)
    await pool.close()
    await fleet.stop()
    return bus


@pytest.fixture
def run(nats_server, keys, tmp_path, monkeypatch):
    """Run a command as somebody who only believes the root key; return its exit code and its JSON."""
    config = tmp_path / "attestream.toml"
    config.write_text(f'[bus]\nurls = ["{nats_server.url}"]\n[trust]\nroot_keys = ["{keys.root_file}"]\n')
    monkeypatch.setenv("ATTESTREAM_CONFIG", str(config))

    def inside(arguments):
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            code = main(list(arguments))
        return code, written.getvalue()

    async def ran(*arguments):
        code, text = await asyncio.to_thread(inside, arguments)
        return code, json.loads(text) if text.startswith(("{", "[")) else text

    return ran


async def lines(run, *arguments):
    code, found = await run("evidence", "list", *arguments, "--json")
    assert code == exits.OK
    return found


async def test_what_was_kept_is_listed_shown_replayed_and_proven_offline(failed, run, keys, tmp_path):
    first, last = await lines(run)
    assert [(line["agent_id"], line["verdict"], line["standing"]) for line in (first, last)] == [
        (AGENT, "pass", "trusted"),
        (AGENT, "fail", "failed"),
    ]
    assert await lines(run, AGENT) == [first, last]
    assert await lines(run, "another") == []
    assert await lines(run, AGENT, "--until", "2026-01-01T00:00Z") == []
    number = str(last["id"])
    code, shown = await run("evidence", "show", number, "--log", str(tmp_path / "log"), "--json")
    assert code == exits.OK
    assert shown["appraisal"]["findings"][0]["culprit"] == "/usr/bin/evil"
    assert b"boot_aggregate" in (tmp_path / "log").read_bytes()
    assert b"/usr/bin/evil" in (tmp_path / "log").read_bytes()
    code, again = await run("evidence", "replay", number, "--output", str(tmp_path / "out"), "--json")
    assert (code, again["verdict"], again["identical"]) == (exits.OK, "fail", True)
    monitored = ("--url", "nats://127.0.0.1:1", "evidence", "replay", str(tmp_path / "out"))
    code, again = await run(*monitored, "--root", str(keys.root_file), "--json")
    assert (code, again["identical"]) == (exits.OK, True)
    stranger = tmp_path / "stranger.pem"
    stranger.write_text(Signer.generate(tmp_path / "stranger-private.pem").public_pem)
    assert (await run(*monitored, "--root", str(stranger)))[0] == exits.REFUSED
    assert (await run("evidence", "show", "9999"))[0] == exits.REFUSED


async def test_another_policy_is_asked_with_the_whole_log(failed, run, tmp_path):
    number = str((await lines(run))[-1]["id"])
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(allowing("boot_aggregate")))
    assert (await run("evidence", "replay", number, "--policy", str(policy)))[0] == exits.NOT_TRUSTED
    lenient = allowing("boot_aggregate")
    lenient["runtime"]["digests"]["/usr/bin/evil"] = [f"sha256:{digest_of('evil').hex()}"]
    policy.write_text(json.dumps(lenient))
    code, text = await run("evidence", "replay", number, "--policy", str(policy))
    assert (code, text.strip()) == (exits.OK, "trusted by this policy; not trusted by base@1")
    # The same from files.
    assert (await run("evidence", "export", number, str(tmp_path / "out")))[0] == exits.OK
    assert (await run("evidence", "replay", str(tmp_path / "out"), "--policy", str(policy)))[0] == exits.OK


async def test_a_changed_file_is_refused(failed, run, tmp_path):
    number = str((await lines(run))[-1]["id"])
    await run("evidence", "export", number, str(tmp_path / "out"))
    for file in ("entry.msgpack", "object.zlib", "policy.json", "roster.msgpack"):
        path = tmp_path / "out" / file
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        path.write_bytes(changed)
        assert (await run("evidence", "replay", str(tmp_path / "out")))[0] == exits.REFUSED, file
        path.write_bytes(whole)
    assert (await run("evidence", "replay", str(tmp_path / "out")))[0] == exits.OK


async def test_a_line_that_no_verifier_has_signed_is_not_believed(failed, run, as_holder):
    """Whoever holds the bus can put lines there, and move those of one agent to another."""
    kept, *_ = [kept async for kept in reading.entries(failed, AGENT)]
    alice = await as_holder("alice")
    subject = subjects.archived_evidence(AGENT)
    await alice.publish_durable(subject, encode(kept.entry), message_id="unsigned")
    await alice.publish_durable(subject, encode(kept.entry), message_id="by-alice", sign=True)
    elsewhere = subjects.archived_evidence("another")
    header = {subjects.HEADER_SIGNATURE: kept.stored.headers[subjects.HEADER_SIGNATURE]}
    ack = await alice.publish_durable(elsewhere, kept.stored.data, message_id="moved", headers=header)
    rejected = []
    found = [k async for k in reading.entries(failed, on_rejected=lambda stored, error: rejected.append(error.code))]
    assert len(found) == 2
    assert rejected == ["signature-invalid", "forbidden", "signature-invalid"]
    with pytest.raises(SignatureError):
        await reading.find(failed, ack.sequence)
    code, listed = await run("evidence", "list", "--json")
    assert (code, len(listed)) == (exits.REFUSED, 2)


async def test_an_object_lives_as_long_as_it_is_told(bus):
    name = await objects.put(bus, topology.ARCHIVE_BUCKET, b"kept for a moment", ttl_s=1)
    assert await objects.get(bus, topology.ARCHIVE_BUCKET, name) == b"kept for a moment"

    async def gone():
        return await objects.get(bus, topology.ARCHIVE_BUCKET, name) is None

    await eventually(gone, 30)
    left = [stored.headers[subjects.HEADER_TTL] async for stored in messages(bus, topology.ARCHIVE_OBJECTS.name)]
    assert len(left) == 1
    assert left[0] in ("601", "10m1s")


async def test_a_full_archive_forgets_its_oldest_and_nothing_on_the_record(bus):
    await ensure_topology(bus, sizes={"OBJ_evidence": 1 << 20})
    await bus.publish_durable(subjects.event("failed", "a"), b"x", message_id="event")
    names = [await objects.put(bus, topology.ARCHIVE_BUCKET, bytes([number]) * 100_000) for number in range(20)]
    state = (await jetstream.call(bus, f"STREAM.INFO.{topology.ARCHIVE_OBJECTS.name}"))["state"]
    assert state["bytes"] <= 1 << 20
    assert await objects.get(bus, topology.ARCHIVE_BUCKET, names[0]) is None
    assert await objects.get(bus, topology.ARCHIVE_BUCKET, names[-1]) == bytes([19]) * 100_000
    assert (await jetstream.call(bus, "STREAM.INFO.EVENTS"))["state"]["messages"] == 1
