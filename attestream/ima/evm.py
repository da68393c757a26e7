"""Portable EVM signatures: of a file's content, owner, mode and security attributes together (template ``evm-sig``).

The signed digest is that of the values of all protected attributes, in the order of the log, and then of the inode's owner,
group and mode (Linux ``security/integrity/evm/evm_crypto.c``, ``evm_calc_hmac_or_hash`` and ``hmac_add_misc``). A portable
signature leaves inode number, generation and file system out, so that the log carries all that it covers
(``ima/ima_template_lib.c``, ``evm/evm_main.c``, ``evm_read_protected_xattrs``).

Of the inode ``struct h_misc`` is hashed, whose first member is an ``unsigned long``. With inode number and generation left
out, it is 12 zeros on a 64-bit kernel and 8 on a 32-bit one (``evmctl --m32``), and then owner, group, mode and padding in
the same 12 bytes. Both are accepted as long as what is signed can be read in one way only: four zeros at the end of the
attributes would make the one the other.

Version 2 signs that digest, version 3 the hash of ``struct ima_file_id`` with it, as signatures of ``security.ima`` do
(``digsig_asymmetric.c``, ``asymmetric_verify_v3``).

Of the content it covers only what ``security.ima`` says, so it proves a file only when that has the measured digest. Names
and lengths of attributes are not signed; they are the kernel's word in the log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from struct import Struct, iter_unpack
from typing import Final, NamedTuple

from attestream.errors import MalformedError
from attestream.ima.digests import ALGORITHM_NAMES, HASHLIB_NAMES, digest_field
from attestream.ima.keys import KeyRing
from attestream.ima.memo import Generations
from attestream.ima.signatures import PORTABLE, SignatureVerdict, parse_signature, verify_signature

FIELDS: Final = ("evmsig", "xattrnames", "xattrlengths", "xattrvalues", "iuid", "igid", "imode")
"""Fields of a template without which a portable signature can not be checked."""
MAX_ATTRIBUTES: Final = 64
IMA_ATTRIBUTE: Final = "security.ima"
_VERSIONS: Final = (2, 3)
_INODE: Final = Struct("<IIHxx")
"""How ``struct h_misc`` ends on little-endian machines: owner, group, mode, padding."""
LEFT_OUT_64: Final = 12
LEFT_OUT_32: Final = 8
"""Bytes of inode number and generation before it, which are zeros, on kernels of 64 and of 32 bits."""
_SHA1_DIGEST: Final = 1
_DIGEST_NG: Final = 4
"""``IMA_XATTR_DIGEST`` and ``IMA_XATTR_DIGEST_NG``: types of ``security.ima`` values that are digests."""


class Protected(NamedTuple):
    """What the log says of a file that a portable signature covers."""

    signature: bytes
    """The ``security.evm`` value."""
    attributes: Mapping[str, bytes]
    """Name -> value of the protected attributes, in the order in which they are signed."""
    owner: int
    group: int
    mode: int

    def digests(self, hash_name: str) -> Iterator[bytes]:
        """Yield the digests that a portable signature may sign, as field ``d-ng``: for 64-bit kernels, then for 32-bit ones.

        :param hash_name: the kernel's.
        """
        values = b"".join(self.attributes.values())
        for left_out in (LEFT_OUT_64, LEFT_OUT_32):
            # Signed for 64 bits, the attributes without these zeros come to the same.
            if left_out == LEFT_OUT_64 or not values.endswith(bytes(LEFT_OUT_64 - LEFT_OUT_32)):
                data = values + bytes(left_out) + _INODE.pack(self.owner, self.group, self.mode)
                yield digest_field(hash_name, hashlib.new(HASHLIB_NAMES[hash_name], data, usedforsecurity=False).digest())


class Trust(NamedTuple):
    """Whose signatures count."""

    keys: tuple[KeyRing, ...]
    """Of portable signatures."""
    file_keys: tuple[KeyRing, ...]
    """Of a signature in ``security.ima``, when that is not a mere digest."""
    hashes: Collection[str]
    """Algorithms of digests that count."""


def read_protected(fields: Mapping[str, bytes]) -> Protected:
    """Return what ``fields``, those of :data:`FIELDS` by name, say.

    :raises MalformedError: when one is missing or empty, or they do not fit together.
    """
    for name in FIELDS:
        if not fields.get(name):
            raise MalformedError(f"the log carries no {name} for it")
    names = fields["xattrnames"]
    if names[-1:] != b"\x00" or b"\x00" in names[:-1] or len(fields["xattrlengths"]) % 4:
        raise MalformedError("the names or lengths of its attributes are not well formed")
    listed = names[:-1].decode("utf-8", "surrogateescape").split("|")
    lengths = [length for (length,) in iter_unpack("<I", fields["xattrlengths"])]
    values = fields["xattrvalues"]
    if len(listed) != len(lengths) or len(set(listed)) != len(listed) or sum(lengths) != len(values):
        raise MalformedError("the names, lengths and values of its attributes do not fit together")
    if len(listed) > MAX_ATTRIBUTES:
        raise MalformedError(f"it has {len(listed)} attributes; {MAX_ATTRIBUTES} are allowed")
    attributes: dict[str, bytes] = {}
    at = 0
    for name, length in zip(listed, lengths, strict=True):
        attributes[name] = values[at : at + length]
        at += length
    if [len(fields[name]) for name in ("iuid", "igid", "imode")] != [4, 4, 2]:
        raise MalformedError("its owner, group or mode has another size than the kernel's")
    owner, group, mode = (int.from_bytes(fields[name], "little") for name in ("iuid", "igid", "imode"))
    return Protected(fields["evmsig"], attributes, owner, group, mode)


def why_unproven(fields: Mapping[str, bytes], digest: bytes, trust: Trust, memo: Generations[bool] | None = None) -> str:
    """Return why no portable signature proves the file, as the rest of a sentence; empty when one does.

    :param fields: those of the entry's template besides digest and file name, by name.
    :param digest: of the file, as field ``d-ng``.
    :param memo: verdicts on signatures that were worked out before; only saves time.
    """
    try:
        protected = read_protected(fields)
        signature = parse_signature(protected.signature)
    except MalformedError as error:
        return f"its portable EVM signature can not be checked: {error.message}"
    if signature.type != PORTABLE or signature.version not in _VERSIONS:
        return f"its EVM signature is of type {signature.type} and version {signature.version}, not a portable one"
    if signature.hash_name not in trust.hashes or signature.hash_name not in HASHLIB_NAMES:
        return f"its portable EVM signature is over {signature.hash_name}, which does not count"
    verdicts: set[SignatureVerdict] = set()
    for signed in protected.digests(signature.hash_name):
        verdicts = {verify_signature(signature, signed, keys, memo) for keys in trust.keys}
        if SignatureVerdict.VALID in verdicts:
            break
    if SignatureVerdict.VALID not in verdicts:
        if SignatureVerdict.INVALID in verdicts:
            return "its portable EVM signature is not valid for its attributes, owner, group and mode"
        return f"no key has the id {signature.keyid.hex()} of its portable EVM signature"
    return _why_other_content(protected.attributes.get(IMA_ATTRIBUTE, b""), digest, trust, memo)


def _why_other_content(attribute: bytes, digest: bytes, trust: Trust, memo: Generations[bool] | None) -> str:
    """Return why the ``security.ima`` value ``attribute`` does not say that the file has ``digest``."""
    if not attribute:
        return f"its portable EVM signature does not cover {IMA_ATTRIBUTE}, and so not its content"
    if attribute[0] in (_SHA1_DIGEST, _DIGEST_NG):
        signed = _digest_in(attribute)
        if signed is None or signed.partition(b":")[0].decode("ascii") not in trust.hashes:
            return f"the digest in its {IMA_ATTRIBUTE} is of a kind that does not count"
        return "" if signed == digest else f"its {IMA_ATTRIBUTE}, which is signed, has another digest than the file"
    try:
        signature = parse_signature(attribute)
    except MalformedError as error:
        return f"its {IMA_ATTRIBUTE} can not be read: {error.message}"
    if signature.hash_name not in trust.hashes or signature.type == PORTABLE:
        return f"the signature in its {IMA_ATTRIBUTE} is of a kind that does not count"
    if any(verify_signature(signature, digest, keys, memo) is SignatureVerdict.VALID for keys in trust.file_keys):
        return ""
    return f"the signature in its {IMA_ATTRIBUTE} is not valid for the file's content"


def _digest_in(attribute: bytes) -> bytes | None:
    """Return the digest in a ``security.ima`` value that is one, as field ``d-ng``; None when it is malformed."""
    if attribute[0] == _SHA1_DIGEST:
        name, value = "sha1", attribute[1:]
    elif len(attribute) < 2 or attribute[1] >= len(ALGORITHM_NAMES):
        return None
    else:
        name, value = ALGORITHM_NAMES[attribute[1]], attribute[2:]
    try:
        return digest_field(name, value)
    except MalformedError:
        return None
