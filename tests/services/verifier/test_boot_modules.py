"""Modules with boot policies of the operator's own."""

import re
from pathlib import Path

import pytest

from attestream.errors import ConfigError
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.kinds import IPL
from attestream.uefi.policy.policies import BUILT_IN, judge
from devtools.boot_log import BootLog
from services.verifier.boot_modules import load_boot_policies

PAGE = Path(__file__).resolve().parents[3] / "docs" / "boot-policies.md"


@pytest.fixture
def site(tmp_path, monkeypatch):
    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return name

    monkeypatch.syspath_prepend(tmp_path)
    return write


def test_the_policy_that_the_documentation_shows_works(site):
    shown = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[-1]
    policies = load_boot_policies([site("shown_policy", shown)])
    test = policies["one-command-line"].test_for({"line": "kernel_cmdline: root=/dev/vda."})
    for lines, good in (
        ([b"root=/dev/vda2"], True),
        ([b"init=/bin/sh"], False),
        ([b"root=/dev/vda2"] * 2, False),
        ([], False),
    ):
        log = BootLog()
        for line in lines:
            log.add(8, IPL, b"kernel_cmdline: " + line + b"\0", measured=line)
        assert (judge(test, to_dictionary(bytes(log))).reason == "") is good


def test_without_modules_there_are_the_built_in_policies():
    assert load_boot_policies([]) == BUILT_IN


@pytest.mark.parametrize(
    ("name", "text"), [("broken_policy", "raise ValueError"), ("empty_policy", ""), ("no_list", "BOOT_POLICIES = 1")]
)
def test_a_module_that_can_not_be_used_stops_the_start(site, name, text):
    with pytest.raises(ConfigError, match=name):
        load_boot_policies([site(name, text)])


def test_a_module_that_is_not_there():
    with pytest.raises(ConfigError, match="no_such_module_of_policies"):
        load_boot_policies(["no_such_module_of_policies"])
