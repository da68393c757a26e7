"""From a database URL to an engine. Connections are made when first needed, and made anew when the server was away."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine

from attestream.database import mysql, postgresql, sqlite
from attestream.errors import ConfigError

CONNECTIONS: Final = 5
"""Most connections of one engine, unless told otherwise."""

TIMEOUT_S: Final = 30.0
"""Seconds after which a statement is given up, unless told otherwise."""

MAX_PASSWORD_BYTES: Final = 4096

_REMEDY: Final = "Use sqlite:///PATH, postgresql://USER@HOST/NAME or mariadb://USER@HOST/NAME (also written mysql://)."


def open_engine(
    url: str,
    *,
    password_file: Path | None = None,
    connections: int = CONNECTIONS,
    timeout_s: float = TIMEOUT_S,
) -> AsyncEngine:
    """Return an engine for ``sqlite:///PATH``, ``postgresql://...``, ``mariadb://...`` or ``mysql://...``.

    :param password_file: holds the password, so that the URL need not.
    :param connections: most connections that this engine opens.
    :param timeout_s: seconds after which the server gives up a statement, or a transaction in which nothing happens.
    :raises ConfigError: when the URL is not one of these, or the password can not be read. No message tells a password.
    """
    parsed = _parse(url)
    name = parsed.get_backend_name()
    if password_file is not None:
        parsed = _with_password(parsed, password_file)
    if name == "sqlite":
        return sqlite.engine(parsed, connections, timeout_s)
    if name in ("postgresql", "postgres"):
        return postgresql.engine(parsed, connections, timeout_s)
    if name in ("mariadb", "mysql"):
        return mysql.engine(parsed, connections, timeout_s)
    raise ConfigError(f"no support for {name!r} databases", remedy=_REMEDY)


def file_of(url: str) -> Path | None:
    """Return the file of a SQLite database; ``None`` when ``url`` names another kind.

    :raises ConfigError: ``url`` is none.
    """
    parsed = _parse(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # Neither the URL nor its cause is shown: either may hold the password.
        raise ConfigError("the database URL can not be parsed", remedy=_REMEDY) from None


def _with_password(url: URL, path: Path) -> URL:
    if url.get_backend_name() == "sqlite":
        raise ConfigError("a password file is set, but a SQLite database has no password")
    if url.password is not None:
        raise ConfigError("the database's password is in its URL and in a file", remedy="Take it out of the URL.")
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the database's password file {path} can not be read: {error.strerror}") from error
    if mode & stat.S_IRWXO:
        raise ConfigError(
            f"the database's password file {path} may be read by everybody (mode {stat.S_IMODE(mode):04o})",
            remedy=f"Run `chmod o= {path}`.",
        )
    try:
        password = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError(f"the database's password file {path} is not UTF-8") from None
    if not password or len(data) > MAX_PASSWORD_BYTES or "\n" in password:
        raise ConfigError(f"the database's password file {path} does not hold one line with a password")
    return url.set(password=password)
