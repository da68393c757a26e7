"""A whole evidence of a real machine, with the key that signed it: hpe-security-lab/keylime-perf-tests (Apache-2.0).

It stands outside this repository: in ``shared/hpe`` beside it, or in the folder that ``ATTESTREAM_HPE`` names. Files, made
from that repository's:

- ``evidence.json``: an object with ``nonce`` (text), and in base64 ``ak`` (TPM2B_PUBLIC), ``quote`` (TPMS_ATTEST),
  ``signature`` (TPMT_SIGNATURE) and ``pcrs`` (tpm2-tools' blob), of ``perf_tests/db.py`` and
  ``perf_tests/mock_evidence.py``;
- ``ima_log.txt``: the ASCII log, and ``uefi_log.txt``: the boot log in base64, both of ``data/``.
"""

import base64
import json

import pytest

from attestream.errors import MalformedError
from attestream.ima.log import read_ascii
from attestream.ima.replay import Replay
from attestream.interop.keys import read_public
from attestream.interop.pcr_blob import parse_pcr_blob
from attestream.interop.quotes import QuoteParts, QuoteRefusedError, check_quote
from attestream.tpm.public import check_attestation_key
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import replay
from devtools.given_folder import given_folder

FILES = ["evidence.json", "ima_log.txt", "uefi_log.txt"]
LAYOUT = f"""it holds {", ".join(FILES)} of hpe-security-lab/keylime-perf-tests: nonce, ak, quote, signature and pcrs in a
JSON object (all but the nonce in base64), the ASCII log, and the boot log in base64
(see the head of tests/conformance/test_signed_evidence.py)""".replace("\n", " ")
GIVEN = given_folder("ATTESTREAM_HPE", "hpe", FILES, LAYOUT)
FOLDER = GIVEN.path
EVIDENCE = {"nonce": ""} if GIVEN.missing else json.loads((FOLDER / FILES[0]).read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(bool(GIVEN.missing), reason=GIVEN.missing)

NONCE = EVIDENCE["nonce"]
PUSH_NONCE = base64.b64encode(NONCE.encode()).decode()
"""An agent in push mode is given its nonce in base64."""


@pytest.fixture(scope="module")
def ak():
    return read_public(base64.b64decode(EVIDENCE["ak"]))


@pytest.fixture(scope="module")
def parts():
    return QuoteParts(*(base64.b64decode(EVIDENCE[name]) for name in ("quote", "signature", "pcrs")))


def replayed(lines, quoted):
    run = Replay("sha256", b"", quoted)
    for entry in read_ascii(lines, "sha256"):
        assert entry.consistent
        run.feed(entry.value)
    return run


def test_the_key_signs_the_nonce_and_the_pcr_values(ak, parts):
    check_attestation_key(ak)
    for nonce in (NONCE, PUSH_NONCE):
        checked = check_quote(ak, parts, nonce, "sha256")
        assert checked.quote.selection == (("sha256", tuple(range(17))),)
        assert len(checked.pcrs) == 17
        assert checked.quote.clock.safe


def test_the_ima_log_replays_to_the_quoted_pcr(ak, parts):
    quoted = check_quote(ak, parts, NONCE, "sha256").pcrs[10]
    log = (FOLDER / "ima_log.txt").read_bytes()
    run = replayed(log, quoted)
    assert (run.proven, run.seen) == (780, 780)
    lines = log.splitlines(keepends=True)
    for dropped in (0, 400, 779):
        assert replayed(b"".join(lines[:dropped] + lines[dropped + 1 :]), quoted).proven is None


def test_the_boot_log_replays_to_the_quoted_pcrs(ak, parts):
    quoted = check_quote(ak, parts, NONCE, "sha256").pcrs
    log = parse_log(base64.b64decode((FOLDER / "uefi_log.txt").read_bytes()))
    found = replay(log).pcrs["sha256"]
    compared = {pcr: value for pcr, value in found.items() if pcr < 16}
    assert set(compared) == {*range(10), 14}
    assert {pcr: quoted[pcr] for pcr in compared} == compared


@pytest.mark.parametrize("part", range(3))
def test_a_changed_byte_anywhere_is_noticed(ak, parts, part):
    whole = parts[part]
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 0x20
        with_change = parts._replace(**{parts._fields[part]: bytes(changed)})
        if part == 2 and same_values(whole, bytes(changed)):
            continue
        with pytest.raises(QuoteRefusedError):
            check_quote(ak, with_change, NONCE, "sha256")


def same_values(one, other):
    """Whether two blobs differ only in bytes that say nothing: padding, unused entries, counts of lists."""
    try:
        return parse_pcr_blob(one) == parse_pcr_blob(other)
    except MalformedError:
        return False
