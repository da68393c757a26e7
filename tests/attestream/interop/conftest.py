import pytest

from devtools.soft_tpm import KeyPool


@pytest.fixture(scope="session")
def keys() -> KeyPool:
    """Private keys that the tests of this folder share: RSA keys take long to make."""
    return KeyPool(3)
