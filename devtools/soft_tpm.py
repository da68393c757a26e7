"""A TPM in Python for tests, the benchmark and the fleet simulator: keys, PCR banks, quotes and credential activation.

It makes the same structures as a hardware TPM, without commands, sessions or protection of its keys.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attestream.errors import TpmError
from attestream.tpm.algorithms import curve_named, hash_named
from attestream.tpm.credential import open_credential
from attestream.tpm.public import Attribute, Public, build_public, parse_public
from attestream.tpm.structures import MAX_EXTRA_DATA, ClockInfo, Quote, Signature, build_quote, build_signature

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

PCRS: Final = 24
_DYNAMIC_PCRS: Final = range(17, 23)
"""PCRs that a dynamic launch resets; they start as ones (TCG PC Client Platform TPM Profile)."""
_ENDORSEMENT: Final = bytes.fromhex("4000000b")
_POLICY_SECRET: Final = bytes.fromhex("00000151")
_FIRMWARE: Final = 0x2026_0001_0000_0000

_KEY: Final = Attribute.fixedTPM | Attribute.fixedParent | Attribute.sensitiveDataOrigin | Attribute.restricted
_EK_ATTRIBUTES: Final = _KEY | Attribute.adminWithPolicy | Attribute.decrypt
_AK_ATTRIBUTES: Final = _KEY | Attribute.userWithAuth | Attribute.sign


def generate_key(kind: str) -> PrivateKey:
    """Return a new private key of ``kind``: ``rsa2048``, ``rsa3072``, ``rsa4096``, ``p256``, ``p384`` or ``p521``.

    :raises UnsupportedError: when the kind is not known.
    """
    if kind in ("rsa2048", "rsa3072", "rsa4096"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[3:]))
    return ec.generate_private_key(curve_named(kind).primitive)


class KeyPool:
    """Hands out private keys, in turn, at most ``size`` of a kind for a use: thousands of software TPMs can share a few.

    Keys for the uses in ``own`` are not shared. To a registrar, TPMs with one endorsement key are one machine.
    """

    def __init__(self, size: int = 4, *, own: Collection[str] = ()) -> None:
        self._size = size
        self._own = own
        self._keys: dict[tuple[str, str], list[PrivateKey]] = {}
        self._taken: dict[tuple[str, str], int] = {}

    def take(self, kind: str, use: str = "") -> PrivateKey:
        """Return a key of ``kind`` (see :func:`generate_key`). Uses, such as ``ek`` and ``ak``, never share a key."""
        if use in self._own:
            return generate_key(kind)
        keys = self._keys.setdefault((kind, use), [])
        taken = self._taken.get((kind, use), 0)
        self._taken[kind, use] = taken + 1
        if len(keys) < self._size:
            keys.append(generate_key(kind))
        return keys[taken % self._size]


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _wide(kind: str) -> bool:
    return kind in ("rsa3072", "rsa4096", "p384", "p521")


class SoftTpm:
    """A TPM with an endorsement key, an attestation key below it, and PCR banks.

    :param ek: kind of endorsement key; the larger kinds use SHA-384 and AES-256 as the TCG's high-range templates do.
    :param ak: kind of attestation key.
    :param ak_scheme: ``rsassa`` (default for RSA), ``rsapss`` or ``ecdsa``; ``ak_hash`` is the hash of quotes.
    :param ak_policy: the AK's authPolicy, empty or 32 bytes: gives AKs with one shared private key different names.
    :param keys: where private keys come from; by default new ones are made.
    :param now: milliseconds of a monotonic clock.
    """

    def __init__(
        self,
        *,
        ek: str = "rsa2048",
        ak: str = "rsa2048",
        ak_scheme: str | None = None,
        ak_hash: str = "sha256",
        ak_policy: bytes = b"",
        banks: Sequence[str] = ("sha1", "sha256"),
        keys: KeyPool | None = None,
        now: Callable[[], int] = _monotonic_ms,
    ) -> None:
        self._ek_key = keys.take(ek, "ek") if keys else generate_key(ek)
        self._ak_key = keys.take(ak, "ak") if keys else generate_key(ak)
        self._ek = self._make_ek(ek)
        scheme = ak_scheme or ("rsassa" if ak.startswith("rsa") else "ecdsa")
        area = build_public(
            self._ak_key.public_key(),
            attributes=_AK_ATTRIBUTES,
            policy=ak_policy,
            scheme=scheme,
            scheme_hash=ak_hash,
        )
        self._ak = parse_public(area)
        self._signer = self._qualified_signer()
        self._hashes = {bank: hash_named(bank) for bank in banks}
        self._pcrs: dict[str, list[bytes]] = {}
        self._now = now
        self._clock_base = 1_000 + secrets.randbelow(1_000_000)
        self._started = now()
        self._last_clock = 0
        self._resets = 1 + secrets.randbelow(100)
        self._restarts = 0
        self._safe = True
        self._zero_pcrs()

    def _make_ek(self, kind: str) -> Public:
        name_hash, bits = ("sha384", 256) if _wide(kind) else ("sha256", 128)
        algorithm = hash_named(name_hash)
        # PolicySecret of the endorsement hierarchy: "PolicyA" of the TCG EK Credential Profile.
        policy = algorithm.digest(algorithm.digest(bytes(algorithm.size) + _POLICY_SECRET + _ENDORSEMENT))
        area = build_public(
            self._ek_key.public_key(),
            attributes=_EK_ATTRIBUTES,
            name_hash=name_hash,
            policy=policy,
            symmetric_bits=bits,
        )
        return parse_public(area)

    def _qualified_signer(self) -> bytes:
        """Name of the AK bound to its ancestors (Part 1, "Qualified Name"): hierarchy, EK, AK."""
        name_hash = hash_named(self._ek.name_hash)
        parent = self._ek.name[:2] + name_hash.digest(_ENDORSEMENT + self._ek.name)
        return self._ak.name[:2] + hash_named(self._ak.name_hash).digest(parent + self._ak.name)

    def _zero_pcrs(self) -> None:
        for bank, algorithm in self._hashes.items():
            zeros, ones = bytes(algorithm.size), b"\xff" * algorithm.size
            self._pcrs[bank] = [ones if pcr in _DYNAMIC_PCRS else zeros for pcr in range(PCRS)]

    @property
    def ek_public(self) -> bytes:
        """TPM2B_PUBLIC of the endorsement key."""
        return self._ek.tpm2b

    @property
    def ak_public(self) -> bytes:
        """TPM2B_PUBLIC of the attestation key."""
        return self._ak.tpm2b

    @property
    def ak_name(self) -> bytes:
        """Name of the attestation key."""
        return self._ak.name

    @property
    def banks(self) -> tuple[str, ...]:
        """Names of the PCR banks."""
        return tuple(self._hashes)

    def extend(self, pcr: int, values: Mapping[str, bytes]) -> None:
        """Extend ``pcr`` in each bank of ``values`` (TPM2_PCR_Extend).

        :raises TpmError: when a bank does not exist, a value has not the bank's size, or there is no such PCR.
        """
        if not 0 <= pcr < PCRS:
            raise TpmError(f"there is no PCR {pcr}")
        for bank, value in values.items():
            algorithm = self._hashes.get(bank)
            if algorithm is None or len(value) != algorithm.size:
                raise TpmError(f"PCR {pcr} of bank {bank} can not be extended with {len(value)} bytes")
        for bank, value in values.items():
            held = self._pcrs[bank]
            held[pcr] = self._hashes[bank].digest(held[pcr] + value)

    def pcr(self, bank: str, index: int) -> bytes:
        """Return the value of a PCR.

        :raises TpmError: when there is no such bank or PCR.
        """
        if bank not in self._pcrs or not 0 <= index < PCRS:
            raise TpmError(f"there is no PCR {index} of bank {bank}")
        return self._pcrs[bank][index]

    def _clock(self) -> ClockInfo:
        # A TPM's clock may stand still between two quotes; this one always moves, by a millisecond at least.
        self._last_clock = max(self._last_clock + 1, self._clock_base + self._now() - self._started)
        return ClockInfo(self._last_clock, self._resets, self._restarts, self._safe)

    def quote(self, qualifying: bytes, banks: Mapping[str, Sequence[int]]) -> tuple[bytes, bytes]:
        """Return (TPMS_ATTEST, TPMT_SIGNATURE) over PCRs ``banks`` (bank -> indexes) and ``qualifying`` (TPM2_Quote).

        A bank that does not exist is quoted with no PCR, as a TPM does.

        :raises TpmError: when the qualifying data is too long or an index does not exist.
        """
        if len(qualifying) > MAX_EXTRA_DATA:
            raise TpmError(f"qualifying data has at most {MAX_EXTRA_DATA} bytes, not {len(qualifying)}")
        selection = tuple((bank, tuple(sorted(set(pcrs))) if bank in self._hashes else ()) for bank, pcrs in banks.items())
        digest = hash_named(self._ak.scheme_hash).new()
        for bank, pcrs in selection:
            for pcr in pcrs:
                digest.update(self.pcr(bank, pcr))
        attest = build_quote(
            Quote(self._signer, qualifying, self._clock(), _FIRMWARE, selection, digest.digest()),
        )
        return attest, self.sign(attest)

    def sign(self, attest: bytes) -> bytes:
        """Return the AK's TPMT_SIGNATURE over ``attest``. A TPM signs only what it made; tests of verifiers need more."""
        scheme, primitive = self._ak.scheme, hash_named(self._ak.scheme_hash).primitive
        if isinstance(self._ak_key, ec.EllipticCurvePrivateKey):
            value = self._ak_key.sign(attest, ec.ECDSA(primitive))
        elif scheme == "rsapss":
            pss = padding.PSS(padding.MGF1(primitive), padding.PSS.DIGEST_LENGTH)
            value = self._ak_key.sign(attest, pss, primitive)
        else:
            value = self._ak_key.sign(attest, padding.PKCS1v15(), primitive)
        return build_signature(Signature(scheme, self._ak.scheme_hash, value))

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        """Return what a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET for this EK and AK hide (TPM2_ActivateCredential).

        :raises SignatureError: when they were made for other keys.
        :raises MalformedError: when they are not well formed.
        """
        return open_credential(self._ek_key, self._ek, self._ak.name, credential, secret)

    def reboot(self, *, orderly: bool = True) -> None:
        """Do a TPM Reset: PCRs start over, ``resetCount`` rises. Unless ``orderly`` the clock is not safe afterwards."""
        self._zero_pcrs()
        self._resets += 1
        self._restarts = 0
        self._safe = orderly

    def resume(self) -> None:
        """Do a TPM Resume, as after suspend to RAM: PCRs stay, ``restartCount`` rises."""
        self._restarts += 1
