"""One machine under several ids: what it has failed as one of them, it has failed as all. On a real secure server."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sqlalchemy import text

from attestream.config import DatabaseUrl
from attestream.credentials.document import Credentials
from attestream.credentials.nkey import Kind, NKey
from attestream.database import migrate, open_engine, reading, transaction
from attestream.errors import EnrolmentError, ForbiddenError
from attestream.tpm.public import build_public, parse_public
from devtools.bus_identities import enrolled, put_on_record, registrar_config, renewed
from devtools.pool import eventually
from schemas.enrolment import DeleteIdentity
from schemas.events import EventKind
from schemas.roles import Role
from services.registrar import identities, machines, standing
from services.registrar.issuing import Registration
from services.registrar.service import serving
from services.registrar.tables import CLAIMS, MIGRATIONS, TEXTS

INSERT = (
    "INSERT INTO registrar_identity (agent_id, active, enrolment, ek_public, ek_certificate, ek_trust, findings,"
    " ak_public, ak_name, transport_key, at, ek_digest) VALUES ('{}', {}, 1, :ek, :no, '', :no, :no, :no, :no, 1, '')"
)
EVERY_DATABASE = pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "mariadb"], indirect=True)


@pytest.fixture
async def registrar(installation, connected, tmp_path, database_url):
    config = registrar_config(installation, tmp_path / "unused.db")
    config = msgspec.structs.replace(config, database_url=DatabaseUrl(database_url))
    async with serving(await connected(Role.REGISTRAR), config) as running:
        yield running


@pytest.fixture
async def enrolment(connected):
    return await connected(Role.ENROLMENT)


@pytest.fixture
async def verifier(connected):
    return await connected(Role.VERIFIER)


@pytest.fixture
async def known(registrar, database_url):
    """Tells what the registrar has kept of an agent's standing."""
    engine = open_engine(DatabaseUrl(database_url))

    async def ask(agent_id):
        async with reading(engine) as connection:
            return (await standing.kept(connection, agent_id)).reason

    yield ask
    await engine.dispose()


def user() -> NKey:
    return NKey.generate(Kind.USER)


async def told(verifier, known, agent_id, kind) -> None:
    """Put an event on the record, and wait until the registrar knows of it."""
    await put_on_record(verifier, agent_id, kind)

    async def heard():
        return await known(agent_id) == kind

    await eventually(heard)


@EVERY_DATABASE
async def test_a_machine_that_has_failed_gets_nothing_under_another_id(
    registrar, connected, enrolment, verifier, known, make_agent, database_url
):
    first, second, third = (make_agent(name, machine=f"bad-{database_url}") for name in ("first", "second", "third"))
    bystander, key, other = make_agent("bystander"), user(), user()
    assert (await enrolled(enrolment, first, user())).bus_token
    mine = await connected(Credentials((await enrolled(enrolment, second, key)).bus_token, key))
    assert await renewed(mine, "second", key)
    theirs = await connected(Credentials((await enrolled(enrolment, bystander, other)).bus_token, other))

    await told(verifier, known, "first", EventKind.FAILED)
    # What it is enrolled as already is cut off with it, and it comes in under no other.
    await eventually(lambda: mine.nc.is_closed)
    for agent in (second, third):
        with pytest.raises(EnrolmentError, match="has failed as 'first'"):
            await enrolled(enrolment, agent, user())
    assert await renewed(theirs, "bystander", other)

    # Whoever lets the first in again lets in the machine.
    await told(verifier, known, "first", EventKind.STARTED)
    for agent in (second, third):
        assert (await enrolled(enrolment, agent, user())).bus_token


async def test_removing_the_old_enrolment_lets_the_machine_in(registrar, enrolment, verifier, known, make_agent):
    first, second = make_agent("first", machine="renamed"), make_agent("second", machine="renamed")
    assert (await enrolled(enrolment, first, user())).bus_token
    await told(verifier, known, "first", EventKind.FAILED)
    with pytest.raises(EnrolmentError) as refusal:
        await enrolled(enrolment, second, user())
    assert "attestream enrolments delete" in refusal.value.hint
    await registrar.delete(DeleteIdentity(agent_id="first"))
    assert (await enrolled(enrolment, second, user())).bus_token


async def test_a_deletion_after_a_failure_is_no_pardon(registrar, enrolment, verifier, known, make_agent):
    first, second = make_agent("first", machine="tidied"), make_agent("second", machine="tidied")
    assert (await enrolled(enrolment, first, user())).bus_token
    await told(verifier, known, "first", EventKind.FAILED)
    await told(verifier, known, "first", EventKind.DELETED)
    with pytest.raises(EnrolmentError, match="has failed as 'first'"):
        await enrolled(enrolment, second, user())


async def test_a_machine_whose_old_id_is_only_not_attested_any_more_goes_on(
    registrar, connected, enrolment, verifier, known, make_agent
):
    first, second, key = make_agent("old", machine="moved"), make_agent("new", machine="moved"), user()
    assert (await enrolled(enrolment, first, user())).bus_token
    mine = await connected(Credentials((await enrolled(enrolment, second, key)).bus_token, key))
    await told(verifier, known, "old", EventKind.DELETED)
    assert await renewed(mine, "new", key)


async def test_the_record_itself_is_asked_about_the_other_ids(registrar, verifier):
    """The registrar's own following of the record may be behind."""
    await put_on_record(verifier, "first", EventKind.FAILED)
    with pytest.raises(ForbiddenError, match="has failed as 'first'"):
        await registrar._issuer.issue("second", Registration(user().public, 1, ("first",)), outcome="renewed")
    await put_on_record(verifier, "first", EventKind.DELETED)
    with pytest.raises(ForbiddenError, match="has failed as 'first'"):
        await registrar._issuer.issue("second", Registration(user().public, 1, ("first",)), outcome="renewed")
    await put_on_record(verifier, "first", EventKind.ADDED)
    assert await registrar._issuer.issue("second", Registration(user().public, 1, ("first",)), outcome="renewed")


async def test_a_machine_has_few_ids(registrar, enrolment, make_agent):
    agents = [make_agent(f"id-{number}", machine="many") for number in range(machines.MAX_IDS + 1)]
    outcomes = await asyncio.gather(*(enrolled(enrolment, agent, user()) for agent in agents), return_exceptions=True)
    refused = [agent for agent, outcome in zip(agents, outcomes, strict=True) if isinstance(outcome, EnrolmentError)]
    assert len(refused) == 1
    # An id that it has is not one more.
    for agent in agents:
        if agent not in refused:
            assert (await enrolled(enrolment, agent, user())).bus_token
    with pytest.raises(EnrolmentError, match=f"under {machines.MAX_IDS} ids already"):
        await enrolled(enrolment, refused[0], user())


@EVERY_DATABASE
async def test_registrars_that_enrol_one_machine_at_once_keep_to_the_limit(database_url, make_agent):
    first, second = engines = [open_engine(DatabaseUrl(database_url)) for _ in range(2)]
    await migrate(first, MIGRATIONS)
    claims = {name: "" if name in TEXTS else b"" for name in CLAIMS} | {"ek_public": make_agent("a").tpm.ek_public}

    async def record(engine, name):
        async with transaction(engine) as connection:
            return (await identities.record(connection, [(name, claims)], 1))[0]

    names = [f"id-{number}" for number in range(machines.MAX_IDS + 4)]
    outcomes = await asyncio.gather(*(record(engines[index % 2], name) for index, name in enumerate(names)))
    assert sum(isinstance(outcome, EnrolmentError) for outcome in outcomes) == 4
    digest = machines.key_digest(claims["ek_public"])
    async with reading(second) as connection:
        assert len((await machines.by_key(connection, [digest]))[digest]) == machines.MAX_IDS
    for engine in engines:
        await engine.dispose()


def test_a_machine_is_told_by_its_key_whatever_else_its_agent_says_of_it(make_agent):
    for kind in ("p256", "rsa2048"):
        tpm = make_agent("a", kind=kind).tpm
        known = parse_public(tpm.ek_public)
        altered = build_public(
            known.key(), attributes=known.attributes, name_hash=known.name_hash, policy=bytes(32), symmetric_bits=128
        )
        assert altered != tpm.ek_public
        assert machines.key_digest(altered) == machines.key_digest(tpm.ek_public)
        assert machines.key_digest(make_agent("b", kind=kind).tpm.ek_public) != machines.key_digest(tpm.ek_public)


@EVERY_DATABASE
async def test_an_upgrade_knows_the_machines_that_were_there(database_url, make_agent):
    engine = open_engine(DatabaseUrl(database_url))
    await migrate(engine, MIGRATIONS)
    ek = make_agent("a").tpm.ek_public
    mysql = engine.dialect.name == "mysql"
    row = {"ek": ek, "no": b""}
    async with transaction(engine) as connection:
        await connection.execute(text(INSERT.format("a", "true")), row)
        await connection.execute(text(INSERT.format("gone", "false")), {**row, "ek": b""})
        await connection.execute(text("INSERT INTO registrar_standing VALUES ('a', 7, true, 'failed', false)"))
    async with transaction(engine) as connection:
        await connection.execute(text(f"DROP INDEX registrar_identity_machine{' ON registrar_identity' if mysql else ''}"))
        await connection.execute(text("ALTER TABLE registrar_identity DROP COLUMN ek_digest"))
        await connection.execute(text("ALTER TABLE registrar_standing DROP COLUMN failed"))
        await connection.execute(text("DROP TABLE registrar_machine"))
        await connection.execute(text("UPDATE registrar_version SET version_num = '0004'"))
    await migrate(engine, MIGRATIONS)
    async with reading(engine) as connection:
        assert await machines.by_key(connection, [machines.key_digest(ek)]) == {machines.key_digest(ek): {"a": True}}
    await engine.dispose()
