from attestream.interop.boot_log import NO_SUCH_BANK, UNREADABLE, read_boot_log
from attestream.uefi import kinds
from attestream.uefi.replay import boot_aggregates
from devtools.boot_log import BootLog
from devtools.sample_boot import sample_boot


def test_a_log_gives_values_aggregates_and_events():
    log = sample_boot(BootLog(("sha1", "sha256")))
    reading = read_boot_log(bytes(log), "sha256")
    assert reading.event_ids == ()
    assert reading.pcrs == log.pcrs["sha256"]
    assert reading.aggregates == boot_aggregates(log.pcrs)
    assert reading.dictionary["events"][1]["EventType"] == "EV_S_CRTM_VERSION"


def test_no_log_is_not_wrong():
    assert read_boot_log(b"", "sha256").event_ids == ()


def test_a_bank_without_events_is_named():
    log = sample_boot(BootLog(("sha256",)))
    assert read_boot_log(bytes(log), "sha384").event_ids == (NO_SUCH_BANK,)
    assert read_boot_log(bytes(BootLog(("sha256",))), "sha256").event_ids == (NO_SUCH_BANK,)


def test_a_log_that_can_not_be_read_is_refused():
    log = sample_boot(BootLog())
    assert read_boot_log(bytes(log)[:-1], "sha256").event_ids == (UNREADABLE,)
    log.add(1, kinds.EFI_PLATFORM_FIRMWARE_BLOB, b"short")
    assert read_boot_log(bytes(log), "sha256").event_ids == (UNREADABLE,)
