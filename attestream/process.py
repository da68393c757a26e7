"""How every service lives as a process: arguments, configuration, logs, telemetry, signals and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop

from attestream.config import Config, load, path_from
from attestream.errors import AttestreamError, ConfigError
from attestream.telemetry import set_up_logging, set_up_telemetry

EXIT_CONFIG: Final = 2
"""The configuration can not be used: starting again will not help."""
EXIT_FAILED: Final = 1
"""The service could not go on: start it again."""

log = logging.getLogger(__name__)


def main(service: str, run: Callable[[Config, asyncio.Event], Awaitable[None]]) -> int:
    """Run ``service`` until SIGTERM or SIGINT and return the exit code.

    ``run`` gets the configuration and an event that is set when it shall end.
    """
    parser = argparse.ArgumentParser(prog=f"attestream run {service}", description=f"Run the {service} in the foreground.")
    parser.add_argument("--config", type=Path, default=path_from(os.environ), help="configuration file (TOML)")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config, os.environ)
        set_up_logging(config.log, service)
        end_telemetry = set_up_telemetry(service, os.environ)
        try:
            uvloop.run(_until_signalled(config, run))
        finally:
            end_telemetry()
    except AttestreamError as error:
        log.critical("%s %s", error.message, error.hint)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    return 0


async def _until_signalled(config: Config, run: Callable[[Config, asyncio.Event], Awaitable[None]]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await run(config, stopped)
