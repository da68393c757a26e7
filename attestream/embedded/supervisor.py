"""Keeps child processes running: forwards their logs, restarts what dies, and stops all of them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from attestream.embedded.orphan import die_with_parent
from attestream.errors import ConfigError
from attestream.process import EXIT_CONFIG
from attestream.telemetry import RESTARTS, counter

BACKOFF_S: Final = (0.2, 30.0)
"""First and longest wait before a restart, in seconds; it doubles with each death."""

STEADY_S: Final = 10.0
"""A child that ran this many seconds starts again from the first wait."""

STOP_TIMEOUT_S: Final = 10.0
"""Seconds that a child has to stop after SIGTERM, before SIGKILL."""

_LINE_BYTES: Final = 65_536
_LAST_LINES_S: Final = 1.0

_log = logging.getLogger(__name__)


class Child(NamedTuple):
    """A process to be kept running. ``name`` stands before each line of its log."""

    name: str
    argv: Sequence[str]


class Supervisor:
    """Keeps ``children`` running from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        children: Sequence[Child],
        environment: Mapping[str, str],
        *,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self._children = children
        self._environment = dict(environment)
        self._write = write or _to_stderr
        self._width = max((len(child.name) for child in children), default=0)
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[str, Process] = {}
        self._stopping = asyncio.Event()
        self._restarts = counter(RESTARTS)

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each child that runs, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def start(self) -> None:
        """Start every child."""
        self._tasks = [asyncio.create_task(self._keep(child), name=child.name) for child in self._children]

    async def wait(self) -> None:
        """Wait for ever.

        :raises ConfigError: when a child says that starting it again would not help.
        """
        # Not gather(): who is tired of waiting must not end the supervision.
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Ask every child to stop, and kill those that do not in :data:`STOP_TIMEOUT_S` seconds."""
        self._stopping.set()
        for process in self._processes.values():
            _signal(process, signal.SIGTERM)
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT_S)
        for name, process in self._processes.items():
            _log.warning("%s did not stop in %g s and is killed", name, STOP_TIMEOUT_S)
            _signal(process, signal.SIGKILL)
        if late:
            await asyncio.wait(late)

    async def _keep(self, child: Child) -> None:
        wait_s = BACKOFF_S[0]
        while True:
            began = time.monotonic()
            status = await self._run(child)
            if self._stopping.is_set():
                return
            if status == EXIT_CONFIG:
                raise ConfigError(f"{child.name} can not use its configuration", remedy="Its last log lines say why.")
            if time.monotonic() - began >= STEADY_S:
                wait_s = BACKOFF_S[0]
            _log.warning("%s %s; it starts again in %.1f s", child.name, _how_it_ended(status), wait_s)
            self._restarts.add(1, {"service": child.name})
            try:
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            except TimeoutError:
                wait_s = min(wait_s * 2, BACKOFF_S[1])
            else:
                return

    async def _run(self, child: Child) -> int:
        read_end, write_end = os.pipe()
        try:
            # Not asyncio's own pipe: with it, the end of a process is noticed only when all that hold the pipe have ended.
            process = await asyncio.create_subprocess_exec(
                *child.argv,
                stdin=DEVNULL,
                stdout=write_end,
                stderr=write_end,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor alone, which stops them in order
                preexec_fn=die_with_parent,
            )
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._processes[child.name] = process
        if self._stopping.is_set():
            _signal(process, signal.SIGTERM)
        forwarding = asyncio.create_task(self._forward(child.name, read_end))
        try:
            return await process.wait()
        finally:
            del self._processes[child.name]
            await asyncio.wait([forwarding], timeout=_LAST_LINES_S)
            forwarding.cancel()

    async def _forward(self, name: str, read_end: int) -> None:
        stream = asyncio.StreamReader(_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(read_end, "rb", buffering=0)
        )
        try:
            ended = False
            while not ended:
                try:
                    line = await stream.readuntil()
                except asyncio.IncompleteReadError as error:
                    line, ended = error.partial, True
                except asyncio.LimitOverrunError as error:
                    line = await stream.readexactly(min(error.consumed, _LINE_BYTES))
                if line:
                    self._write(f"{name:<{self._width}} | {line.decode(errors='replace').rstrip()}")
        finally:
            transport.close()


def _signal(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + os.linesep)
    sys.stderr.flush()
