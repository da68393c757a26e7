"""Keys under a passphrase."""

import pytest

from attestream.backup import keys
from attestream.backup.keys import KeyFile
from attestream.errors import ConfigError, MalformedError, SignatureError

PASSPHRASE = "correct horse battery"


@pytest.fixture
def sealed():
    return keys.seal([KeyFile("keys/root.pem", 0o600, b"secret"), KeyFile("a.toml", 0o644, b"x = 1")], PASSPHRASE)


def test_what_is_sealed_comes_back_with_its_mode(sealed, tmp_path):
    assert b"secret" not in sealed
    made = keys.put_back(keys.unseal(sealed, PASSPHRASE), tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in made] == ["keys/root.pem", "a.toml"]
    assert (made[0].read_bytes(), made[0].stat().st_mode & 0o777) == (b"secret", 0o600)
    assert made[1].stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_what_was_sealed_and_is_no_list_of_files_is_our_own_error(monkeypatch):
    for plain in (b"\x91\x93\xa1\xff\x00\xc4\x00", b"\x91" * 9000):
        monkeypatch.setattr(keys.msgspec.msgpack, "encode", lambda _, plain=plain: plain)
        sealed = keys.seal([], PASSPHRASE)
        with pytest.raises(MalformedError):
            keys.unseal(sealed, PASSPHRASE)


def test_a_passphrase_that_is_no_text_of_unicode_is_one_all_the_same():
    phrase = "caf\udce9 " * 4
    assert keys.unseal(keys.seal([], phrase), phrase) == []


def test_another_passphrase_opens_nothing(sealed):
    with pytest.raises(SignatureError, match="passphrase"):
        keys.unseal(sealed, PASSPHRASE + "!")


@pytest.mark.parametrize("place", [20, 40, -1])
def test_an_altered_file_opens_nothing(sealed, place):
    altered = bytearray(sealed)
    altered[place] ^= 1
    with pytest.raises(SignatureError):
        keys.unseal(bytes(altered), PASSPHRASE)


@pytest.mark.parametrize("data", [b"", b"attestream/keys/1\n", b"x" * 100])
def test_what_is_no_key_file_is_named_so(data):
    with pytest.raises(MalformedError):
        keys.unseal(data, PASSPHRASE)


def test_a_short_passphrase_is_refused():
    with pytest.raises(ConfigError, match="12 characters"):
        keys.seal([], "short")


@pytest.mark.parametrize("path", ["../root.pem", "/etc/passwd", "keys/../../x", "", "a\x00b"])
def test_a_path_that_leads_out_is_refused(path, tmp_path):
    with pytest.raises(MalformedError, match="outside"):
        keys.put_back([KeyFile(path, 0o600, b"")], tmp_path)


def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path):
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        keys.put_back([KeyFile("a", 0o600, b"theirs"), KeyFile("b", 0o600, b"theirs")], tmp_path)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").read_text() == "mine"


def test_a_link_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        keys.put_back([KeyFile("a", 0o600, b"x")], tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_links_are_not_collected(tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "one.pem").write_bytes(b"1")
    (tmp_path / "keys" / "two.pem").symlink_to("/etc/hostname")
    assert [file.path for file in keys.collect(tmp_path, ["keys", "absent"])] == ["keys/one.pem"]
