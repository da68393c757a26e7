"""The cluster secret: whoever has it can make challenges that a verifier takes for its own. It is replaced in place."""

import logging
import os

import pytest

from attestream.errors import ConfigError
from services.verifier.cluster_secret import GRACE_MS, MIN_BYTES, ClusterSecret, SecretFile

OLD, NEW = bytes(MIN_BYTES), bytes([1]) * MIN_BYTES


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "cluster.secret"
    path.write_bytes(OLD)
    path.chmod(0o600)
    return path


@pytest.fixture
def time():
    """Seconds of a clock that the test moves."""
    return [0.0]


@pytest.fixture
def secret(path, time):
    return SecretFile(path, monotonic=lambda: time[0])


def replaced(path, *, before=b""):
    """Replace the secret as the command does; return when that was (Unix ms)."""
    for name, data in (("cluster.secret.before", before), ("new", NEW)):
        if data:
            path.with_name(name).write_bytes(data)
            path.with_name(name).chmod(0o600)
    path.with_name("new").replace(path)
    return path.stat().st_mtime_ns // 1_000_000


def test_a_secret_that_only_its_owner_may_read(secret):
    assert secret.current == OLD
    assert list(secret.of(0)) == [OLD]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused(path, mode):
    path.chmod(mode)
    with pytest.raises(ConfigError, match="read by others"):
        SecretFile(path)


def test_a_short_or_missing_secret_is_refused(path):
    path.write_bytes(bytes(MIN_BYTES - 1))
    with pytest.raises(ConfigError, match="fewer than"):
        SecretFile(path)
    path.unlink()
    with pytest.raises(ConfigError, match="can not be read"):
        SecretFile(path)


def test_a_nonce_that_the_secret_did_not_make_has_the_file_looked_at(secret, path, time):
    at = replaced(path, before=OLD)
    assert list(secret.of(at)) == [OLD]  # it has looked less than a second ago
    time[0] += 1
    assert list(secret.of(at)) == [OLD, NEW, OLD]
    assert secret.current == NEW


def test_the_secret_before_counts_for_what_was_asked_while_others_had_not_looked_yet(path):
    at = replaced(path, before=OLD)
    secret = SecretFile(path)
    assert list(secret.of(at + GRACE_MS)) == [NEW, OLD]
    assert list(secret.of(at + GRACE_MS + 1)) == [NEW]


def test_a_secret_that_others_know_counts_no_more_at_once(path):
    at = replaced(path)
    assert list(SecretFile(path).of(at - 1)) == [NEW]


def test_a_file_that_can_not_be_used_leaves_the_last_secret_in_use(secret, path, time, caplog):
    os.truncate(path, 3)
    time[0] += 1
    with caplog.at_level(logging.ERROR):
        assert list(secret.of(0)) == [OLD]
    assert "the last cluster secret goes on" in caplog.text
    path.write_bytes(NEW)
    time[0] += 1
    assert NEW in list(secret.of(0))


@pytest.mark.parametrize("name", ["cluster.secret", "cluster.secret.before"])
def test_a_copy_whose_mode_is_set_right_later_is_taken_up(secret, path, time, caplog, name):
    """It was copied for all to read; chmod changes neither its content nor its time. The old one may be a thief's by now."""
    at = replaced(path, before=OLD)
    path.with_name(name).chmod(0o644)
    for _ in range(3):
        time[0] += 1
        assert list(secret.of(at)) == [OLD]
    assert caplog.text.count("Run `chmod 600") == 1
    path.with_name(name).chmod(0o600)
    time[0] += 1
    assert NEW in list(secret.of(at))
    assert secret.current == NEW


def test_a_secret_that_does_not_change_is_compared_once():
    assert list(ClusterSecret(OLD).of(1)) == [OLD]
