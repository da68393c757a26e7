"""The test of the ``example`` policy: firmware, keys, boot loaders, kernel, initrd and command line are known ones.

It judges every event in PCRs 0-9 and 14 and expects that of a machine with UEFI firmware, shim and GRUB. An event that it
has no test for does not pass. Accepted as they are: boot variables, microcode and handoff tables, drivers of devices (their
PCR is used for nothing else), GRUB's own commands and files, the partition table, and what shim tells about the certificates
that it used, since shim itself is known by its digest.
"""

from __future__ import annotations

import uuid
from typing import Final

from attestream.uefi.guid import CERT_SHA256, CERT_X509, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK
from attestream.uefi.policy.delayed import DelayToFields
from attestream.uefi.policy.keys import (
    KeySubset,
    KeySubsetMulti,
    KeySuperset,
    SignatureSetMember,
    VariableDispatch,
    VariableTest,
)
from attestream.uefi.policy.logic import AcceptAll, And, OnceTest, Or, Test
from attestream.uefi.policy.measured import DigestsTest, DigestTest, EvEfiActionTest, EvSeperatorTest
from attestream.uefi.policy.reference import Kernel, ReferenceState
from attestream.uefi.policy.structure import Dispatcher, FieldsTest, FieldTest, IterateTest, TupleTest
from attestream.uefi.policy.values import RegExp, StringEqual

_COMMAND_LINE: Final = "kernel_cmdline: "
_PLATFORM_FLAGS: Final = 4
"""EV_PLATFORM_CONFIG_FLAGS events that EDK II may measure; there is no source of reference values for them."""


def example_test(reference: ReferenceState) -> Test:
    """Return the test for machines with the reference state ``reference``.

    :raises PolicyError: when a command line is not an RE2 expression.
    """
    booted = DelayToFields(
        And(Or(*(_kernel_test(kernel, reference.secure_boot) for kernel in reference.kernels)), _firmware_test(reference)),
        *("kernel_cmdlines", "bsas", "ipl9s", "vmlinuz", "s_crtms", "platform_firmware_blobs"),
    )
    events = Dispatcher(("PCRIndex", "EventType"))
    _add_firmware(events, booted)
    _add_variables(events, reference)
    _add_loaders(events, booted, reference)
    every = And(booted.get_initializer(), IterateTest(events, show_elt=True), booted)
    return FieldTest("events", every, show_name=False)


def _spellings(guid: str) -> tuple[str, str]:
    """Return how logs were printed by tpm2-tools before 5.2, which mistook the byte order, and how they are now."""
    return str(uuid.UUID(bytes=uuid.UUID(guid).bytes_le)), guid


def _sha256(digest: str) -> Test:
    return DigestTest({"sha256": digest})


def _kernel_test(kernel: Kernel, secure_boot: bool) -> Test:
    loaders = [_sha256(kernel.shim), _sha256(kernel.grub)]
    if secure_boot:
        # Some loaders have the kernel measured twice.
        once, twice = ([*loaders, *[_sha256(kernel.image)] * times] for times in (1, 2))
        applications: Test = Or(TupleTest(*once), TupleTest(*twice))
    else:
        # GRUB starts the kernel without asking shim, so that it is no measured application but a measured file.
        applications = TupleTest(*loaders)
    return FieldsTest(
        bsas=applications,
        ipl9s=TupleTest(_sha256(kernel.initrd)),
        vmlinuz=TupleTest(AcceptAll() if secure_boot else _sha256(kernel.image)),
        kernel_cmdlines=TupleTest(RegExp(_COMMAND_LINE + kernel.command_line)),
    )


def _firmware_test(reference: ReferenceState) -> Test:
    return Or(
        *(
            And(
                FieldTest("s_crtms", TupleTest(DigestTest(firmware.scrtm))),
                FieldTest("platform_firmware_blobs", TupleTest(*map(DigestTest, firmware.volumes))),
            )
            for firmware in reference.firmwares
        )
    )


def _add_firmware(events: Dispatcher, booted: DelayToFields) -> None:
    """Add what the firmware measures about itself and its settings."""
    events.set((0, "EV_NO_ACTION"), OnceTest(AcceptAll()))
    for tables in ("EV_CPU_MICROCODE", "EV_EFI_HANDOFF_TABLES", "EV_EFI_HANDOFF_TABLES2"):
        events.set((1, tables), OnceTest(AcceptAll()))
    events.set((0, "EV_S_CRTM_VERSION"), booted.get("s_crtms"))
    for volume in ("EV_EFI_PLATFORM_FIRMWARE_BLOB", "EV_EFI_PLATFORM_FIRMWARE_BLOB2"):
        events.set((0, volume), booted.get("platform_firmware_blobs"))
    events.set((2, "EV_EFI_BOOT_SERVICES_DRIVER"), AcceptAll())
    boot_variable = RegExp("BootOrder|Boot[0-9a-fA-F]+")
    by_guid = (VariableTest(guid, boot_variable, AcceptAll()) for guid in _spellings(GLOBAL_VARIABLE))
    events.set((1, "EV_EFI_VARIABLE_BOOT"), Or(*by_guid))
    events.set((1, "EV_PLATFORM_CONFIG_FLAGS"), Or(*(OnceTest(AcceptAll()) for _ in range(_PLATFORM_FLAGS))))
    for pcr in (1, 4, 5):
        events.set((pcr, "EV_EFI_ACTION"), EvEfiActionTest(pcr))
    for pcr in range(8):
        events.set((pcr, "EV_SEPARATOR"), EvSeperatorTest())
    events.set((5, "EV_EFI_GPT_EVENT"), OnceTest(AcceptAll()))


def _add_variables(events: Dispatcher, reference: ReferenceState) -> None:
    """Add the state of Secure Boot, its keys (PCR 7), and which of them were used."""
    driver_config = VariableDispatch()
    _set(driver_config, GLOBAL_VARIABLE, "SecureBoot", _switch("Yes" if reference.secure_boot else "No"))
    for name in ("PK", "KEK"):
        _set(driver_config, GLOBAL_VARIABLE, name, _allowed_keys(reference, name.lower(), CERT_X509))
    for name in ("db", "vendor_db"):
        _set(driver_config, IMAGE_SECURITY_DATABASE, name, _allowed_keys(reference, name, CERT_X509, CERT_SHA256))
    _set(driver_config, IMAGE_SECURITY_DATABASE, "dbx", _required_keys(reference))
    events.set((7, "EV_EFI_VARIABLE_DRIVER_CONFIG"), driver_config)

    authority = VariableDispatch()
    # The certificate that shim was verified with: shim is known by its digest.
    _set(authority, IMAGE_SECURITY_DATABASE, "db", OnceTest(AcceptAll()))
    vendor_keys = IterateTest(SignatureSetMember(reference.keys["vendor_db"]))
    _set(
        authority,
        IMAGE_SECURITY_DATABASE,
        "vendor_db",
        OnceTest(AcceptAll() if _unused(reference, "vendor_db") else vendor_keys),
    )
    for name in ("SbatLevel", "Shim"):
        _set(authority, SHIM_LOCK, name, OnceTest(AcceptAll()))
    authority.set(SHIM_LOCK, "MokListTrusted", OnceTest(Or(_switch("Yes"), _switch("No"))))
    authority.set(SHIM_LOCK, "MokListRT", OnceTest(AcceptAll()))
    events.set((7, "EV_EFI_VARIABLE_AUTHORITY"), authority)


def _set(variables: VariableDispatch, guid: str, name: str, test: Test) -> None:
    # One test for both spellings: what may be measured once is measured once.
    for spelling in _spellings(guid):
        variables.set(spelling, name, test)


def _switch(state: str) -> Test:
    return FieldTest("Enabled", StringEqual(state))


def _unused(reference: ReferenceState, name: str) -> bool:
    """Return whether a list of keys says nothing: without Secure Boot they may be there, but decide nothing."""
    return not reference.secure_boot and not reference.keys[name]


def _allowed_keys(reference: ReferenceState, name: str, *kinds: str) -> Test:
    """Return the test that nothing is enrolled but the reference state's keys ``name``."""
    if _unused(reference, name):
        return OnceTest(AcceptAll())
    keys = reference.keys[name]
    if len(kinds) == 1:
        return OnceTest(Or(*(KeySubset(kind, keys) for kind in _spellings(kinds[0]))))
    # All lists of a variable are in one spelling.
    spelled = zip(*map(_spellings, kinds), strict=True)
    return OnceTest(Or(*(KeySubsetMulti(spelling, keys) for spelling in spelled)))


def _required_keys(reference: ReferenceState) -> Test:
    """Return the test that everything is forbidden that the reference state forbids."""
    if _unused(reference, "dbx"):
        return OnceTest(AcceptAll())
    return OnceTest(Or(*(KeySuperset(kind, reference.keys["dbx"]) for kind in _spellings(CERT_SHA256))))


def _add_loaders(events: Dispatcher, booted: DelayToFields, reference: ReferenceState) -> None:
    """Add what is loaded and run: applications (PCR 4), GRUB's commands (8) and files (9), shim's own keys (14)."""
    events.set((4, "EV_EFI_BOOT_SERVICES_APPLICATION"), booted.get("bsas"))
    mok_lists = (
        And(_text(StringEqual("MokList")), DigestsTest(reference.mok)),
        And(_text(StringEqual("MokListX")), DigestsTest(reference.mokx)),
        And(_text(StringEqual("MokListTrusted")), OnceTest(AcceptAll())),
    )
    events.set((14, "EV_IPL"), Or(*mok_lists))
    files = (
        _text(RegExp(".*/loader/entries.*")),
        _text(RegExp(".*/grub.*")),
        And(_text(RegExp(".*/vmlinuz.*")), booted.get("vmlinuz")),
        And(_text(Or(RegExp(".*/initrd.*"), RegExp(".*/initramfs.*"))), booted.get("ipl9s")),
    )
    events.set((9, "EV_IPL"), Or(*files))
    command_line = And(RegExp(f"{_COMMAND_LINE}.*"), booted.get("kernel_cmdlines"))
    events.set((8, "EV_IPL"), _text(Or(RegExp("grub_cmd: .*", dot_all=True), command_line)))


def _text(test: Test) -> Test:
    return FieldTest("Event", FieldTest("String", test))
