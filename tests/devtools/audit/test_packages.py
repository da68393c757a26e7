import pytest

from devtools.audit import advisories, packages
from devtools.audit.packages import Pin

LOCK = """\
# made by a tool
good==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
unhashed==2.0
loose>=3
elsewhere==1 ; sys_platform == 'win32' \\
    --hash=sha256:cc
"""


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text(LOCK)
    return path


def test_each_package_needs_a_version_and_hashes(lock):
    assert packages.unpinned(lock) == [
        "requirements.lock: unhashed has no hash",
        "requirements.lock: loose>=3 has no exact version",
    ]
    found = packages.pins(lock)
    assert found[0] == Pin("good", "1.0", "", 2)
    assert "elsewhere" not in {pin.name for pin in packages.needed(found)}


def test_a_licence_that_is_not_allowed_or_not_known_is_told(tmp_path, monkeypatch):
    lock = tmp_path / "requirements.lock"
    lock.write_text("pytest==0.1 \\\n    --hash=sha256:aa\nno-such-package==1 \\\n    --hash=sha256:aa\n")
    monkeypatch.setattr(packages, "ALLOWED", frozenset({"Apache-2.0"}))
    found = list(packages.licences(lock))
    assert any("pytest is installed as" in line for line in found)
    assert "pytest is under MIT" in found
    assert any("no-such-package 1 is not installed" in line for line in found)


def test_an_import_that_no_package_of_the_lock_has_is_told(tmp_path, lock):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = []\n[project.optional-dependencies]\ndev = ["pytest"]\n'
    )
    shipped = tmp_path / "attestream" / "part.py"
    shipped.parent.mkdir()
    shipped.write_text(
        "import json\nfrom schemas import base\ndef f():\n    import pytest\n    from unheard_of.x import y\n"
    )
    found = list(packages.foreign_imports(tmp_path, [shipped], lock))
    assert [line.partition(" imports ")[2].partition(",")[0] for line in found] == ["pytest", "unheard_of"]
    lock.write_text("pytest==1 \\\n    --hash=sha256:aa\n")
    assert "pyproject.toml does not name" in next(packages.foreign_imports(tmp_path, [shipped], lock))


def affected(name="good", **where):
    return {"id": "X-1", "summary": "bad", "affected": [{"package": {"name": name, "ecosystem": "PyPI"}, **where}]}


def ranged(*events):
    return affected(ranges=[{"type": "ECOSYSTEM", "events": list(events)}])


@pytest.mark.parametrize(
    ("advisory", "told"),
    [
        (affected(versions=["1.0"]), True),
        (affected(versions=["1.1"]), False),
        (affected("other", versions=["1.0"]), False),
        (affected(versions=["1.0"]) | {"withdrawn": "2026-01-01T00:00:00Z"}, False),
        (ranged({"introduced": "0"}), True),
        (ranged({"introduced": "0"}, {"fixed": "1.0"}), False),
        (ranged({"introduced": "0"}, {"fixed": "1.0.1"}), True),
        (ranged({"introduced": "0"}, {"last_affected": "1.0"}), True),
        (ranged({"introduced": "0"}, {"fixed": "0.5"}, {"introduced": "0.9"}), True),
        (ranged({"introduced": "1.1"}), False),
        (ranged({"introduced": "what?"}), True),
    ],
)
def test_advisories_are_judged_by_versions(advisory, told):
    assert list(advisories.judged([Pin("good", "1.0", "", 1)], [advisory])) == (["good 1.0: X-1 bad"] if told else [])


def test_advisories_are_read_from_a_file_or_a_directory(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": "A"}, {"id": "B"}]')
    (tmp_path / "b.json").write_text('{"id": "C"}')
    assert [each["id"] for each in advisories.read(tmp_path)] == ["A", "B", "C"]
    assert [each["id"] for each in advisories.read(tmp_path / "b.json")] == ["C"]
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ValueError, match="no advisory"):
        list(advisories.read(tmp_path / "c.json"))
