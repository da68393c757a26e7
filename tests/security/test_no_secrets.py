"""No secret is in the repository."""

from devtools.audit import packages
from devtools.audit.__main__ import LOCKS, ROOT, found_secrets
from devtools.audit.tracked import tracked


def test_no_tracked_file_holds_a_secret():
    assert list(found_secrets(ROOT)) == []


def test_every_package_is_pinned_by_hash():
    assert [line for name in LOCKS for line in packages.unpinned(ROOT / name)] == []


def test_every_package_is_under_a_licence_that_is_allowed():
    assert list(packages.licences(ROOT / LOCKS[0])) == []


def test_nothing_outside_of_the_lock_is_imported():
    assert list(packages.foreign_imports(ROOT, tracked(ROOT), ROOT / LOCKS[0])) == []
