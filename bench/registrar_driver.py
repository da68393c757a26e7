"""A registrar that issues identities, as a process of its own: ``python -m bench.registrar_driver DIRECTORY URL LIFETIME``.

Without signatures above the bus: what they cost is measured elsewhere.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from attestream.installation.places import Installation
from devtools.bus_identities import connect_with, registrar_config
from schemas.roles import Role
from services.registrar.service import serving


async def _serve(directory: Path, url: str, lifetime_s: int) -> None:
    place = Installation(directory)
    bus = await connect_with(url, place.credentials(Role.REGISTRAR))
    async with serving(bus, registrar_config(place, directory / "registrar.db", lifetime_s=lifetime_s)):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
