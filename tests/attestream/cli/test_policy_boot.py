"""`attestream policy create boot --settings | check | diff | convert` about what a boot must be like."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from attestream.appraisal.boot import appraise_boot_log
from attestream.appraisal.collector import Collector
from attestream.appraisal.policy import compile_policy
from attestream.uefi.policy.create import create_reference_state
from devtools.boot_log import BootLog
from devtools.grub_boot import CERTIFICATE, COMMAND_LINE, FORBIDDEN, grub_boot
from devtools.uki_boot import LOAD_OPTIONS, SECTIONS, direct_boot, firmware, uki_boot

A = "sha256:" + "ab" * 32
OWN = f"certificate:{hashlib.sha256(CERTIFICATE).hexdigest()}"
IMAGE = f"image:{FORBIDDEN[0].hex()}"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def passes(document: dict, log: BootLog) -> bool:
    """Whether a policy as the CLI has made it lets the boot of ``log`` pass."""
    policy = compile_policy(json.dumps(document).encode())
    quoted = {pcr: log.pcrs[policy.bank].get(pcr, bytes(32)) for pcr in policy.boot.pcrs}
    findings = Collector()
    return appraise_boot_log(bytes(log), quoted, bank=policy.bank, rules=policy.boot, findings=findings)


def settings_of(inside, path: Path, log: BootLog, *arguments: str) -> dict:
    path.write_bytes(bytes(log))
    ran = inside("policy", "create", "boot", "--settings", str(path), *arguments, "--json")
    assert ran.code == 0, ran.err
    assert passes(ran.json, log)
    return ran.json


def test_settings_are_made_from_a_log(inside, tmp_path):
    boot = settings_of(inside, tmp_path / "log", uki_boot(firmware()), "--phase", "enter-initrd", "--phase", "ready")["boot"]
    assert boot == {
        "pcrs": list(range(10)),
        "secure_boot": True,
        "keys": {name: [OWN] for name in ("PK", "KEK", "db")},
        "dbx": sorted(f"image:{one.hex()}" for one in FORBIDDEN),
        "boots": [
            {
                "applications": [digest(b"the unified kernel image"), digest(SECTIONS[".linux"])],
                "sections": {name: digest(data) for name, data in SECTIONS.items()},
            }
        ],
        "phases": ["enter-initrd", "ready"],
    }


def test_parts_can_be_left_open(inside, tmp_path):
    arguments = ("--without", "keys", "--without", "dbx", "--without", "sections", "--without-secure-boot")
    (tmp_path / "log").write_bytes(bytes(uki_boot(firmware(secure_boot=False))))
    ran = inside("policy", "create", "boot", "--settings", str(tmp_path / "log"), *arguments, "--bare", "--json")
    assert list(ran.json) == ["boots"]
    assert list(ran.json["boots"][0]) == ["applications"]


def test_a_direct_boot_needs_the_text_of_its_load_options(inside, tmp_path):
    document = settings_of(inside, tmp_path / "log", direct_boot(firmware()), "--load-options", LOAD_OPTIONS)
    assert document["boot"]["boots"][0]["load_options"] == LOAD_OPTIONS
    assert not passes(document, direct_boot(firmware(), load_options="init=/bin/sh"))
    open_ = settings_of(inside, tmp_path / "log", direct_boot(firmware()), "--without", "files")
    assert passes(open_, direct_boot(firmware(), load_options="init=/bin/sh"))


def test_command_lines_come_from_the_log_or_as_an_expression(inside, tmp_path):
    learnt = settings_of(inside, tmp_path / "log", grub_boot(), "--logged-command-lines")
    assert not passes(learnt, grub_boot(command_line=f"{COMMAND_LINE} init=/bin/sh"))
    assert not passes(learnt, grub_boot(command_line=COMMAND_LINE.replace(".", "x").replace("(", "")))
    given = settings_of(
        inside, tmp_path / "log", grub_boot(), "--command-line", r"\(hd0,gpt2\)/vmlinuz root=/dev/vda\d ro.*"
    )
    assert passes(given, grub_boot(command_line=COMMAND_LINE.replace("vda2", "vda3")))


def test_what_a_boot_loader_read_is_said_to_be_open(inside, tmp_path):
    (tmp_path / "log").write_bytes(bytes(grub_boot()))
    ran = inside("policy", "create", "boot", "--settings", str(tmp_path / "log"), "-o", str(tmp_path / "policy"))
    assert "files that the boot loader read (PCR 9) are not judged" in ran.err
    assert "1 boots" in ran.out


def test_the_boot_of_today_and_the_next_are_both_allowed(inside, tmp_path):
    more = [*FORBIDDEN, hashlib.sha256(b"new").digest()]
    today, tomorrow = grub_boot(), grub_boot(kernel=b"the next kernel", forbidden=more, db=(CERTIFICATE, CERTIFICATE + b"x"))
    first = tmp_path / "first.json"
    first.write_text(json.dumps(settings_of(inside, tmp_path / "log", today)))
    both = settings_of(inside, tmp_path / "log", tomorrow, "--base", str(first))
    assert passes(both, today)
    assert passes(both, tomorrow)
    assert not passes(both, grub_boot(forbidden=FORBIDDEN[:2]))
    assert not passes(both, grub_boot(kernel=b"another"))
    assert settings_of(inside, tmp_path / "log", today, "--base", str(first)) == json.loads(first.read_text())
    # Beside a reference state, both must hold.
    state = tmp_path / "state.json"
    assert inside("policy", "create", "boot", str(tmp_path / "log"), "-o", str(state)).code == 0
    ran = inside("policy", "create", "boot", "--settings", str(tmp_path / "log"), "--base", str(state), "--json")
    assert ran.json["boot"]["policy"] == "example"
    assert passes(ran.json, today)
    assert not passes(ran.json, tomorrow)


def test_secure_boot_off_on_one_of_two_machines_is_open_for_both(inside, tmp_path):
    first = tmp_path / "first.json"
    first.write_text(json.dumps(settings_of(inside, tmp_path / "log", uki_boot(firmware()))))
    off = uki_boot(firmware(secure_boot=False))
    both = settings_of(inside, tmp_path / "log", off, "--without-secure-boot", "--base", str(first))
    assert "secure_boot" not in both["boot"]
    assert passes(both, uki_boot(firmware()))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--load-options", "x"), 2, "--load-options needs --settings"),
        (("--phase", "x"), 2, "--phase needs --settings"),
        (("--pcrs", "0"), 2, "--pcrs needs --settings"),
        (("--settings", "--pcrs", "10"), 1, "boot.pcrs: 10 is no PCR of the boot"),
        (("--settings", "--command-line", "a", "--logged-command-lines"), 2, "give either"),
        (("--settings", "--command-line", "("), 1, "is not an RE2 expression"),
        (("--settings", "--command-line", "quiet"), 1, "log: the settings would refuse this very log: boot.command-line"),
        (("--settings", "--bank", "sha512"), 1, "log: the log has no digests for the bank sha512"),
        (("--settings", "--base", "phases"), 1, "the base has other phases"),
        (("--base", "open"), 1, "the base has the boot policy 'accept-all'"),
    ],
)
def test_mistakes_about_settings(inside, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    Path("log").write_bytes(bytes(grub_boot()))
    for name, boot in (("phases", {"phases": ["ready"]}), ("open", {"policy": "accept-all"})):
        Path(name).write_text(json.dumps({"format": "attestream-policy/1", "bank": "sha256", "boot": boot}))
    if "phases" in arguments:
        arguments = (*arguments, "--phase", "sysinit")
    ran = inside("policy", "create", "boot", "log", *arguments)
    assert (ran.code, message in ran.err) == (code, True), ran.err
    assert not ran.out


def remarks_of(inside, path: Path, boot: dict, level: str = "warning", **more: object) -> list[tuple[str, str]]:
    path.write_text(json.dumps({"format": "attestream-policy/1", "bank": "sha256", "boot": boot, **more}))
    ran = inside("policy", "check", str(path), "--json")
    assert ran.code == any(remark["level"] == "warning" for remark in ran.json), ran.err
    return [(remark["code"], remark["place"]) for remark in ran.json if remark["level"] == level]


ONE = {"applications": ["1c" * 32]}
UKI = {"sections": {".linux": "9f" * 32}}


@pytest.mark.parametrize(
    ("boot", "code", "place"),
    [
        ({"policy": "reject-all"}, "boot-rejected", "boot.policy"),
        ({"policy": "accept-all", "reference_states": [{}]}, "states-idle", "boot.reference_states"),
        ({"policy": "accept-all", "pcrs": [0, 23]}, "pcr-resettable", "boot.pcrs"),
        ({"secure_boot": True, "keys": {"PK": []}}, "keys-none", "boot.keys.PK"),
        ({"keys": {"KEK": [IMAGE]}}, "key-image", "boot.keys.KEK"),
        ({"keys": {"db": [OWN, IMAGE]}, "dbx": [IMAGE.upper().replace("IMAGE", "image")]}, "key-forbidden", "boot.keys.db"),
        ({"boots": [{"applications": []}]}, "applications-none", "boot.boots[0].applications"),
        ({"boots": [{"sections": {".initrd": "9f" * 32}}]}, "section-kernel", "boot.boots[0].sections"),
        (
            {"boots": [{"sections": {**UKI["sections"], ".pcrsig": "9f" * 32}}]},
            "section-unmeasured",
            "boot.boots[0].sections",
        ),
        ({"boots": [{"command_line": ".*"}]}, "command-line-everything", "boot.boots[0].command_line"),
        (
            {"secure_boot": True, "dbx": ["image:" + "1c" * 32], "boots": [ONE]},
            "application-forbidden",
            "boot.boots[0].applications[0]",
        ),
        ({"boots": [ONE, UKI | ONE]}, "boot-covered", "boot.boots[1]"),
        ({"boots": [UKI | ONE, ONE]}, "boot-covered", "boot.boots[0]"),
        ({"boots": [ONE, ONE]}, "boot-covered", "boot.boots[1]"),
        ({"phases": ["leave-initrd", "enter-initrd"], "boots": [UKI]}, "phase-order", "boot.phases"),
    ],
)
def test_lint_warns_of_settings_that_never_match_or_decide_nothing(inside, tmp_path, boot, code, place):
    assert remarks_of(inside, tmp_path / "a", boot) == [(code, place)]


@pytest.mark.parametrize(
    "boots",
    [
        [UKI, UKI | {"command_line": "ro"}],  # the second allows a command line that the first does not
        [{"command_line": "ro"}, UKI | {"command_line": "ro"}],  # and here none need be there
        [{"initrd": "44" * 32}, {"initrd": "44" * 32, "load_options": "ro"}],
        [ONE, {"applications": ["1c" * 32, "9f" * 32]}],
    ],
)
def test_lint_takes_no_boot_for_covered_that_allows_something_of_its_own(inside, tmp_path, boots):
    assert remarks_of(inside, tmp_path / "a", {"boots": boots}) == []


def test_lint_knows_which_pcrs_the_boot_aggregate_needs(inside, tmp_path):
    runtime = {"digests": {"/usr/bin/a": [A]}}
    unquoted = [("boot-aggregate-unquoted", "boot.pcrs")]
    assert remarks_of(inside, tmp_path / "a", {"secure_boot": True}, runtime=runtime) == unquoted
    assert remarks_of(inside, tmp_path / "a", {"secure_boot": True, "pcrs": list(range(10))}, runtime=runtime) == []
    known = {"digests": {"boot_aggregate": [A], "/usr/bin/a": [A]}}
    assert remarks_of(inside, tmp_path / "a", {"secure_boot": True}, runtime=known) == []


def test_lint_tells_fixed_values_beside_settings(inside, tmp_path):
    boot = {"secure_boot": True, "boots": [UKI], "phases": ["ready"]}
    fixed = {str(pcr): ["ab" * 32] for pcr in (0, 7, 11)}
    assert remarks_of(inside, tmp_path / "a", boot, pcrs=fixed) == [("phases-fixed", "pcrs.11")]
    assert remarks_of(inside, tmp_path / "a", boot, "notice", pcrs=fixed) == [("pcr-twice", "pcrs.7")]
    odd = {
        "secure_boot": False,
        "keys": {"db": [OWN, OWN]},
        "dbx": [],
        "boots": [{"initrd": "44" * 32}],
        "phases": ["ready"],
    }
    assert {code for code, _ in remarks_of(inside, tmp_path / "a", odd, "notice")} == {
        "secure-boot-open",
        "signature-duplicate",
        "dbx-empty",
        "load-options-missing",
        "phases-alone",
    }


def test_nothing_is_odd_about_what_is_learnt(inside, tmp_path):
    document = settings_of(inside, tmp_path / "log", uki_boot(firmware()), "--phase", "enter-initrd")
    (tmp_path / "policy").write_text(json.dumps(document))
    assert inside("policy", "check", str(tmp_path / "policy")).out == "valid, and nothing is odd\n"


def test_settings_are_compared_part_by_part(inside, tmp_path):
    before = {
        "secure_boot": True,
        "keys": {"db": [OWN]},
        "dbx": [IMAGE, "image:" + "11" * 32],
        "boots": [ONE, UKI | ONE],
        "phases": ["sysinit", "ready"],
        "pcrs": [0, 7],
    }
    after = {
        "secure_boot": True,
        "keys": {"db": [OWN, IMAGE], "KEK": [OWN]},
        "dbx": ["image:" + "22" * 32, IMAGE],
        "boots": [{**ONE, "sections": {".linux": "8e" * 32}}, ONE, {"command_line": "ro"}],
        "phases": ["ready", "sysinit"],
        "pcrs": [7, 0],
    }
    for name, boot in (("before", before), ("after", after)):
        (tmp_path / name).write_text(json.dumps({"format": "attestream-policy/1", "bank": "sha256", "boot": boot}))
    changes = inside("policy", "diff", str(tmp_path / "before"), str(tmp_path / "after"), "--json").json
    assert [(change["kind"], change["place"], change["name"]) for change in changes] == [
        ("changed", "boot.boots[0].sections..linux", ""),
        ("added", "boot.boots[2]", ""),
        ("removed", "boot.dbx", "image:" + "11" * 32),
        ("added", "boot.dbx", "image:" + "22" * 32),
        ("added", "boot.keys.KEK", OWN),
        ("added", "boot.keys.db", IMAGE),
        ("changed", "boot.phases", ""),
    ]


def test_reference_states_are_converted(inside, tmp_path):
    state = create_reference_state(bytes(grub_boot()))
    (tmp_path / "state").write_text(json.dumps(state))
    ran = inside("policy", "convert", str(tmp_path / "state"), "--json")
    assert passes(ran.json, grub_boot())
    assert not passes(ran.json, grub_boot(kernel=b"another"))
    (tmp_path / "list").write_text(f"{'ab' * 32}  /usr/bin/a\n")
    ran = inside("policy", "convert", str(tmp_path / "list"), "--reference-state", str(tmp_path / "state"), "--json")
    assert ran.json["boot"]["reference_states"] == [state]
    assert list(ran.json["runtime"]["digests"]) == ["/usr/bin/a"]
    assert inside("policy", "convert", str(tmp_path / "state"), "--to", "keylime").code == 2
    (tmp_path / "state").write_text('{"scrtm_and_bios": []}')
    ran = inside("policy", "convert", str(tmp_path / "state"))
    assert (ran.code, "boot.reference_states[0]" in ran.err) == (1, True)
