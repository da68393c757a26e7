"""Database URLs and passwords: what is accepted, and that no password is ever shown."""

import pytest

from attestream.config import DatabaseUrl, RegistrarConfig
from attestream.database import open_engine
from attestream.errors import ConfigError

SECRET = "hunter2:/@?&x"


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("url", ["postgresql://me@h/d", "postgres://me@h/d", "mysql://me@h/d", "mariadb+pymysql://me@h/d"])
def test_the_password_comes_from_a_file(url, password_file):
    engine = open_engine(url, password_file=password_file)
    assert engine.url.password == SECRET
    assert SECRET not in repr(engine)


@pytest.mark.parametrize("url", ["postgresql://me:other@h/d", "sqlite:///a.db"])
def test_a_password_file_that_makes_no_sense_is_refused(url, password_file):
    with pytest.raises(ConfigError, match="password"):
        open_engine(url, password_file=password_file)


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff", b"x" * 5000])
def test_a_password_file_that_holds_no_password_is_refused(content, password_file):
    password_file.write_bytes(content)
    with pytest.raises(ConfigError, match="password file"):
        open_engine("postgresql://me@h/d", password_file=password_file)


def test_a_password_file_that_everybody_may_read_is_refused(password_file):
    password_file.chmod(0o644)
    with pytest.raises(ConfigError, match="by everybody"):
        open_engine("postgresql://me@h/d", password_file=password_file)


def test_a_password_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="absent"):
        open_engine("postgresql://me@h/d", password_file=tmp_path / "absent")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@h/d",
        "postgresql://me:hun@ter2@h/d",
        "mariadb://me:/hunter2@h/d?unix_socket=/s",
        "postgresql://h/d?user=me&password=hunter2&sslmode=require",
    ],
)
def test_a_configuration_that_is_shown_hides_the_password(url):
    shown = repr(RegistrarConfig(database_url=DatabaseUrl(url)))
    assert "hunter2" not in shown
    assert "ter2" not in shown
    assert "h/d" in shown


@pytest.mark.parametrize("url", ["oracle://me:hunter2@h/d", "postgresql://me:hunter2@h:port/d", "me:hunter2"])
def test_a_url_that_is_refused_is_not_shown(url):
    with pytest.raises(ConfigError) as raised:
        open_engine(url)
    assert "hunter2" not in f"{raised.value} {raised.value.hint} {raised.value.__cause__}"
    assert "mariadb://" in raised.value.hint


def test_the_pool_has_the_configured_size():
    assert open_engine("postgresql://me@h/d", connections=17).pool.size() == 17
