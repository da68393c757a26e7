"""The recorder: evidence as an agent publishes it on a real bus, whole and in parts."""

import asyncio

import pytest

from attestream.bus.connection import BusSettings, connect
from attestream.errors import TooLargeError
from devtools.vm.recorder import MAX_VECTOR, Recorder, write_vector
from schemas import subjects
from schemas.attestation import Evidence, EvidencePart, ImaDelta


def evidence(seq, *, first=0, ima=b"ima", boot_log=b"boot", parts=0):
    return Evidence(
        agent_id="vm",
        enrolment=1,
        nonce=b"n",
        seq=seq,
        issued_at=1,
        quote=b"q",
        signature=b"s",
        transport_key=b"t",
        ima=ImaDelta(ima_first=first, count=1, data=ima),
        boot_log=boot_log,
        parts=parts,
    )


async def test_whole_logs_are_kept_and_parts_are_put_together(nats_server):
    recorder = Recorder("vm")
    bus = await connect(BusSettings(urls=[nats_server.url]))
    try:
        await recorder.listen(bus)
        await bus.nc.flush()

        async def heard(*messages):
            for message in messages:
                await bus.publish(subjects.evidence("vm"), message)
            await bus.nc.flush()
            await asyncio.sleep(0)

        await heard(evidence(1))
        async with asyncio.timeout(5):
            while recorder.newest is None:
                await asyncio.sleep(0.01)
        assert recorder.newest.seq == 1
        part = {"agent_id": "vm", "seq": 2}
        await heard(
            evidence(2, ima=b"", boot_log=b"", parts=2),
            EvidencePart(**part, index=0, boot=False, data=b"ima"),
            EvidencePart(**part, index=1, boot=True, data=b"boot"),
            evidence(3, first=9),
        )
        async with asyncio.timeout(5):
            while recorder.newest.seq == 1:
                await asyncio.sleep(0.01)
        assert (recorder.newest.seq, recorder.newest.ima.data, recorder.newest.boot_log) == (2, b"ima", b"boot")
    finally:
        await bus.close()


def test_a_log_that_is_too_large_is_no_vector(tmp_path):
    with pytest.raises(TooLargeError):
        write_vector(evidence(1, ima=bytes(MAX_VECTOR + 1)), b"ak", "", tmp_path)
    assert len(write_vector(evidence(1), b"ak", "", tmp_path)) == 3
