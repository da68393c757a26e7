"""A shell in the machine for whoever operates it, on a virtual serial port: it needs no network, and no new program runs."""

from __future__ import annotations

import base64
import binascii
import contextlib
import secrets
import socket
import time
from pathlib import Path
from typing import Final

from attestream.errors import AttestreamError, MalformedError, TimedOutError

_CONNECT_S: Final = 15.0
_MAX_OUTPUT: Final = 16 << 20


class OperatorShell:
    """The host's end of the port, which QEMU offers on the Unix socket ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._read = b""

    def close(self) -> None:
        """Let go of the port."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def say(self, command: str) -> None:
        """Give the shell ``command`` and do not wait for anything."""
        with contextlib.suppress(OSError):
            self._port(time.monotonic() + _CONNECT_S).sendall(f"{command}\n".encode())

    def run(self, command: str, *, timeout_s: float = 60.0) -> str:
        """Run ``command`` in the machine and return what it has written.

        :raises TimedOutError: when it did not end in time, or nobody listens in the machine yet.
        :raises MalformedError: when it failed, or wrote too much.
        """
        deadline = time.monotonic() + timeout_s
        mark = secrets.token_hex(8)
        text = f"( {command} ) </dev/null 2>&1; status=$?; echo; echo {mark}-$status\n"
        try:
            self._port(deadline).sendall(text.encode())
            output, status = self._until(f"\n{mark}-".encode(), deadline)
        except OSError as error:
            raise TimedOutError(f"the machine's operator shell does not answer: {error}") from error
        if status != "0":
            raise MalformedError(f"{command.split(maxsplit=1)[0]} failed in the machine, status {status}: {output[-400:]}")
        return output

    def read_file(self, path: str) -> bytes:
        """Return the content of a file in the machine.

        :raises AttestreamError: as :meth:`run`, and when it does not arrive whole.
        """
        try:
            return base64.b64decode(self.run(f"busybox base64 {path}"), validate=False)
        except binascii.Error as error:
            raise MalformedError(f"{path} did not arrive whole") from error

    def write_file(self, path: str, content: bytes) -> None:
        """Write a file in the machine.

        :raises AttestreamError: as :meth:`run`.
        """
        self.run(f"echo {base64.b64encode(content).decode()} | busybox base64 -d >{path}")

    def answers(self) -> bool:
        """Whether the machine's init has come as far as to open the shell."""
        try:
            return self.run("echo here", timeout_s=1.0).strip().endswith("here")
        except AttestreamError:
            return False

    def _port(self, deadline: float) -> socket.socket:
        while self._socket is None:
            port = socket.socket(socket.AF_UNIX)
            try:
                port.connect(str(self._path))
            except OSError:
                port.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                self._socket = port
        self._socket.settimeout(max(0.1, deadline - time.monotonic()))
        return self._socket

    def _until(self, mark: bytes, deadline: float) -> tuple[str, str]:
        """Return what comes before the line that begins with ``mark``, and the rest of that line."""
        while True:
            output, found, rest = self._read.partition(mark)
            status, ended, after = rest.partition(b"\n")
            if found and ended:
                self._read = after
                return output.decode("utf-8", "replace"), status.decode("ascii", "replace")
            if len(self._read) > _MAX_OUTPUT:
                raise MalformedError(f"a command in the machine has written more than {_MAX_OUTPUT} bytes")
            port = self._port(deadline)
            chunk = port.recv(65536)
            if not chunk:
                raise ConnectionError("the port was closed")
            self._read += chunk
