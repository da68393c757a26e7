import pytest

from attestream.uefi import kinds
from attestream.uefi.notices import NoticeKind, notices
from attestream.uefi.parser import parse_log
from devtools.boot_log import BootLog, guid
from devtools.sample_boot import OWNER


@pytest.mark.parametrize(
    ("pcr", "data", "kind", "manifest"),
    [
        (0, b"StartupLocality\0\3", NoticeKind.STARTUP_LOCALITY, ""),
        (0xFFFFFFFF, b"SP800-155 Event3" + bytes(4) + guid(OWNER) + b"rest", NoticeKind.REFERENCE_MANIFEST, OWNER),
        (0, b"SP800-155 Event\0" + bytes(4), NoticeKind.REFERENCE_MANIFEST, ""),
        (0, b"H-CRTM CompMeas\0" + b"\1", NoticeKind.HARDWARE_CRTM, ""),
        (6, b"NvIndexInstance\0" + b"\1", NoticeKind.NV_INDEX, ""),
        (0xFFFFFFFF, b"\1\0\1\0", NoticeKind.WINDOWS, ""),
        (0, b"anything", NoticeKind.OTHER, ""),
    ],
)
def test_what_a_log_says_of_itself(pcr, data, kind, manifest):
    log = BootLog()
    log.add(pcr, kinds.NO_ACTION, data)
    log.add(0, kinds.SEPARATOR, bytes(4))
    (notice,) = notices(parse_log(bytes(log)))
    assert (notice.event, notice.kind, notice.manifest, notice.data) == (1, kind, manifest, data)
