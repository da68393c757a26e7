import hashlib
import itertools

import pytest

from attestream.errors import TpmError
from attestream.tpm.public import parse_public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from attestream.tpm.structures import parse_quote
from devtools.soft_tpm import KeyPool, SoftTpm


@pytest.fixture(scope="module")
def keys() -> KeyPool:
    return KeyPool(2)


def test_extend_hashes_the_old_value_with_the_new_in_each_bank(keys: KeyPool) -> None:
    tpm = SoftTpm(ek="p256", ak="p256", keys=keys)
    tpm.extend(7, {"sha256": b"a" * 32})
    tpm.extend(7, {"sha256": b"b" * 32, "sha1": b"c" * 20})
    first = hashlib.sha256(bytes(32) + b"a" * 32).digest()
    assert tpm.pcr("sha256", 7) == hashlib.sha256(first + b"b" * 32).digest()
    assert tpm.pcr("sha1", 7) == hashlib.sha1(bytes(20) + b"c" * 20).digest()
    assert tpm.pcr("sha256", 8) == bytes(32)
    assert tpm.pcr("sha256", 17) == b"\xff" * 32


@pytest.mark.parametrize(("pcr", "values"), [(24, {}), (-1, {}), (0, {"sha384": bytes(48)}), (0, {"sha256": bytes(20)})])
def test_an_impossible_extend_changes_nothing(keys: KeyPool, pcr: int, values: dict[str, bytes]) -> None:
    tpm = SoftTpm(ek="p256", ak="p256", keys=keys)
    with pytest.raises(TpmError):
        tpm.extend(pcr, {"sha1": b"a" * 20} | values)
    assert tpm.pcr("sha1", 0) == bytes(20)


def test_a_quote_covers_the_present_pcrs_and_names_its_key(keys: KeyPool) -> None:
    tpm = SoftTpm(ek="p256", ak="p256", banks=("sha256",), keys=keys)
    tpm.extend(10, {"sha256": b"a" * 32})
    attest, signature = tpm.quote(b"q", {"sha256": [10, 0, 10], "sha1": [0]})
    quote = verify_quote_signature(parse_public(tpm.ak_public), attest, signature)
    assert quote.selection == (("sha256", (0, 10)), ("sha1", ()))
    assert quote.pcr_digest == pcr_digest("sha256", quote.selection, {"sha256": {0: bytes(32), 10: tpm.pcr("sha256", 10)}})
    ek_name = parse_public(tpm.ek_public).name
    parent = b"\x00\x0b" + hashlib.sha256(bytes.fromhex("4000000b") + ek_name).digest()
    assert quote.signer == b"\x00\x0b" + hashlib.sha256(parent + tpm.ak_name).digest()


def test_reboot_and_resume_follow_the_rules_of_the_clock(keys: KeyPool) -> None:
    time = itertools.chain([0, 100, 100], itertools.repeat(5_000))
    tpm = SoftTpm(ek="p256", ak="p256", keys=keys, now=lambda: next(time))

    def clock() -> tuple[int, int, int, bool]:
        info = parse_quote(tpm.quote(b"", {"sha256": [0]})[0]).clock
        return info.clock, info.reset_count, info.restart_count, info.safe

    at, resets, restarts, safe = clock()
    assert (restarts, safe) == (0, True)
    assert clock() == (at + 1, resets, 0, True)
    tpm.extend(0, {"sha256": b"a" * 32})
    tpm.resume()
    assert clock() == (at + 4_900, resets, 1, True)
    assert tpm.pcr("sha256", 0) != bytes(32)
    tpm.reboot()
    assert clock() == (at + 4_901, resets + 1, 0, True)
    assert tpm.pcr("sha256", 0) == bytes(32)
    tpm.reboot(orderly=False)
    assert clock() == (at + 4_902, resets + 2, 0, False)


def test_what_a_tpm_refuses_is_refused(keys: KeyPool) -> None:
    tpm = SoftTpm(ek="p256", ak="p256", keys=keys)
    with pytest.raises(TpmError, match="at most 66 bytes"):
        tpm.quote(bytes(67), {"sha256": [0]})
    with pytest.raises(TpmError, match="no PCR 24"):
        tpm.quote(b"", {"sha256": [24]})
    with pytest.raises(TpmError, match="no PCR 0 of bank sha512"):
        tpm.pcr("sha512", 0)


def test_a_pool_makes_few_keys_and_never_mixes_their_uses(keys: KeyPool) -> None:
    pool = KeyPool(2)
    tpms = [SoftTpm(ek="p256", ak="p256", ak_policy=bytes((n,)) * 32, keys=pool) for n in range(4)]
    points = [(parse_public(tpm.ek_public).point, parse_public(tpm.ak_public).point) for tpm in tpms]
    assert points[:2] == points[2:]
    assert len({point for pair in points for point in pair}) == 4
    assert len({tpm.ak_name for tpm in tpms}) == 4
