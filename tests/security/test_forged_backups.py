"""Somebody who can write where back-ups are kept: what is restored is what the installation's registrar has signed."""

import contextlib
import gzip
import io
import shutil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestream.backup import contents, databases
from attestream.backup.contents import Entry, Manifest
from attestream.backup.databases import Frame
from attestream.database import migrate, open_engine, reading
from attestream.errors import AttestreamError, MalformedError, SignatureError
from services.registrar.tables import outbox

AT = 1_800_000_000_000


def make(directory, signer, frames=(), at=AT):
    """Write a back-up with rows of the registrar."""
    contents.start(directory)
    with contents.writing(directory / "registrar.rows") as file:
        file.write(packed(*frames))
    entry = Entry(kind="rows", name="registrar", size=file.size, sha256=file.sha256, items=len(frames))
    contents.finish(directory, Manifest(format=contents.FORMAT, version="1", at=at, entries=[entry]), signer)
    return entry


def packed(*frames):
    plain = b"".join(len(data).to_bytes(4, "big") + data for data in map(msgspec.msgpack.encode, frames))
    return gzip.compress(plain, mtime=0)


def row(number, data=b"x"):
    return Frame("registrar_outbox", ["id", "message_id", "subject", "data"], [[number, f"m{number}", "s", data]])


@pytest.fixture
def place(tmp_path):
    return tmp_path / "backup"


@pytest.fixture
async def engine(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'registrar.db'}")
    await migrate(engine, "services.registrar.migrations")
    yield engine
    await engine.dispose()


async def held(engine):
    async with reading(engine) as connection:
        return len((await connection.execute(outbox.select())).all())


def test_what_the_registrar_has_signed_is_taken(place, keys):
    make(place, keys.signers["registrar"])
    assert contents.open_backup(place, keys.roster).at == AT


def test_a_backup_that_nobody_has_signed_is_not_taken_unless_one_says_so(place, keys):
    make(place, None)
    with pytest.raises(SignatureError, match="nobody has signed") as caught:
        contents.open_backup(place, keys.roster)
    assert "--unsigned" in caught.value.hint
    assert contents.open_backup(place, None).at == AT


@pytest.mark.parametrize("name", ["verifier", "notifier", "alice"])
def test_a_backup_by_anybody_but_a_registrar_is_not_taken(place, keys, name):
    make(place, keys.signers[name])
    with pytest.raises(SignatureError, match="no registrar"):
        contents.open_backup(place, keys.roster)


def test_a_backup_by_a_key_that_was_revoked_is_not_taken_whatever_its_date(place, keys):
    make(place, keys.signers["registrar"], at=AT - 10**9)
    keys.revoke("registrar")
    with pytest.raises(SignatureError, match="does not count"):
        contents.open_backup(place, keys.roster)


def test_a_backup_by_a_key_that_was_replaced_in_its_turn_is_taken(place, keys):
    old, now = keys.signers["registrar"], keys.roster.issued_at
    make(place, old, at=now)
    keys.rotate("registrar")
    assert contents.open_backup(place, keys.roster).at == now
    shutil.rmtree(place)
    make(place, old, at=now + 10**9)
    with pytest.raises(SignatureError, match="does not count"):
        contents.open_backup(place, keys.roster)


def test_no_part_and_no_word_of_a_signed_backup_can_be_changed(place, tmp_path, keys):
    make(place, keys.signers["registrar"])
    forged = tmp_path / "forged"
    make(forged, None, [row(1)])
    for name in (contents.MANIFEST, "registrar.rows"):
        mixed = tmp_path / f"mixed-{name}"
        shutil.copytree(place, mixed)
        shutil.copy(forged / name, mixed / name)
        with pytest.raises(SignatureError if name == contents.MANIFEST else MalformedError):
            contents.open_backup(mixed, keys.roster)


async def test_a_file_that_is_changed_after_it_was_looked_at_leaves_nothing_behind(place, keys, engine):
    entry = make(place, keys.signers["registrar"], [row(1)])
    contents.open_backup(place, keys.roster)
    (place / "registrar.rows").write_bytes(packed(row(1), row(2)))
    with pytest.raises(MalformedError, match="is not the file"):
        await databases.load(engine, "registrar", contents.reading(place, entry))
    with pytest.raises(MalformedError, match="is not the file"):
        list(contents.blocks(place, entry))
    assert await held(engine) == 0


@pytest.mark.parametrize(
    "frame",
    [
        Frame("registrar_outbox", ["id", "message_id"], [[1]]),
        Frame("registrar_outbox", ["id", "id"], [[1, 2]]),
        Frame("registrar_outbox", ["id"], [[{"a": 1}]]),
        row(2**63),
        row(1, None),
        Frame("registrar_outbox", ["id", "other"], [[1, 2]]),
        Frame("sqlite_master", ["name"], [["x"]]),
        msgspec.Raw(b"\x93\xa1a\x91\xa1\xff\x90"),
        [1, 2, 3],
    ],
)
async def test_rows_that_a_table_can_not_have_are_our_own_error_and_leave_nothing_behind(engine, frame):
    part = contextlib.nullcontext(io.BytesIO(packed(row(7), frame)))
    with pytest.raises(MalformedError):
        await databases.load(engine, "registrar", part)
    assert await held(engine) == 0


@given(st.binary(max_size=200), st.integers(0, 200), st.booleans())
def test_no_bytes_make_the_reader_of_rows_fail_in_another_way(noise, place, compressed):
    whole = packed(row(1), row(2))
    data = gzip.compress(noise) if compressed else whole[:place] + noise + whole[place + len(noise) :]
    with contextlib.suppress(MalformedError):
        list(databases.frames(io.BytesIO(data)))


@given(st.binary(max_size=100), st.integers(0, 300))
def test_no_bytes_make_the_reader_of_manifests_fail_in_another_way(noise, place):
    entry = Entry(kind="stream", name="EVENTS", size=1, sha256="", items=1, about={"config": {}, "state": {}})
    whole = msgspec.json.encode(Manifest(format=contents.FORMAT, version="1", at=1, entries=[entry]))
    assert contents.read_manifest(whole).entries == [entry]
    with contextlib.suppress(AttestreamError):
        contents.read_manifest(whole[:place] + noise + whole[place + len(noise) :])


@pytest.mark.parametrize("about", [{}, {"config": {}}, {"config": {}, "state": 1}])
def test_a_stream_that_can_not_be_made_is_named_before_anything_is_written(about):
    entry = Entry(kind="stream", name="EVENTS", size=1, sha256="", items=1, about=about)
    with pytest.raises(MalformedError, match="EVENTS"):
        contents.read_manifest(msgspec.json.encode(Manifest(format=contents.FORMAT, version="1", at=1, entries=[entry])))


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'{"key_id":"x","algorithm":"\xc3\xa9","signature":"AA=="}'])
def test_a_signature_that_can_not_be_read_is_refused(place, keys, data):
    make(place, keys.signers["registrar"])
    (place / contents.SIGNATURE).write_bytes(data)
    with pytest.raises((MalformedError, SignatureError)):
        contents.open_backup(place, keys.roster)


def test_a_signature_of_the_registrar_for_something_else_is_none_for_a_backup(place, keys):
    make(place, None)
    data = (place / contents.MANIFEST).read_bytes()
    registrar = keys.signers["registrar"]
    signature = {"key_id": registrar.key_id, "algorithm": registrar.algorithm, "signature": registrar.sign_bytes(data)}
    (place / contents.SIGNATURE).write_bytes(msgspec.json.encode(signature))
    with pytest.raises(SignatureError, match="does not verify"):
        contents.open_backup(place, keys.roster)
