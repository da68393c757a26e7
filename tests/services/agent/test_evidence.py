"""Evidence over a real TPM: quote, PCR values and log agree whatever moves while they are read."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import msgspec
import pytest

from attestream.errors import AttestreamError, TpmError
from attestream.ima.log import read_ascii, read_binary
from attestream.ima.replay import Replay
from attestream.tpm.public import parse_public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from devtools.ima_emulator import ImaEmulator
from devtools.ima_log import record
from devtools.swtpm import Swtpm
from schemas.attestation import MAX_PARTS, PART_BYTES, Challenge, Evidence, EvidencePart, ImaDelta, qualifying_data
from services.agent import agreement
from services.agent import evidence as module
from services.agent.evidence import ATTEMPTS, QUOTE_ATTEMPTS, Attester, EvidenceMaker, check, cut, is_bare
from services.agent.ima_log import ImaLog
from services.agent.tpm_device import TpmDevice

ATTESTER = Attester(agent_id="host-1", enrolment=3, transport_key=hashlib.sha256(b"key").digest())


def challenge(**fields: object) -> Challenge:
    values: dict[str, object] = {
        "agent_id": "host-1",
        "nonce": b"n" * 32,
        "seq": 7,
        "issued_at": 1_000,
        "deadline": 6_000,
        "banks": {"sha1": [10], "sha256": [0, 10]},
        "ima_from": 0,
    }
    return Challenge(**(values | fields))  # type: ignore[arg-type]


def maker(device: TpmDevice, emulator: ImaEmulator, *, ascii_form: bool = False, **options: object) -> EvidenceMaker:
    log = ImaLog(emulator.ascii_log if ascii_form else emulator.binary_log, ascii_form=ascii_form)
    return EvidenceMaker(ATTESTER, device, ima=log, **options)  # type: ignore[arg-type]


def proven(evidence: Evidence, start: bytes = b"") -> int | None:
    """How many of the entries in ``evidence`` its quoted PCR 10 proves."""
    assert evidence.ima is not None
    replay = Replay("sha256", start, evidence.pcr_values["sha256"][10])
    for one in (read_ascii if evidence.ima.ascii else read_binary)(evidence.ima.data, "sha256"):
        replay.feed(one.value)
    return replay.proven


def check_quote(device: TpmDevice, evidence: Evidence) -> None:
    quote = verify_quote_signature(parse_public(device.attestation_key()), evidence.quote, evidence.signature)
    assert quote.extra_data == qualifying_data(b"n" * 32, "host-1", ATTESTER.transport_key)
    assert quote.pcr_digest == pcr_digest("sha256", quote.selection, evidence.pcr_values)


@pytest.mark.parametrize("ascii_form", [False, True])
def test_news_carry_values_and_the_entries_that_were_asked_for(
    device: TpmDevice, emulator: ImaEmulator, ascii_form: bool
) -> None:
    make = maker(device, emulator, ascii_form=ascii_form)
    emulator.run("/usr/bin/first one", b"1")
    first = make.make(challenge())
    check_quote(device, first)
    assert first.ima is not None
    assert (first.ima.ima_first, first.ima.count, proven(first)) == (0, 2, 2)
    assert (first.agent_id, first.enrolment, first.seq, first.issued_at) == ("host-1", 3, 7, 1_000)
    emulator.violate("/var/log/x")
    second = make.make(challenge(ima_from=2))
    assert second.ima is not None
    assert (second.ima.ima_first, second.ima.count) == (2, 1)
    assert proven(second, first.pcr_values["sha256"][10]) == 1


def test_a_known_digest_makes_the_evidence_bare(device: TpmDevice, emulator: ImaEmulator) -> None:
    make = maker(device, emulator)
    first = make.make(challenge())
    assert not is_bare(first)
    known = verify_quote_signature(parse_public(device.attestation_key()), first.quote, first.signature).pcr_digest
    bare = make.make(challenge(known_digest=known, boot_log=True, ima_from=1))
    assert is_bare(bare)
    emulator.run("/bin/x", b"x")
    assert not is_bare(make.make(challenge(known_digest=known, ima_from=1)))


def test_a_log_that_is_ahead_of_the_pcr_is_sent_as_far_as_it_is_quoted(device: TpmDevice, emulator: ImaEmulator) -> None:
    make = maker(device, emulator)
    found: list[Evidence] = []
    emulator.run("/bin/late", b"x", between=lambda: found.append(make.make(challenge())))
    assert found[0].ima is not None
    assert (found[0].ima.count, proven(found[0])) == (1, 1)


def test_a_pcr_that_is_ahead_of_the_log_is_waited_for(device: TpmDevice, emulator: ImaEmulator) -> None:
    pauses = []
    halted, go_on = threading.Event(), threading.Event()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        go_on.set()
        writer.join(10)

    def between() -> None:
        halted.set()
        assert go_on.wait(10)

    writer = threading.Thread(target=lambda: emulator.run("/bin/late", b"x", between=between, pcr_first=True))
    writer.start()
    assert halted.wait(10)
    evidence = maker(device, emulator, pause=pause).make(challenge())
    assert len(pauses) == 1
    assert (evidence.ima and evidence.ima.count, proven(evidence)) == (2, 2)


@pytest.mark.alone
def test_evidence_is_consistent_under_constant_change(device: TpmDevice, emulator: ImaEmulator) -> None:
    make = maker(device, emulator)
    stop = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        number = 0
        try:
            while not stop.wait(0.002):
                number += 1
                emulator.run(f"/bin/{number}", b"x", pcr_first=number % 2 == 0)
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        known, value = 0, b""
        for _ in range(20):
            evidence = make.make(challenge(ima_from=known))
            check_quote(device, evidence)
            assert evidence.ima is not None
            assert evidence.ima.ima_first == known
            assert proven(evidence, value) == evidence.ima.count
            known, value = known + evidence.ima.count, evidence.pcr_values["sha256"][10]
    finally:
        stop.set()
        writer.join()
    assert not failed
    assert known > 10


class AlwaysMeasuring:
    """A TPM into which something is measured between any quote and the reading of the values."""

    def __init__(self, device: TpmDevice, emulator: ImaEmulator) -> None:
        self.quote = device.quote
        self._read = device.read_pcrs
        self._emulator = emulator
        self.readings = 0

    def read_pcrs(self, banks):
        self.readings += 1
        self._emulator.run(f"/bin/{self.readings}", b"x")
        return self._read(banks)


def test_values_that_are_not_the_quoted_ones_are_never_sent(device: TpmDevice, emulator: ImaEmulator) -> None:
    racing = AlwaysMeasuring(device, emulator)
    with pytest.raises(TpmError, match="changed between"):
        maker(racing, emulator).make(challenge())
    assert racing.readings == QUOTE_ATTEMPTS


def test_a_tampered_log_is_sent_after_bounded_attempts(device: TpmDevice, emulator: ImaEmulator) -> None:
    emulator.run("/bin/evil", b"evil")
    size = emulator.binary_log.stat().st_size
    emulator.binary_log.write_bytes(emulator.binary_log.read_bytes()[: size - len(record("/bin/evil", bytes(32)).binary)])
    pauses: list[float] = []
    evidence = maker(device, emulator, pause=pauses.append).make(challenge())
    assert len(pauses) == ATTEMPTS - 1
    assert evidence.ima is not None
    assert (evidence.ima.count, proven(evidence)) == (1, None)


def test_a_log_that_is_no_log_is_sent_for_the_verifier_to_judge(device: TpmDevice, emulator: ImaEmulator) -> None:
    emulator.binary_log.write_bytes(b"\xff" * 100)
    evidence = maker(device, emulator, pause=lambda _: None).make(challenge())
    assert evidence.ima == ImaDelta(ima_first=0, count=0, data=b"\xff" * 100)


def test_after_a_reboot_the_log_is_sent_from_its_beginning(swtpm: Swtpm, device: TpmDevice, emulator: ImaEmulator) -> None:
    make = maker(device, emulator)
    for number in range(5):
        emulator.run(f"/bin/{number}", b"x")
    make.make(challenge())
    swtpm.reboot()
    emulator.boot()
    emulator.run("/bin/other", b"x")
    evidence = make.make(challenge(ima_from=6))
    assert evidence.ima is not None
    assert (evidence.ima.ima_first, evidence.ima.count, proven(evidence)) == (0, 2, 2)


def test_the_boot_log_comes_when_it_is_asked_for(device: TpmDevice, tmp_path: Path) -> None:
    path = tmp_path / "boot"
    make = EvidenceMaker(ATTESTER, device, boot_log=path)
    wanted = challenge(boot_log=True, banks={"sha256": [0]})
    assert make.make(wanted).boot_log == b""
    path.write_bytes(b"events")
    evidence = make.make(wanted)
    assert (evidence.boot_log, evidence.ima) == (b"events", None)
    assert make.make(challenge(boot_log=False)).boot_log == b""
    path.write_bytes(bytes(module._MAX_BOOT_LOG + 1))
    assert make.make(wanted).boot_log == b""


def test_large_logs_are_cut_and_small_ones_are_not(device: TpmDevice) -> None:
    whole = msgspec.structs.replace(
        EvidenceMaker(ATTESTER, device).make(challenge()),
        ima=ImaDelta(ima_first=4, count=9, data=bytes(range(256)) * (2 * PART_BYTES // 256) + b"tail"),
        boot_log=b"boot",
    )
    head, *parts = cut(whole)
    assert isinstance(head, Evidence)
    assert (head.parts, len(parts)) == (4, 4)
    assert head.ima == ImaDelta(ima_first=4, count=9, data=b"")
    assert head.boot_log == b""
    bodies = [part for part in parts if isinstance(part, EvidencePart)]
    assert [(part.index, part.boot, part.seq) for part in bodies] == [
        (0, False, 7),
        (1, False, 7),
        (2, False, 7),
        (3, True, 7),
    ]
    assert b"".join(part.data for part in bodies if not part.boot) == whole.ima.data  # type: ignore[union-attr]
    assert max(len(part.data) for part in bodies) <= PART_BYTES
    small = msgspec.structs.replace(whole, ima=ImaDelta(ima_first=0, count=1, data=bytes(PART_BYTES - 4)))
    assert cut(small) == [small]


def test_the_largest_logs_fit_into_the_parts_that_are_allowed(device: TpmDevice) -> None:
    boot = b"b" * (PART_BYTES + 1)
    whole = msgspec.structs.replace(
        EvidenceMaker(ATTESTER, device).make(challenge()),
        ima=ImaDelta(ima_first=0, count=1, data=bytes(module._MAX_LOGS - len(boot))),
        boot_log=boot,
    )
    assert len(cut(whole)) - 1 == MAX_PARTS


@pytest.mark.parametrize("ascii_form", [False, True])
def test_a_log_that_is_too_long_comes_in_several_evidences(
    device: TpmDevice, emulator: ImaEmulator, ascii_form: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the agent replays itself, and with logs that are too long even for that."""
    for number in range(8):
        emulator.run(f"/usr/bin/tool-{number}", b"content")
    monkeypatch.setattr(module, "_MAX_LOGS", 600)
    make = maker(device, emulator, ascii_form=ascii_form)
    whole = (emulator.ascii_log if ascii_form else emulator.binary_log).read_bytes()
    for replayed in (1 << 20, 200):
        monkeypatch.setattr(agreement, "_REPLAY_LIMIT", replayed)
        found: list[ImaDelta] = []
        while not found or found[-1].more:
            evidence = make.make(challenge(ima_from=sum(part.count for part in found)))
            assert evidence.ima is not None
            assert 0 < len(evidence.ima.data) <= 600
            found.append(evidence.ima)
        assert len(found) > 1
        assert b"".join(part.data for part in found) == whole


@pytest.mark.parametrize(
    "fields",
    [
        {"agent_id": "host-2"},
        {"nonce": b""},
        {"nonce": bytes(65)},
        {"banks": {}},
        {"banks": {f"sha{number}": [0] for number in range(9)}},
        {"banks": {"md5": [0]}},
        {"banks": {"sha256": []}},
        {"banks": {"sha256": [24]}},
        {"banks": {"sha256": [-1]}},
        {"banks": {"sha256": [7, 0]}},
        {"banks": {"sha256": [0, 0]}},
        {"ima_from": -1},
    ],
)
def test_a_challenge_out_of_bounds_is_refused(fields: dict[str, object]) -> None:
    check(challenge(), "host-1")
    with pytest.raises(AttestreamError):
        check(challenge(**fields), "host-1")
