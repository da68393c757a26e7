"""What a policy says of a boot without a boot policy: keys as sets, unified kernel images, kernels without a loader."""

import hashlib

import pytest

from attestream.appraisal.boot import appraise_boot_log, compile_boot
from attestream.appraisal.boot_learning import Given, expectations_from_log
from attestream.appraisal.collector import Collector
from attestream.errors import PolicyError
from attestream.uefi import kinds
from attestream.uefi.guid import CERT_SHA256, CERT_X509, GLOBAL_VARIABLE
from devtools.boot_log import BootLog, signature_list, variable
from devtools.grub_boot import CERTIFICATE, FORBIDDEN, OWNER, grub_boot
from devtools.uki_boot import LOAD_OPTIONS, SECTIONS, direct_boot, firmware, start, uki_boot

OTHER = b"\x30\x82\x01\x00" + bytes(256)
CERT_HASH = "3bd2a492-96c0-4079-b420-fcf98ef103ed"
"""EFI_CERT_X509_SHA256_GUID: a hash of a certificate, and the time of its revocation."""
IMAGE = b"the unified kernel image"


def digest(data, bank="sha256"):
    return hashlib.new(bank, data).hexdigest()


def certificate(data):
    return f"certificate:{digest(data)}"


def images(*digests):
    return [f"image:{one.hex()}" for one in digests]


def x509(*certificates):
    return b"".join(signature_list(CERT_X509, OWNER, [one]) for one in certificates)


def uki(**changed):
    sections = {name: digest(data) for name, data in SECTIONS.items()}
    return {"applications": [digest(IMAGE), digest(SECTIONS[".linux"])], "sections": sections} | changed


def direct(**changed):
    parts = {"applications": [digest(b"the kernel")], "initrd": digest(b"the initrd"), "load_options": LOAD_OPTIONS}
    return parts | changed


def found(log, *, bank="sha256", quoted=None, **boot):
    rules = compile_boot(boot, bank=bank)
    values = {pcr: log.pcrs[bank].get(pcr, bytes(hashlib.new(bank).digest_size)) for pcr in rules.pcrs} | (quoted or {})
    findings = Collector()
    good = appraise_boot_log(bytes(log), values, bank=bank, rules=rules, findings=findings)
    assert good is not bool(findings.all())
    return [(finding.code.removeprefix("boot."), finding.culprit) for finding in findings.all()]


def test_secure_boot_must_be_on():
    assert found(firmware(), secure_boot=True) == []
    assert found(firmware(secure_boot=False), secure_boot=True) == [("secure-boot", "event 1 (PCR 7, SecureBoot)")]
    assert found(firmware(secure_boot=False), secure_boot=False, keys={"db": [certificate(CERTIFICATE)]}) == []


KEYS = {name: [certificate(CERTIFICATE)] for name in ("PK", "KEK", "db")}


def test_nothing_may_be_enrolled_but_the_keys_of_the_policy():
    assert found(firmware(), keys=KEYS) == []
    assert found(firmware(), keys={"db": [certificate(CERTIFICATE), certificate(OTHER), *images(FORBIDDEN[0])]}) == []
    for name, number in (("PK", 2), ("KEK", 3), ("db", 4)):
        log = firmware(databases={name: x509(CERTIFICATE, OTHER)})
        assert found(log, keys=KEYS) == [("key-unknown", f"event {number} (PCR 7, SignatureDatabase): {name}")]


def test_a_key_is_found_in_whatever_list_it_hides():
    mixed = x509(CERTIFICATE) + signature_list(CERT_SHA256, OWNER, [FORBIDDEN[0]]) + x509(CERTIFICATE)
    assert found(firmware(databases={"db": mixed}), keys={"db": KEYS["db"] + images(FORBIDDEN[0])}) == []
    assert [code for code, _ in found(firmware(databases={"db": mixed}), keys=KEYS)] == ["key-unknown"]
    # The digest of an image is no certificate with that digest.
    posing = signature_list(CERT_SHA256, OWNER, [hashlib.sha256(CERTIFICATE).digest()])
    assert [code for code, _ in found(firmware(databases={"db": posing}), keys=KEYS)] == ["key-unknown"]


def test_dbx_must_have_at_least_what_the_policy_forbids():
    assert found(firmware(), dbx=images(*FORBIDDEN)) == []
    assert found(firmware(), dbx=images(FORBIDDEN[1])) == []
    lacking = firmware(databases={"dbx": signature_list(CERT_SHA256, OWNER, FORBIDDEN[:2])})
    assert found(lacking, dbx=images(*FORBIDDEN)) == [("not-forbidden", "event 5 (PCR 7, SignatureDatabase): dbx")]
    assert found(firmware(databases={"dbx": b""}), dbx=images(FORBIDDEN[0])) != []
    assert found(firmware(databases={"dbx": b""}), dbx=[]) == []


def test_all_lists_of_dbx_count_together():
    """A dbx of today has several lists, also of one type: a verifier that reads one of them refuses good machines."""
    revoked = hashlib.sha256(OTHER).digest() + bytes(16)
    several = (
        signature_list(CERT_SHA256, OWNER, FORBIDDEN[:1])
        + x509(OTHER)
        + signature_list(CERT_HASH, OWNER, [revoked])
        + signature_list(CERT_SHA256, OWNER, FORBIDDEN[1:])
    )
    wanted = [*images(*FORBIDDEN), certificate(OTHER), f"{CERT_HASH}:{revoked.hex()}", f"{CERT_X509}:{OTHER.hex()}"]
    assert found(firmware(databases={"dbx": several}), dbx=wanted) == []
    assert [code for code, _ in found(firmware(), dbx=wanted)] == ["not-forbidden"]


def test_what_the_log_does_not_show_is_not_taken_for_good():
    assert found(BootLog(("sha256",)), secure_boot=True, keys=KEYS, dbx=images(FORBIDDEN[0]), boots=[direct(), uki()]) == [
        ("secure-boot", "SecureBoot"),
        *(("key-unknown", name) for name in KEYS),
        ("not-forbidden", "dbx"),
        ("application", "PCR 4"),
        ("file", "PCR 9"),
    ]


def test_a_key_under_the_digest_of_another_is_unproven():
    log = firmware()
    log.add(7, kinds.EFI_VARIABLE_AUTHORITY, b"short")
    assert [code for code, _ in found(log, keys=KEYS)] == ["event-unproven"]
    # What no rule is about does not matter.
    log = firmware()
    order = variable(GLOBAL_VARIABLE, "BootOrder", bytes(2))
    log.add(1, kinds.EFI_VARIABLE_BOOT, order, measured=b"something else")
    assert found(log, keys=KEYS) == []


def test_a_unified_kernel_image_is_known_by_its_sections():
    assert found(uki_boot(firmware()), boots=[uki()]) == []
    assert found(uki_boot(firmware(), image=b"another"), boots=[uki()]) == [("application", "event 14 (PCR 4, ImageLoad)")]
    other = uki_boot(firmware(), sections=SECTIONS | {".cmdline": b"init=/bin/sh"})
    assert found(other, boots=[uki()]) == [("section", "event 20 (PCR 11, ImageSection): .cmdline")]
    more = uki_boot(firmware(), sections=SECTIONS | {".ucode": b"microcode"})
    assert found(more, boots=[uki()]) == [("section", "event 24 (PCR 11, ImageSection): .ucode")]
    fewer = uki_boot(firmware(), sections={name: data for name, data in SECTIONS.items() if name != ".initrd"})
    assert found(fewer, boots=[uki()]) == [("section", ".initrd")]


def test_what_is_passed_to_a_unified_kernel_image_is_judged():
    log = uki_boot(firmware(), parameters=["root=/dev/vda2 init=/bin/sh"])
    assert [code for code, _ in found(log, boots=[uki()])] == ["command-line"]
    assert [code for code, _ in found(log, boots=[uki(command_line="root=/dev/vda[0-9] ro")])] == ["command-line"]
    assert found(log, boots=[uki(command_line="root=/dev/vda[0-9] init=.*")]) == []
    assert found(uki_boot(firmware()), boots=[uki(command_line="quiet")]) == []
    extended = uki_boot(firmware())
    extended.add(13, kinds.IPL, b"a system extension\0")
    assert found(extended, boots=[uki()]) == [("file", "event 24 (PCR 13, LoadedFile)")]
    strange = uki_boot(firmware())
    strange.add(11, kinds.COMPACT_HASH, b"anything")
    assert found(strange, boots=[uki()]) == [("file", "event 24 (PCR 11, EV_COMPACT_HASH)")]


def test_phases_that_the_system_measures_behind_the_log_are_known():
    log = uki_boot(firmware())
    value = log.pcrs["sha256"][11]
    phases = ["enter-initrd", "leave-initrd", "sysinit"]
    for reached in range(len(phases) + 1):
        assert found(log, boots=[uki()], phases=phases, quoted={11: value}) == []
        last = reached == len(phases)
        phase = "ready" if last else phases[reached]
        assert found(log, boots=[uki()], quoted={11: value}) == ([] if reached == 0 else [("pcr-mismatch", "PCR 11")])
        value = hashlib.sha256(value + hashlib.sha256(phase.encode()).digest()).digest()
    assert found(log, boots=[uki()], phases=phases, quoted={11: value}) == [("pcr-mismatch", "PCR 11")]


def test_a_kernel_that_the_firmware_starts_is_known_with_what_it_was_given():
    assert found(direct_boot(firmware()), boots=[direct()]) == []
    log = direct_boot(firmware(), load_options="root=/dev/vda2 rw")
    assert found(log, boots=[direct()]) == [("file", "event 15 (PCR 9, TaggedEvent)"), ("file", "PCR 9")]
    log = direct_boot(firmware(), initrd=b"another")
    assert found(log, boots=[direct()])[0] == ("file", "event 16 (PCR 9, TaggedEvent)")
    log = direct_boot(firmware(), kernel=b"another")
    assert found(log, boots=[direct()]) == [("application", "event 14 (PCR 4, ImageLoad)")]
    log = direct_boot(firmware())
    start(log, "\\shell.efi", b"a shell")
    assert found(log, boots=[direct()]) == [("application", "event 17 (PCR 4, ImageLoad)")]


def test_the_current_and_the_next_boot_are_both_allowed_but_not_half_of_each():
    boots = [direct(), direct(initrd=digest(b"next"), applications=[digest(b"next kernel")])]
    assert found(direct_boot(firmware()), boots=boots) == []
    assert found(direct_boot(firmware(), kernel=b"next kernel", initrd=b"next"), boots=boots) == []
    assert [code for code, _ in found(direct_boot(firmware(), initrd=b"next"), boots=boots)] == ["application"]


def test_a_command_line_of_grub_can_be_judged_without_a_boot_policy():
    boots = [{"command_line": ".*root=/dev/vda2 ro ima_policy=tcb"}]
    assert found(grub_boot(banks=("sha256",)), boots=boots) == []
    [(code, culprit)] = found(grub_boot(banks=("sha256",), command_line="vmlinuz rw"), boots=boots)
    assert (code, culprit.endswith("(PCR 8, KernelCommandLine)")) == ("command-line", True)
    assert found(direct_boot(firmware()), boots=boots) == [("command-line", "kernel command line")]


def test_digests_are_those_of_the_bank():
    log = direct_boot(firmware(bank="sha384"))
    boot = direct(applications=[digest(b"the kernel", "sha384")], initrd=digest(b"the initrd", "sha384"))
    assert found(log, bank="sha384", boots=[boot]) == []
    with pytest.raises(PolicyError, match=r"boot\.boots\[0\]\.applications\[0\]: has 32 bytes"):
        compile_boot({"boots": [direct()]}, bank="sha384")


def test_the_pcrs_that_prove_it_are_quoted_besides_the_firmwares():
    assert compile_boot({"boots": [uki()]}).pcrs == (*range(8), 11, 12, 13)
    assert compile_boot({"boots": [direct()], "pcrs": []}).pcrs == (4, 9)
    assert compile_boot({"secure_boot": True, "pcrs": []}).pcrs == (7,)
    assert compile_boot({"policy": "reject-all", "secure_boot": True}).name == "reject-all"


@pytest.mark.parametrize(
    ("log", "given"),
    [(uki_boot(firmware()), Given()), (direct_boot(firmware()), Given(load_options=LOAD_OPTIONS))],
    ids=["unified", "direct"],
)
def test_what_is_learnt_from_a_good_machine_allows_it_and_no_other(log, given):
    learnt = expectations_from_log(bytes(log), given=given).settings
    assert learnt["secure_boot"] is True
    assert learnt["keys"] == KEYS
    assert sorted(learnt["dbx"]) == sorted(images(*FORBIDDEN))
    assert found(log, **learnt) == []
    assert found(uki_boot(firmware(), image=b"another"), **learnt) != []
    assert found(direct_boot(firmware(), initrd=b"another"), **learnt) != []


@pytest.mark.parametrize(
    ("log", "given", "message"),
    [
        (firmware(), Given(logged_command_lines=True), "no command line"),
        (firmware(secure_boot=False), Given(), "Secure Boot is off"),
        (BootLog(("sha256",)), Given(), "does not tell of Secure Boot"),
        (BootLog(("sha256",)), Given(without_secure_boot=True), "nothing of the boot"),
        (direct_boot(firmware()), Given(), "load options by digest only"),
        (direct_boot(firmware()), Given(load_options="init=/bin/sh"), "refuse this very log: boot.file"),
        (uki_boot(firmware(), parameters=["quiet"]), Given(), "refuse this very log: boot.command-line"),
        (uki_boot(firmware(), parameters=["quiet"]), Given(command_line="ro"), "refuse this very log: boot.command-line"),
    ],
)
def test_nothing_is_learnt_that_would_refuse_the_log_itself(log, given, message):
    with pytest.raises(PolicyError, match=message):
        expectations_from_log(bytes(log), given=given)


def test_nothing_is_learnt_from_a_log_that_contradicts_itself():
    log = firmware()
    log.add(7, kinds.EFI_VARIABLE_AUTHORITY, b"short")
    with pytest.raises(PolicyError, match="contradicts itself"):
        expectations_from_log(bytes(log))
    with pytest.raises(PolicyError, match="no digests for the bank sha384"):
        expectations_from_log(bytes(firmware()), "sha384")


@pytest.mark.parametrize(
    ("boot", "message"),
    [
        ({"secure_boot": False}, "expects nothing"),
        ({"secure_boot": 1}, r"boot\.secure_boot"),
        ({"keys": {"MokList": []}}, r"boot\.keys"),
        ({"keys": {"db": ["sha256:00"]}}, r"boot\.keys\.db\[0\]"),
        ({"dbx": ["image:00"]}, r"boot\.dbx\[0\]: has 1 bytes"),
        ({"dbx": ["certificate:xx"]}, r"boot\.dbx\[0\]"),
        ({"boots": []}, r"boot\.boots"),
        ({"boots": [{}]}, r"boot\.boots\[0\]: expects nothing"),
        ({"boots": [{"command_line": "("}]}, r"boot\.boots\[0\]\.command_line"),
        ({"boots": [{"sections": {}}]}, r"boot\.boots\[0\]\.sections"),
        ({"boots": [{"kernel": "00"}]}, r"boot\.boots\[0\]"),
        ({"boots": [{"load_options": ""}]}, r"boot\.boots\[0\]\.load_options"),
        ({"phases": [1]}, r"boot\.phases\[0\]"),
        ({"dbx": [], "policy": "none"}, r"boot\.policy"),
    ],
)
def test_a_document_that_is_not_valid_is_refused_with_the_place(boot, message):
    with pytest.raises(PolicyError, match=message):
        compile_boot(boot)
