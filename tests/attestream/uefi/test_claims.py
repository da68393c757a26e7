from struct import pack

import pytest

from attestream.uefi import claim_kinds as claim
from attestream.uefi import kinds
from attestream.uefi.claims import BootClaims, draw_claims
from attestream.uefi.guid import CERT_SHA256, CERT_X509, GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import digest_in
from devtools.boot_log import BootLog, signature_list, variable
from devtools.sample_boot import CERTIFICATE, COMMAND_LINE, DISK, FORBIDDEN, MOK_LIST, OWNER, sample_boot


def drawn(log: BootLog, bank: str = "sha256") -> BootClaims:
    return draw_claims(parse_log(bytes(log)), bank, log.pcrs[bank])


def one(claims: BootClaims, kind):
    found = claims.of(kind)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_a_whole_boot(bank):
    claims = drawn(sample_boot(BootLog(("sha1", "sha256", "sha384"))), bank)
    assert (claims.differing, claims.rejected) == ((), ())
    assert claims.secure_boot is True
    databases = {found.name: found.lists for found in claims.of(claim.SignatureDatabase)}
    assert set(databases) == {"PK", "KEK", "db", "dbx"}
    assert len(databases["db"]) == 2
    assert databases["db"][0].kind == CERT_X509
    assert databases["dbx"][0].kind == CERT_SHA256
    assert [signature.data for signature in databases["dbx"][0].signatures] == FORBIDDEN
    assert one(claims, claim.FirmwareVersion).text == "1.2.3"
    assert one(claims, claim.BootOrder).entries == ("Boot0001", "Boot0000")
    assert one(claims, claim.BootOrder).name_proven is False
    option = one(claims, claim.BootOption)
    assert (option.name, option.option.description, option.name_proven) == ("Boot0001", "Linux", True)
    assert [item.name for item in claims.of(claim.Authority)] == ["db", "Shim", "SbatLevel"]
    assert one(claims, claim.ImageLoad).digest == digest_in(bank, b"shim")
    assert one(claims, claim.ImageLoad).path == "File(\\EFI\\debian\\shimx64.efi)"
    assert one(claims, claim.PartitionTable).disk == DISK
    assert [item.text for item in claims.of(claim.Action)][-1] == "Exit Boot Services Invocation"
    assert [item.error for item in claims.of(claim.Separator)] == [False] * 8


def test_what_boot_loaders_and_the_kernel_measure():
    claims = drawn(sample_boot(BootLog()))
    assert [(item.label, item.text) for item in claims.of(claim.BootCommand)] == [("grub_cmd", "linux /vmlinuz")]
    lines = [(item.source, item.text) for item in claims.of(claim.KernelCommandLine)]
    assert lines == [("grub", COMMAND_LINE.decode()), ("systemd", "quiet splash")]
    assert one(claims, claim.LoadedFile).digest == digest_in("sha256", b"kernel")
    section = one(claims, claim.ImageSection)
    assert (section.name, section.digest) == (".linux", digest_in("sha256", b"the kernel's section"))
    initrd = one(claims, claim.TaggedEvent)
    assert (initrd.tag, initrd.text, initrd.digest) == (0x8F3B22EC, "Linux initrd", digest_in("sha256", b"initrd"))
    keys, trusted = claims.of(claim.MachineOwnerKeys)
    assert (keys.name, keys.digest, keys.enabled) == ("MokList", digest_in("sha256", MOK_LIST), None)
    assert (trusted.name, trusted.enabled) == ("MokListTrusted", True)


def test_a_pcr_that_differs_from_the_quote_proves_nothing():
    log = sample_boot(BootLog())
    quoted = {**log.pcrs["sha256"], 7: bytes(32)}
    claims = draw_claims(parse_log(bytes(log)), "sha256", quoted)
    assert claims.differing == (7,)
    assert 7 not in claims.proven
    assert claims.secure_boot is None
    assert not [found for found in claims.claims if found.pcr == 7]


def test_a_pcr_that_is_not_quoted_proves_nothing():
    log = sample_boot(BootLog())
    claims = draw_claims(parse_log(bytes(log)), "sha256", {0: log.pcrs["sha256"][0]})
    assert claims.proven == (0,)
    assert {found.pcr for found in claims.claims} == {0}


def test_a_bank_that_the_log_does_not_have_proves_nothing():
    claims = draw_claims(parse_log(bytes(sample_boot(BootLog()))), "sha512", {0: bytes(64)})
    assert claims == BootClaims((), (), (0,), ())


def test_data_that_was_not_measured_says_nothing():
    """The PCRs of a machine without Secure Boot, and a log that tells otherwise."""
    log = BootLog()
    off = variable(GLOBAL_VARIABLE, "SecureBoot", b"\0")
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1"), measured=off)
    claims = drawn(log)
    assert claims.proven == (7,)
    assert claims.secure_boot is None
    assert [found.event for found in claims.rejected] == [1]


def test_every_flipped_byte_of_covered_data_takes_the_claim_away():
    log = BootLog(("sha256",))
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\0"))
    data = bytearray(bytes(log))
    start = len(data) - len(variable(GLOBAL_VARIABLE, "SecureBoot", b"\0"))
    for place in range(start, len(data)):
        data[place] ^= 1
        claims = draw_claims(parse_log(bytes(data)), "sha256", log.pcrs["sha256"])
        assert (claims.claims, len(claims.rejected)) == ((), 1)
        data[place] ^= 1
    assert draw_claims(parse_log(bytes(data)), "sha256", log.pcrs["sha256"]).secure_boot is False


def test_secure_boot_configuration_behind_the_separator_is_refused():
    """An operating system can extend PCR 7 too: what follows the separator is not the firmware's word."""
    log = BootLog()
    log.add(7, kinds.SEPARATOR, bytes(4))
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1"))
    claims = drawn(log)
    assert claims.secure_boot is None
    assert "behind the separator" in claims.rejected[0].reason


def test_a_second_value_of_secure_boot_is_refused():
    log = BootLog()
    for value in (b"\0", b"\1"):
        log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", value))
    claims = drawn(log)
    assert claims.secure_boot is False
    assert "second value" in claims.rejected[0].reason


def test_only_the_firmwares_own_variable_is_secure_boot():
    log = BootLog()
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(OWNER, "SecureBoot", b"\1"))
    log.add(1, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1"))
    claims = drawn(log)
    assert claims.secure_boot is None
    assert [type(found) for found in claims.claims] == [claim.ConfigVariable] * 2


@pytest.mark.parametrize("value", [b"\2", b"\1\0"])
def test_a_secure_boot_that_is_neither_on_nor_off_is_refused(value):
    log = BootLog()
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", value))
    assert drawn(log).rejected


def test_a_signature_list_with_a_header_gives_no_claim_ghsa_9r4w_jg96_92mv():
    log = BootLog()
    lists = signature_list(CERT_X509, OWNER, [CERTIFICATE], header=bytes(8))
    log.add(7, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(IMAGE_SECURITY_DATABASE, "db", lists))
    claims = drawn(log)
    assert (claims.claims, len(claims.rejected)) == ((), 1)


def test_no_action_events_never_claim():
    log = BootLog()
    log.add(7, kinds.NO_ACTION, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1"))
    log.add(7, kinds.SEPARATOR, bytes(4))
    assert [type(found) for found in drawn(log).claims] == [claim.Separator]


def test_a_separator_that_reports_an_error():
    log = BootLog()
    log.add(4, kinds.SEPARATOR, pack("<I", 1))
    assert one(drawn(log), claim.Separator).error is True


def test_a_section_counts_only_behind_its_proven_name():
    log = BootLog()
    name = ".cmdline\0".encode("utf-16-le")
    log.add(11, kinds.IPL, name, measured=b"content")
    log.add(11, kinds.IPL, name, measured=b".cmdline\0")
    log.add(11, kinds.IPL, ".initrd\0".encode("utf-16-le"), measured=b"other content")
    claims = drawn(log)
    assert claims.of(claim.ImageSection) == ()
    assert [item.name for item in claims.of(claim.LoadedFile)] == [".cmdline", ".initrd"]


def test_an_event_without_a_digest_of_the_bank_is_refused():
    log = BootLog(("sha1", "sha256"))
    log.add(4, kinds.SEPARATOR, bytes(4))
    log.add_digests(4, kinds.EFI_ACTION, b"sly", {"sha1": b"\1" * 20})
    claims = drawn(log)
    assert claims.proven == (4,)
    assert "no sha256 digest" in claims.rejected[0].reason
