"""Templates of the IMA log: what the fields of an entry are, in both forms of the log.

Source: Linux ``security/integrity/ima/ima_template.c`` and ``ima_template_lib.c``. :data:`TEMPLATES` is the one table; a
template that is not in it is unknown, and an unknown entry is never skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, NamedTuple

from attestream.errors import MalformedError

MAX_PATH_BYTES: Final = 4096
"""``PATH_MAX`` of Linux."""

DIGEST_SIZES: Final[Mapping[bytes, int]] = {
    b"md4": 16,
    b"md5": 16,
    b"sha1": 20,
    b"rmd160": 20,
    b"sha256": 32,
    b"sha384": 48,
    b"sha512": 64,
    b"sha224": 28,
    b"rmd128": 16,
    b"rmd256": 32,
    b"rmd320": 40,
    b"wp256": 32,
    b"wp384": 48,
    b"wp512": 64,
    b"tgr128": 16,
    b"tgr160": 20,
    b"tgr192": 24,
    b"sm3": 32,
    b"sm3-256": 32,
    b"streebog256": 32,
    b"streebog512": 64,
    b"sha3-256": 32,
    b"sha3-384": 48,
    b"sha3-512": 64,
}
"""Name of a file digest's algorithm -> bytes (Linux ``crypto/hash_info.c``; ``sm3-256`` is the older name of ``sm3``)."""


_length_at: Final = Struct("<I").unpack_from


class Measurement(NamedTuple):
    """What an entry says about a file."""

    path: bytes
    """As the kernel recorded it; spaces are underscores."""
    digest: bytes
    """Field ``d-ng``: algorithm, ``:``, NUL, digest."""
    signature: bytes = b""
    """The file's ``security.ima`` value, where the template records it."""


class Template(NamedTuple):
    """How entries of one template are read."""

    read: Callable[[bytes], Measurement]
    """Template data -> measurement; raises MalformedError."""
    from_ascii: Callable[[bytes], bytes]
    """The fields as in ``ascii_runtime_measurements`` -> template data; raises MalformedError."""


def split_fields(data: bytes, count: int) -> list[bytes]:
    """Return the ``count`` fields of template data, each behind its length as u32 little-endian.

    :raises MalformedError: when a length is wrong or bytes are left over.
    """
    fields: list[bytes] = []
    offset = 0
    size = len(data)
    for number in range(count):
        start = offset + 4
        if start > size:
            raise MalformedError(f"the template data ends before field {number}")
        offset = start + _length_at(data, offset)[0]
        if offset > size:
            raise MalformedError(f"field {number} of the template data runs over its end")
        fields.append(data[start:offset])
    if offset != size:
        raise MalformedError(f"{size - offset} bytes follow the last field of the template data")
    return fields


def digest_field(algorithm: str, digest: bytes) -> bytes:
    """Return field ``d-ng`` for ``digest``.

    :raises MalformedError: when the kernel has no such algorithm or the digest's size is not that algorithm's.
    """
    name = algorithm.encode("utf-8", "surrogateescape")
    if DIGEST_SIZES.get(name) != len(digest):
        raise MalformedError(f"{algorithm[:32]!r} with {len(digest)} bytes is not a digest that the kernel makes")
    return name + b":\x00" + digest


def digest_text(field: bytes) -> str:
    """Return field ``d-ng`` as ``algorithm:hex``."""
    algorithm, _, digest = field.partition(b":\x00")
    return f"{algorithm.decode('ascii')}:{digest.hex()}"


def _check_measurement(digest: bytes, name: bytes, signature: bytes = b"") -> Measurement:
    algorithm, separator, value = digest.partition(b":\x00")
    if not separator or DIGEST_SIZES.get(algorithm) != len(value):
        raise MalformedError("the file digest is not one that the kernel makes")
    path = name[:-1]
    if name[-1:] != b"\x00" or not path or b"\x00" in path:
        raise MalformedError("the file name is empty or not terminated as it should be")
    if len(path) > MAX_PATH_BYTES:
        raise MalformedError(f"the file name has {len(path)} bytes; Linux allows {MAX_PATH_BYTES}")
    return Measurement(path, digest, signature)


def _read_ng(data: bytes) -> Measurement:
    digest, name = split_fields(data, 2)
    return _check_measurement(digest, name)


def _read_sig(data: bytes) -> Measurement:
    digest, name, signature = split_fields(data, 3)
    return _check_measurement(digest, name, signature)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def from_hex(text: bytes) -> bytes:
    """Return the bytes that a field of the ASCII form spells.

    :raises MalformedError: when it is not hexadecimal.
    """
    try:
        value = bytes.fromhex(text.decode("ascii"))
    except ValueError as error:
        raise MalformedError("a field that should be hexadecimal is not") from error
    # fromhex lets white space through.
    if 2 * len(value) != len(text):
        raise MalformedError("a field that should be hexadecimal is not")
    return value


def _ng_from_ascii(fields: bytes) -> bytes:
    digest, separator, path = fields.partition(b" ")
    algorithm, colon, value = digest.partition(b":")
    if not separator or not colon:
        raise MalformedError("the line lacks fields")
    return _sized(algorithm + b":\x00" + from_hex(value)) + _sized(path + b"\x00")


def _sig_from_ascii(fields: bytes) -> bytes:
    # The kernel ends an entry without signature in a space; the last space is therefore always the field's.
    rest, separator, signature = fields.rpartition(b" ")
    if not separator:
        raise MalformedError("the line lacks fields")
    return _ng_from_ascii(rest) + _sized(from_hex(signature))


TEMPLATES: Final[Mapping[bytes, Template]] = {
    b"ima-ng": Template(_read_ng, _ng_from_ascii),
    b"ima-sig": Template(_read_sig, _sig_from_ascii),
}
"""Template name -> how to read it."""
