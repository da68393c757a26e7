import pytest

from devtools.soft_tpm import KeyPool


@pytest.fixture(scope="session")
def keys() -> KeyPool:
    """Private keys that tests share: making an RSA key takes longer than most tests."""
    return KeyPool(2)
