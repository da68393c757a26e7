"""The cluster secret: whoever has it can make challenges that a verifier takes for its own."""

import pytest

from attestream.errors import ConfigError
from services.verifier.service import MIN_SECRET_BYTES, read_secret


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "cluster.secret"
    path.write_bytes(bytes(MIN_SECRET_BYTES))
    path.chmod(0o600)
    return path


def test_a_secret_that_only_its_owner_may_read(secret):
    assert read_secret(secret) == bytes(MIN_SECRET_BYTES)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused(secret, mode):
    secret.chmod(mode)
    with pytest.raises(ConfigError, match="read by others"):
        read_secret(secret)


def test_a_short_or_missing_secret_is_refused(secret):
    secret.write_bytes(bytes(MIN_SECRET_BYTES - 1))
    with pytest.raises(ConfigError, match="fewer than"):
        read_secret(secret)
    secret.unlink()
    with pytest.raises(ConfigError, match="can not be read"):
        read_secret(secret)
