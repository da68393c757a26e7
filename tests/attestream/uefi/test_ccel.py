from struct import pack

import pytest

from attestream.errors import MalformedError
from attestream.uefi import claim_kinds as claim
from attestream.uefi import kinds
from attestream.uefi.ccel import draw_rtmr_claims, replay_rtmrs
from attestream.uefi.guid import GLOBAL_VARIABLE
from attestream.uefi.parser import parse_log
from devtools.boot_log import BootLog, variable


def guest() -> BootLog:
    log = BootLog(("sha384",), header_pcr=1)
    log.add(1, kinds.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL_VARIABLE, "SecureBoot", b"\1"))
    log.add(1, kinds.SEPARATOR, bytes(4))
    log.add(2, kinds.EFI_BOOT_SERVICES_APPLICATION, pack("<QQQQ", 1, 2, 3, 0), measured=b"image")
    log.add(3, kinds.IPL, b"kernel_cmdline: quiet\0", measured=b"quiet")
    log.add(3, kinds.IPL, b"/vmlinuz\0", measured=b"kernel")
    return log


@pytest.mark.parametrize("padding", [b"", bytes(4096), b"\xff" * 4096])
def test_registers_are_replayed_and_padding_left_out(padding):
    log = guest()
    values = log.pcrs["sha384"]
    parsed = parse_log(bytes(log) + padding)
    assert parsed.padding == len(padding)
    assert replay_rtmrs(parsed) == (values[1], values[2], values[3], bytes(48))


def test_claims_come_from_registers_that_equal_the_quote():
    log = guest()
    parsed = parse_log(bytes(log))
    claims = draw_rtmr_claims(parsed, dict(enumerate(replay_rtmrs(parsed))))
    assert (claims.secure_boot, claims.differing, claims.rejected) == (True, (), ())
    assert [item.text for item in claims.of(claim.KernelCommandLine)] == ["quiet"]
    assert [item.name for item in claims.of(claim.LoadedFile)] == ["/vmlinuz"]
    other = draw_rtmr_claims(parsed, {0: bytes(48)})
    assert (other.secure_boot, other.differing, other.claims) == (None, (1,), ())


def test_refuses_a_log_of_something_else():
    with pytest.raises(MalformedError, match="SHA-384"):
        replay_rtmrs(parse_log(bytes(BootLog(("sha256",)))))
    log = guest()
    log.add(5, kinds.SEPARATOR, bytes(4))
    with pytest.raises(MalformedError, match="register 5"):
        replay_rtmrs(parse_log(bytes(log)))
