"""The policies, on a made-up boot through shim and GRUB: what is allowed, and which change is found."""

import copy
import types

import pytest

from attestream.errors import PolicyError
from attestream.uefi import kinds
from attestream.uefi.dictionary import to_dictionary
from attestream.uefi.guid import GLOBAL_VARIABLE
from attestream.uefi.policy.create import create_reference_state
from attestream.uefi.policy.logic import AcceptAll, Test
from attestream.uefi.policy.policies import BUILT_IN, BootPolicy, judge, with_modules
from attestream.uefi.policy.reference import parse_reference_state
from devtools.boot_log import variable
from devtools.grub_boot import CERTIFICATE, FORBIDDEN, OWNER, grub_boot

GOOD = bytes(grub_boot())
STATE = create_reference_state(GOOD)
OTHER = CERTIFICATE[:-1] + b"\x00"


def reason(log: bytes, state: object = STATE, policy: str = "example") -> str:
    return judge(BUILT_IN[policy].test_for(state), to_dictionary(log)).reason


def changed(**entries) -> dict:
    return {**copy.deepcopy(STATE), **entries}


def test_the_boot_that_the_reference_state_was_made_from_is_good():
    assert reason(GOOD) == ""


def test_one_compiled_test_serves_any_number_of_logs():
    test = BUILT_IN["example"].test_for(STATE)
    bad = bytes(grub_boot(kernel=b"other"))
    assert [bool(judge(test, to_dictionary(log)).reason) for log in (GOOD, bad, GOOD, bad)] == [False, True, False, True]


@pytest.mark.parametrize(
    ("boot", "what"),
    [
        ({"kernel": b"other"}, "bsas"),
        ({"kernel_loads": 3}, "bsas"),
        ({"initrd": b"other"}, "ipl9s"),
        ({"command_line": "(hd0,gpt2)/vmlinuz root=/dev/vda2 rw"}, "kernel_cmdlines"),
        ({"secure_boot": False}, "Enabled is not 'Yes'"),
        ({"db": (CERTIFICATE, OTHER)}, "Event VariableData"),
        ({"forbidden": FORBIDDEN[1:]}, "lacks ('SignatureOwner', 'SignatureData')"),
        ({"locality": 3}, "test was already run once"),
    ],
)
def test_a_changed_boot_is_found(boot, what):
    assert what in reason(bytes(grub_boot(**boot)))


def test_a_kernel_may_be_measured_twice_and_more_may_be_forbidden():
    assert reason(bytes(grub_boot(kernel_loads=2))) == ""
    assert reason(bytes(grub_boot(forbidden=(*FORBIDDEN, bytes(32))))) == ""


def test_fewer_keys_than_allowed_are_enrolled():
    more = {"SignatureOwner": OWNER, "SignatureData": "0x" + OTHER.hex()}
    assert reason(GOOD, changed(db=[*STATE["db"], more])) == ""


def test_any_of_the_kernels_and_firmwares_may_run():
    other = dict(STATE["kernels"][0], kernel_authcode_sha256="0x" + "00" * 32)
    firmware = {"scrtm": {"sha256": "0x00"}, "platform_firmware": []}
    assert reason(GOOD, changed(kernels=[other, *STATE["kernels"]])) == ""
    assert reason(GOOD, changed(scrtm_and_bios=[firmware, *STATE["scrtm_and_bios"]])) == ""
    assert "bsas" in reason(GOOD, changed(kernels=[other]))
    assert "s_crtms [0] has no digest" in reason(GOOD, changed(scrtm_and_bios=[firmware]))


def test_the_command_line_is_an_expression_for_the_whole():
    kernel = STATE["kernels"][0]
    assert reason(GOOD, changed(kernels=[dict(kernel, kernel_cmdline=".* ima_policy=tcb")])) == ""
    assert "does not match" in reason(GOOD, changed(kernels=[dict(kernel, kernel_cmdline="ima_policy=tcb")]))


def test_a_variable_that_is_measured_twice_is_found():
    log = grub_boot()
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "PK", b""))
    assert "test was already run once" in reason(bytes(log))


def test_an_event_that_no_test_knows_is_found():
    log = grub_boot()
    log.add(11, kinds.IPL, b"stub\0")
    assert "has unexpected ('PCRIndex', 'EventType') combination (11, 'EV_IPL')" in reason(bytes(log))


def test_a_reason_names_its_event():
    judgement = judge(BUILT_IN["example"].test_for(STATE), to_dictionary(bytes(grub_boot(secure_boot=False))))
    assert judgement.event["EventType"] == "EV_EFI_VARIABLE_DRIVER_CONFIG"
    assert judgement.event_reason == "Event VariableData Enabled is not 'Yes'"
    assert judgement.reason == f"{judgement.event!a} {judgement.event_reason}"


def test_without_secure_boot():
    log = bytes(grub_boot(secure_boot=False))
    with pytest.raises(PolicyError, match="Secure Boot is off"):
        create_reference_state(log)
    state = create_reference_state(log, without_secureboot=True)
    assert "vmlinuz_plain_sha256" in state["kernels"][0]
    assert reason(log, state) == ""
    assert "vmlinuz" in reason(bytes(grub_boot(secure_boot=False, kernel=b"other")), state)
    assert "Enabled is not 'No'" in reason(GOOD, state)


def test_accept_all_and_reject_all():
    assert reason(GOOD, {}, "accept-all") == ""
    assert reason(GOOD, {}, "reject-all") == "reject all"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "instead of a dict"),
        ({}, "refstate['kernels'] is None instead of a list"),
        (changed(has_secureboot="no"), "has_secureboot"),
        (changed(scrtm_and_bios=None), "refstate['scrtm_and_bios'] is missing"),
        (changed(scrtm_and_bios=[{}]), "lacks fields {'platform_firmware', 'scrtm'}"),
        (changed(kernels=[{}]), "lacks fields"),
        (changed(kernels=[1]), "1 is a <class 'int'> rather than a <class 'dict'>"),
        (
            changed(kernels=[dict(STATE["kernels"][0], initrd_plain_sha256="00")]),
            "'00' is not 0x followed by some lowercase",
        ),
        (changed(kernels=[dict(STATE["kernels"][0], kernel_cmdline=1)]), "1 is a <class 'int'>"),
        (changed(kernels=[dict(STATE["kernels"][0], kernel_cmdline="(?!a)")]), "is not an RE2 expression"),
        (changed(db=[{"SignatureOwner": "o", "SignatureData": "0xAB"}]), "'0xAB' is not 0x followed"),
        (changed(db={}), "rather than a <class 'list'>"),
        (changed(mokdig=["0x00"]), "rather than a <class 'dict'>"),
        *(
            ({key: value for key, value in STATE.items() if key != name}, f"refstate lacks {name}")
            for name in ("pk", "kek", "db", "dbx", "mokdig", "mokxdig")
        ),
    ],
)
def test_a_reference_state_that_is_not_valid_is_refused(state, message):
    with pytest.raises(PolicyError) as error:
        BUILT_IN["example"].test_for(state)
    assert message in error.value.message


def test_what_others_add_to_a_reference_state_is_ignored():
    assert parse_reference_state(changed(note="x")) == parse_reference_state(STATE)


@pytest.mark.parametrize("boot", [{"kernel_loads": 0}, {"kernel_loads": 3}])
def test_no_reference_state_is_made_of_another_kind_of_boot(boot):
    with pytest.raises(PolicyError, match="boot applications"):
        create_reference_state(bytes(grub_boot(**boot)))


class Own(BootPolicy):
    name = "own"
    pcrs = frozenset({4})

    def test_for(self, reference):
        return AcceptAll() if reference["works"] else Broken()


class Broken(Test):
    def why_not(self, evaluation, subject):
        raise KeyError("anything")


def module(*policies):
    made = types.ModuleType("site_policies")
    made.BOOT_POLICIES = list(policies)
    return made


def test_policies_of_own_modules():
    policies = with_modules(module(Own()))
    assert policies.keys() == {"accept-all", "reject-all", "example", "own"}
    assert judge(policies["own"].test_for({"works": True}), {}).reason == ""
    assert "own" not in BUILT_IN


def test_a_policy_that_raises_lets_nothing_pass():
    assert judge(Own().test_for({"works": False}), {}).reason == "policy evaluation failed: KeyError: 'anything'"


@pytest.mark.parametrize("bad", [types.ModuleType("empty"), module(1), module(Own(), Own())])
def test_a_module_that_is_no_module_of_policies_is_refused(bad):
    with pytest.raises(PolicyError):
        with_modules(bad)
