"""Starts the agent: ``python -m services.agent --config FILE``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import uvloop

from attestream.config import load, path_from
from attestream.errors import AttestreamError
from attestream.telemetry import set_up_logging, set_up_telemetry
from services.agent.service import run


def main() -> int:
    """Run the agent until it is stopped; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.agent", description="The agent of one machine.")
    parser.add_argument("--config", type=Path, help="configuration file (TOML)")
    options = parser.parse_args()
    try:
        config = load(options.config or path_from(os.environ), os.environ)
        set_up_logging(config.log, "agent")
        shut_down = set_up_telemetry("agent", os.environ)
        try:
            uvloop.run(run(config.agent, config.bus.settings(f"agent {config.agent.id}".strip()), config.trust))
        finally:
            shut_down()
    except AttestreamError as error:
        print(f"attestream agent: {error} ({error.hint})", file=sys.stderr)  # noqa: T201 - the program's edge
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
