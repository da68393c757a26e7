"""Who this process is on the bus: its credentials, read anew at each attempt to connect, and what they say of it."""

from __future__ import annotations

import base64
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from attestream.credentials import document, token
from attestream.credentials.document import Credentials
from attestream.errors import AttestreamError, ConfigError
from schemas import roles
from schemas.roles import Role

Source = Callable[[], Credentials]
"""Gives the credentials to connect with now. May raise any :class:`AttestreamError`."""


class Holder(NamedTuple):
    """What credentials say of their holder."""

    role: Role
    name: str
    """One subject token, the same as the server's ``{{name()}}``."""
    expires_at: int
    """Unix seconds; 0: never."""

    @property
    def inbox(self) -> str:
        """Prefix of the only inboxes that the server lets it listen to."""
        return roles.inbox(self.role, self.name)


class Login:
    """Answers the server's question who is there, with what ``source`` gives at that moment."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.time) -> None:
        """Take the credentials that there are now.

        :raises ExpiredError: they hold no more, or not yet.
        :raises ConfigError: they can not be used.
        """
        self._source = source
        self._clock = clock
        self._current = self._take()
        self.holder: Final = holder(self._current)

    def sign(self, nonce: str) -> bytes:
        """Return the signature over the server's nonce, in base64. Takes the credentials that there are now.

        :raises ExpiredError: they hold no more, or not yet.
        :raises ConfigError: they can not be used, or are of somebody else than those that this process started with.
        """
        self._current = self._take()
        now = holder(self._current)
        if (now.role, now.name) != (self.holder.role, self.holder.name):
            raise ConfigError(
                f"the credentials are now those of {now.role} {now.name}, no more of {self.holder.role} {self.holder.name}",
                remedy="Start the process anew.",
            )
        return base64.b64encode(self._current.key.sign(nonce.encode()))

    def token(self) -> bytes:
        """Return the token that belongs to the last signature."""
        return self._current.token.encode()

    def _take(self) -> Credentials:
        current = self._source()
        token.check_time(token.read(current.token), int(self._clock()))
        return current


def holder(credentials: Credentials) -> Holder:
    """Return what ``credentials`` say of their holder.

    :raises ConfigError: they name no role, or a name that can not be one.
    """
    read = token.read(credentials.token)
    try:
        role = Role(token.role_of(read))
    except ValueError as error:
        raise ConfigError(
            f"the credentials of {read.name[:80]!r} name no role that this version knows",
            remedy="Use credentials that `attestream init` or `attestream operators add` has made.",
        ) from error
    if not token.NAME.match(read.name):
        raise ConfigError(f"the credentials name {read.name[:80]!r}, which can not be a name on the bus")
    return Holder(role, read.name, read.expires_at)


def from_file(path: Path) -> Source:
    """Return a source that reads ``path`` each time."""

    def source() -> Credentials:
        return read_file(path)

    return source


def read_file(path: Path) -> Credentials:
    """Return the credentials in ``path``.

    :raises ConfigError: it can not be read, others may read it, or it does not hold credentials.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            data = file.read(document.MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the credentials {path} can not be read: {error.strerror or error}",
            remedy="Name the file that `attestream init` or `attestream operators add` has made.",
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"the credentials {path} may be read by others (mode {stat.S_IMODE(mode):04o})",
            remedy=f"Run `chmod 600 {path}`; if others could have read it, have new credentials issued.",
        )
    try:
        return document.parse(data.decode("ascii", "replace"))
    except AttestreamError as error:
        raise ConfigError(f"the credentials {path} can not be used: {error.message}", remedy=error.hint) from error
