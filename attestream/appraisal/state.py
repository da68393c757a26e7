"""What the verifier keeps of an attester from one appraisal to the next."""

from __future__ import annotations

from typing import Final

import msgspec

from attestream.appraisal.devices import Device
from attestream.errors import MalformedError

MAX_STATE_BYTES: Final = 262_144
"""Room for the keys and devices of a log that has as many as are remembered; without them a state has some 200 bytes."""


class LearnedKey(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key that the kernel put on a keyring which the policy allows it on."""

    keyring: bytes
    keyid: int
    der: bytes
    """SubjectPublicKeyInfo."""


class AttesterState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Proven facts of an attester. It grows neither with the log nor with time: keys and devices are bounded."""

    policy: str = ""
    """Digest of the policy that it was appraised against; empty before the first authentic quote."""
    reset_count: int = 0
    restart_count: int = 0
    clock: int = 0
    """The TPM's clock in milliseconds."""
    firmware: int = 0
    ima_entries: int = 0
    """Entries of the IMA log that a quote has proven: the next delta starts here. Of a log that is too long for one evidence
    they may be judged and replayed only: no quote agrees behind them unless they were right, and nothing passes before."""
    ima_pcr: bytes = b""
    """PCR 10 of the policy's bank after those entries; empty for zeros."""
    tail: int = 0
    """Entries that the log showed behind the proven ones; the next quote must prove them."""
    pcr_digest: bytes = b""
    """PCR digest of the policy's own selection in the last good quote; empty when there is none."""
    ima_padded: bool = False
    """Whether the kernel pads SHA-1 digests to the size of the bank, as kernels before 5.8 do."""
    ima_keys: tuple[LearnedKey, ...] = ()
    """Keys that the proven entries put on allowed keyrings."""
    devices: tuple[Device, ...] = ()
    """Devices of the device mapper after the proven entries."""
    boot: bytes = b""
    """Digest of the PCR values that a good boot log explained; empty when the log is still to be sent."""

    @property
    def known_digest(self) -> bytes:
        """What a challenge may name as known: with entries still to be proven the values are needed again."""
        return b"" if self.tail else self.pcr_digest

    def encode(self) -> bytes:
        """Return the state as bytes for :func:`decode_state`."""
        return _ENCODER.encode(self)


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(AttesterState)


def fresh() -> AttesterState:
    """Return the state of an attester of which nothing is known."""
    return AttesterState()


def decode_state(data: bytes) -> AttesterState:
    """Return the state that :meth:`AttesterState.encode` made ``data`` from.

    :raises MalformedError: when it is not a state.
    """
    if len(data) > MAX_STATE_BYTES:
        raise MalformedError(f"an attester's state of {len(data)} bytes is over the limit of {MAX_STATE_BYTES}")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"this is not an attester's state: {error}") from error
