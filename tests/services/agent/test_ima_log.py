"""Following the IMA log, in both forms, as it grows, is cut, damaged, or begins anew."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.ima_log import Record, record, violation
from services.agent.ima_log import ImaLog

LIMIT = 1 << 20
FORMS = [False, True]


def entry(name: str, **options: object) -> Record:
    return record(name, hashlib.sha256(name.encode()).digest(), **options)  # type: ignore[arg-type]


def raw(made: Record, ascii_form: bool) -> bytes:
    return f"{made.ascii}\n".encode() if ascii_form else made.binary


def oldest(name: bytes) -> bytes:
    """An entry of template ``ima``: no length of the template data, a bare SHA-1 digest, the name."""
    return (
        (10).to_bytes(4, "little")
        + bytes(20)
        + (3).to_bytes(4, "little")
        + b"ima"
        + bytes(20)
        + len(name).to_bytes(4, "little")
        + name
    )


@pytest.mark.parametrize("ascii_form", FORMS)
def test_entries_are_found_by_index_as_the_log_grows(tmp_path: Path, ascii_form: bool) -> None:
    path = tmp_path / "log"
    log = ImaLog(path, ascii_form=ascii_form)
    assert log.refresh() == 0
    entries = [raw(entry(f"/bin/{i}", template="ima-sig", signature=b"\x03" * (i % 3)), ascii_form) for i in range(50)]
    entries[7] = raw(violation("/bin/7", template="ima-sig"), ascii_form)
    for count in (1, 2, 30, 50):
        path.write_bytes(b"".join(entries[:count]))
        assert log.refresh() == count
    part = log.read(10, LIMIT)
    assert (part.first, part.count, part.data, part.complete) == (10, 40, b"".join(entries[10:]), True)
    part = log.read(10, LIMIT, until=12)
    assert (part.count, part.data, part.complete) == (2, b"".join(entries[10:12]), False)
    part = log.read(0, len(b"".join(entries[:3])) + 1)
    assert (part.count, part.data) == (3, b"".join(entries[:3]))
    assert log.read(50, LIMIT).count == 0


@pytest.mark.parametrize("ascii_form", FORMS)
def test_an_entry_that_is_still_being_written_is_left_for_later(tmp_path: Path, ascii_form: bool) -> None:
    path = tmp_path / "log"
    log = ImaLog(path, ascii_form=ascii_form)
    whole = raw(entry("/bin/one"), ascii_form) + raw(entry("/bin/two"), ascii_form)
    first = len(raw(entry("/bin/one"), ascii_form))
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        expected = 2 if size == len(whole) else 1 if size >= first else 0
        assert log.refresh() == expected
        assert log.read(0, LIMIT).data == whole[: (0, first, len(whole))[expected]]
    assert log.generation == 0


@pytest.mark.parametrize("ascii_form", FORMS)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 9])
def test_a_log_that_began_anew_is_noticed_however_long_it_is(tmp_path: Path, ascii_form: bool, count: int) -> None:
    path = tmp_path / "log"
    log = ImaLog(path, ascii_form=ascii_form)
    path.write_bytes(b"".join(raw(entry(f"/old/{i}"), ascii_form) for i in range(5)))
    assert log.refresh() == 5
    beside = tmp_path / "new"
    beside.write_bytes(b"".join(raw(entry(f"/new/{i}"), ascii_form) for i in range(count)))
    beside.replace(path)
    assert log.refresh() == count
    assert log.generation == 1
    part = log.read(5, LIMIT)
    assert part.first == (5 if count >= 5 else 0)
    assert part.count == (count - 5 if count >= 5 else count)


def test_a_log_that_went_away_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(entry("/bin/one").binary)
    log = ImaLog(path)
    assert log.refresh() == 1
    path.unlink()
    assert log.refresh() == 0


def test_the_oldest_template_has_no_length_of_its_data(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(oldest(b"boot_aggregate") + oldest(b"/init") + entry("/bin/ls").binary)
    log = ImaLog(path)
    assert log.refresh() == 3
    assert log.read(1, LIMIT, until=2).data == oldest(b"/init")


def test_what_can_not_be_an_entry_is_handed_out_for_the_verifier_to_judge(tmp_path: Path) -> None:
    path = tmp_path / "log"
    good, bad = entry("/bin/ls").binary, b"\x0a\0\0\0" + bytes(20) + b"\xff" * 400
    path.write_bytes(good + bad)
    log = ImaLog(path)
    part = log.read(0, LIMIT)
    assert (part.count, part.data) == (1, good + bad)
    assert log.read(0, LIMIT, until=1).data == good


def test_a_large_log_is_read_in_bounded_steps(tmp_path: Path) -> None:
    path = tmp_path / "log"
    entries = [entry(f"/usr/lib/{i:06d}").binary for i in range(20_000)]
    path.write_bytes(b"".join(entries))
    log = ImaLog(path)
    assert log.refresh() == 20_000
    assert log.read(19_999, LIMIT).data == entries[-1]


def test_files_without_a_size_are_followed_by_their_content() -> None:
    # procfs, like securityfs, says 0 for the size of a file that has content.
    path = Path("/proc/self/mounts")
    assert path.stat().st_size == 0
    log = ImaLog(path, ascii_form=True)
    lines = path.read_bytes().splitlines(keepends=True)
    assert log.refresh() == len(lines)
    assert log.refresh() == len(lines)
    assert log.read(1, LIMIT).data == b"".join(lines[1:])
    assert log.generation == 0


@given(data=st.binary(max_size=400), cut=st.integers(0, 200))
def test_no_content_breaks_the_boundaries(tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_bytes(entry("/bin/ls").binary + data[:cut])
    log = ImaLog(path)
    log.refresh()
    path.write_bytes(entry("/bin/ls").binary + data)
    assert log.refresh() >= 1
    part = log.read(0, LIMIT)
    assert (entry("/bin/ls").binary + data).startswith(part.data)
