"""Vectors from outside: absent they are asked for by name, and lost they are missed."""

import pytest

from devtools.given_folder import given_folder

LAYOUT = "it holds MANIFEST.toml"


def folder():
    return given_folder("ATTESTREAM_TEST_FOLDER", "no such folder", ["MANIFEST.toml"], LAYOUT)


def test_an_absent_folder_is_asked_for(monkeypatch):
    monkeypatch.delenv("ATTESTREAM_TEST_FOLDER", raising=False)
    given = folder()
    for part in (str(given.path), "ATTESTREAM_TEST_FOLDER", LAYOUT):
        assert part in given.missing


def test_a_folder_that_was_named_or_has_lost_its_files_is_an_error(monkeypatch, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        monkeypatch.setenv("ATTESTREAM_TEST_FOLDER", str(path))
        with pytest.raises(FileNotFoundError, match=r"lacks MANIFEST\.toml; it holds"):
            folder()
    (tmp_path / "MANIFEST.toml").touch()
    assert folder() == (tmp_path, "")
