"""The bus's accounts as they are now, to be changed: those of the running servers, or of an embedded bus that is down.

Servers alone have the list of revoked identities, and they keep the token with the later time. A change that began with an
older token would give revoked identities their lives back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from attestream.credentials.token import Token
from attestream.errors import BusError, ConfigError
from attestream.installation.bus_keys import load_token
from attestream.installation.files import PUBLIC, read_text, replace
from attestream.installation.live import Live, live
from attestream.installation.places import Installation
from attestream.installation.rotation import checked_account
from schemas.roles import Role


class Accounts:
    """The accounts of one installation."""

    def __init__(self, place: Installation, link: Live | None) -> None:
        self.place: Final = place
        self.link: Final = link
        """The running servers; ``None`` when the bus is down."""

    @property
    def files(self) -> list[Path]:
        """Where the installation has the token of each account, the bus's own first."""
        return [self.place.system_token, *sorted({self.place.account_token(role) for role in Role})]

    async def current(self, path: Path) -> Token:
        """Return the present token of the account that the installation has in ``path``.

        :raises ConfigError: it can not be read, or is not this installation's.
        :raises BusError: the bus does not answer.
        """
        public = load_token(path).subject
        if self.link is not None:
            stored: str | None = await self.link.account(public)
        else:
            kept = self.place.bus / "accounts" / f"{public}.jwt"
            stored = read_text(kept, "an account of the embedded bus") if kept.exists() else None
        return checked_account(self.place, path, stored)

    async def put(self, path: Path, token: str) -> None:
        """Give the servers the next token of an account, and keep it in ``path``.

        :raises BusError: the servers refuse it.
        :raises OSError: it can not be written.
        """
        if self.link is not None:
            await self.link.update(token)
        replace(path, f"{token}\n".encode(), PUBLIC)


@asynccontextmanager
async def accounts(place: Installation, urls: Sequence[str]) -> AsyncIterator[Accounts]:
    """Give access to the accounts for the block. Only an embedded bus may be down.

    :raises ConfigError: servers of their own are configured and none can be reached.
    """
    async with AsyncExitStack() as stack:
        link: Live | None = None
        try:
            link = await stack.enter_async_context(live(place, urls))
        except BusError as error:
            if place.url_file.exists() or place.servers.exists():
                raise ConfigError(
                    f"the accounts can be changed only while the bus runs: {error.message}",
                    remedy="Start it, or name it with --url: its servers know which identities are revoked.",
                ) from error
        yield Accounts(place, link)
