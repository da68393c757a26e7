"""What a policy may say about keeping evidence."""

import json

import pytest

from attestream.appraisal.keeping import Keeping
from attestream.appraisal.policy import compile_policy
from attestream.errors import PolicyError
from devtools.pool import allowing


def compiled(**more):
    return compile_policy(json.dumps(allowing("boot_aggregate", **more)).encode())


def test_nothing_is_kept_unless_the_policy_says_so():
    assert compiled().keeping is None


def test_days_and_logs_have_defaults():
    assert compiled(archive={"keep": "failures"}).keeping == Keeping("failures", 90, True)
    assert compiled(archive={"keep": "all", "days": 7, "logs": False}).keeping == Keeping("all", 7, False)


@pytest.mark.parametrize(
    "archive",
    [
        None,
        [],
        {},
        {"days": 3},
        {"keep": "everything"},
        {"keep": ["all"]},
        {"keep": "all", "days": 0},
        {"keep": "all", "days": 401},
        {"keep": "all", "days": True},
        {"keep": "all", "days": 1.5},
        {"keep": "all", "logs": "yes"},
        {"keep": "all", "forever": True},
    ],
)
def test_what_is_not_valid_is_refused_at_upload(archive):
    with pytest.raises(PolicyError, match="archive"):
        compiled(archive=archive)


def test_a_layer_may_say_what_is_kept():
    layer = json.dumps(allowing("/usr/bin/a", archive={"keep": "changes", "days": 10})).encode()
    top = json.dumps(allowing("boot_aggregate", layers=["base@1"], archive={"keep": "all"})).encode()
    assert compile_policy(top, {"base@1": layer}).keeping == Keeping("all", 10, True)


@pytest.mark.parametrize(
    ("keep", "failed", "changed", "quiet"),
    [("failures", True, False, False), ("changes", True, True, False), ("all", True, True, True)],
)
def test_what_is_wanted(keep, failed, changed, quiet):
    keeping = Keeping(keep, 1, True)
    assert keeping.wants(failed=True, changed=False) is failed
    assert keeping.wants(failed=False, changed=True) is changed
    assert keeping.wants(failed=False, changed=False) is quiet
