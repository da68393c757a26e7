"""Reading of compressed data with a bound on what comes out."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import shutil
import zlib
from typing import Any, BinaryIO, Final

from attestream.errors import MalformedError, TooLargeError, UnsupportedError
from attestream.reference.program import DecompressingProgram

MAX_INFLATED: Final = 16 << 30
"""Bytes that one archive may inflate to."""

_MAGICS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89LZO", "lzo"),
)
_PROGRAMS: Final = ("zstd", "lz4")
"""What a program of this name decompresses where Python does not."""
_BROKEN: Final = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


def kind_of(start: bytes) -> str:
    """Return by what data that begins with ``start`` is compressed; empty when it is not."""
    return next((kind for magic, kind in _MAGICS if start.startswith(magic)), "")


def inflated(source: BinaryIO, kind: str, limit: int = MAX_INFLATED) -> BinaryIO:
    """Return a stream of what ``source`` holds, compressed by ``kind``; empty for not at all.

    Reading it raises :class:`MalformedError` for what is damaged, :class:`TooLargeError` behind ``limit`` bytes.

    :raises UnsupportedError: when neither this Python nor a program here can decompress it.
    """
    opened: Any
    if kind == "":
        opened = source
    elif kind == "gzip":
        opened = gzip.GzipFile(fileobj=source)
    elif kind == "xz":
        opened = lzma.LZMAFile(source)  # noqa: SIM115  # the caller closes the source
    elif kind == "lzma":
        opened = lzma.LZMAFile(source, format=lzma.FORMAT_ALONE)  # noqa: SIM115  # as above
    elif kind == "bzip2":
        opened = bz2.BZ2File(source)
    elif kind == "zstd" and (module := _zstd()) is not None:
        opened = module.ZstdFile(source)
    elif kind in _PROGRAMS and (program := shutil.which(kind)) is not None:
        opened = DecompressingProgram(program, source)
    else:
        raise _unsupported(kind)
    return io.BufferedReader(_Bounded(opened, limit), 1 << 20)


def _zstd() -> Any:
    """Return the module for zstd; None in a Python that has none."""
    try:
        return importlib.import_module("compression.zstd")  # Python 3.14 and later
    except ModuleNotFoundError:
        return None


def _unsupported(kind: str) -> UnsupportedError:
    return UnsupportedError(
        f"it is compressed by {kind}, which can not be read here", remedy=f"Install the program {kind}, or unpack it first."
    )


class _Bounded(io.RawIOBase):
    """A stream that turns whatever a decompressor raises into errors of ours, and ends at a limit."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        super().__init__()
        self._source = source
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(len(buffer))
        except _BROKEN as error:
            raise MalformedError(f"the compressed data is damaged: {error}") from error
        self._left -= len(data)
        if self._left < 0:
            raise TooLargeError("the archive inflates to more than is allowed")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        # Of the decompressors only a program holds more than memory; the source is the caller's.
        if isinstance(self._source, DecompressingProgram):
            self._source.close()
        super().close()
