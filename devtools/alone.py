"""Tests that measure time or load run while no other test does: a plugin of the root ``conftest.py``.

It matters where several processes share the tests (``pytest -n``). Each test holds a shared lock, one that is marked
``alone`` an exclusive one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "alone: no other test runs meanwhile")


# Outside of all others: the time spent waiting is not the test's.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait until the test may run."""
    if os.environ.get("PYTEST_XDIST_WORKER") is None:
        return (yield)
    alone = item.get_closest_marker("alone") is not None
    with _locked(item.config.rootpath, exclusive=alone):
        return (yield)


@contextmanager
def _locked(root: Path, *, exclusive: bool) -> Iterator[None]:
    # Nobody passes the door while one waits inside it for the room to empty.
    door, room = (os.open(path, os.O_RDONLY) for path in (root, root / "tests"))
    try:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
    finally:
        # Unlocked, not only closed: a process that a test has left behind may hold a copy.
        for held in (room, door):
            fcntl.flock(held, fcntl.LOCK_UN)
            os.close(held)
