"""Reading of compressed data with bounds on what comes out, and on what that takes.

What comes out may be much more than what went in: a few bytes can say "a gigabyte of zeros". Besides the bound of each
archive there is one by what was read of it, so that no small file keeps a machine busy.
"""

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
MAX_RATIO: Final = 200
"""Bytes that each byte of it may inflate to; that of packages is below 20."""
ALWAYS_INFLATED: Final = 64 << 20
"""Bytes that it may inflate to in any case."""
MAX_WINDOW: Final = 128 << 20
"""Bytes of memory that a decompressor may need: twice what `xz -9` asks for, and what `zstd` takes of itself."""

BUFFER: Final = 1 << 17
"""Bytes that are read at a time."""

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
_XZ: Final = b"\xfd7zXZ\0"
"""How a stream of xz begins. What begins so and is damaged, or needs too much memory, is not left alone behind another."""
_LZMA: Final = {"xz": lzma.FORMAT_XZ, "lzma": lzma.FORMAT_ALONE}
_PROGRAMS: Final = ("zstd", "lz4")
"""What a program of this name decompresses where Python does not."""
_BROKEN: Final = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


def kind_of(start: bytes) -> str:
    """Return by what data that begins with ``start`` is compressed; empty when it is not."""
    return next((kind for magic, kind in _MAGICS if start.startswith(magic)), "")


def inflated(source: BinaryIO, kind: str, limit: int = MAX_INFLATED) -> io.BufferedReader:
    """Return a stream of what ``source`` holds, compressed by ``kind``; empty for not at all.

    Reading it raises :class:`MalformedError` for what is damaged or needs more than :data:`MAX_WINDOW` bytes of memory, and
    :class:`TooLargeError` behind ``limit`` bytes or those that :data:`MAX_RATIO` allows.

    :raises UnsupportedError: when neither this Python nor a program here can decompress it.
    """
    opened: Any
    taken = _Counted(source)
    # The decompressors ask for no more than reading.
    file: Any = taken
    if kind == "":
        opened = taken
    elif kind == "gzip":
        opened = gzip.GzipFile(fileobj=file)
    elif kind in _LZMA:
        opened = _Lzma(taken, _LZMA[kind])
    elif kind == "bzip2":
        opened = bz2.BZ2File(file)
    elif kind == "zstd" and (module := _zstd()) is not None:
        opened = module.ZstdFile(file)
    elif kind in _PROGRAMS and (program := shutil.which(kind)) is not None:
        opened = DecompressingProgram(program, file)
    else:
        raise _unsupported(kind)
    return io.BufferedReader(_Bounded(opened, taken, limit), BUFFER)


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


class _Counted(io.RawIOBase):
    """A stream that counts what is read of another."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source = source
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(len(buffer))
        self.count += len(data)
        buffer[: len(data)] = data
        return len(data)


class _Lzma(io.RawIOBase):
    """What ``source`` holds, compressed by xz or lzma. Python's own reader has no bound on the memory that it takes.

    Streams may follow one another; what follows the last one and is none is left alone, as :class:`lzma.LZMAFile` does.
    """

    def __init__(self, source: _Counted, form: int) -> None:
        super().__init__()
        self._source = source
        self._form = form
        self._stream = lzma.LZMADecompressor(form, MAX_WINDOW)
        self._over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not self._over:
            between = self._stream.eof
            more = self._more()
            if between and not more:
                break
            if between:
                self._stream = lzma.LZMADecompressor(self._form, MAX_WINDOW)
            try:
                data = self._stream.decompress(more, len(buffer))
            except lzma.LZMAError:
                if not between or more.startswith(_XZ):
                    raise
                self._over = True
        buffer[: len(data)] = data
        return len(data)

    def _more(self) -> bytes:
        """Return what the decompressor is fed next."""
        if self._stream.eof and self._stream.unused_data:
            return self._stream.unused_data
        if not self._stream.eof and not self._stream.needs_input:
            return b""
        more = self._source.read(io.DEFAULT_BUFFER_SIZE) or b""
        if not more and not self._stream.eof:
            raise EOFError("it ends too early")
        return more


class _Bounded(io.RawIOBase):
    """A stream that turns whatever a decompressor raises into errors of ours, and ends at a limit."""

    def __init__(self, opened: BinaryIO, taken: _Counted, limit: int) -> None:
        super().__init__()
        self._opened = opened
        self._taken = taken
        self._limit = limit
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._opened.read(len(buffer))
        except _BROKEN as error:
            raise MalformedError(f"the compressed data can not be inflated: {error}") from error
        self._count += len(data)
        if self._count > min(self._limit, max(ALWAYS_INFLATED, MAX_RATIO * self._taken.count)):
            raise TooLargeError(
                "the archive inflates to more than is allowed", remedy="If it should, unpack it, and give the directory."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        # Of the decompressors only a program holds more than memory; the source is the caller's.
        if isinstance(self._opened, DecompressingProgram):
            self._opened.close()
        super().close()
