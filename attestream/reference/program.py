"""Decompression by a program, for what Python has no module for."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import threading
from typing import Any, BinaryIO


class DecompressingProgram(io.RawIOBase):
    """What ``program -dc`` makes of ``source``. Reading raises OSError when the program refuses it."""

    def __init__(self, program: str, source: BinaryIO) -> None:
        super().__init__()
        self._process = subprocess.Popen(
            [program, "-dc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("the program can not be spoken to")
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._feeder = threading.Thread(target=self._feed, args=(source,), daemon=True)
        self._feeder.start()

    def _feed(self, source: BinaryIO) -> None:
        # A program that takes no more says why by its exit code.
        with contextlib.suppress(OSError), self._stdin as sink:
            shutil.copyfileobj(source, sink, 1 << 16)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into ``buffer``."""
        data = self._stdout.read(len(buffer))
        if not data and self._process.wait() != 0:
            raise OSError("the program that decompresses it refuses it")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """End the program."""
        if not self.closed:
            self._process.kill()
            self._process.wait()
            self._feeder.join()
            self._stdout.close()
        super().close()
