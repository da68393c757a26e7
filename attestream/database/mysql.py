"""Engines for MariaDB and MySQL, by aiomysql over pymysql."""

from __future__ import annotations

import asyncio
import ssl
import struct
from typing import Any, Final

from aiomysql.connection import Connection as DriverConnection
from pymysql.charset import charset_by_name
from pymysql.connections import MAX_PACKET_LEN
from pymysql.constants import CLIENT, CR
from pymysql.err import OperationalError
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from attestream.database.transactions import ROLLBACK_S, TIMEOUT_OPTION
from attestream.errors import ConfigError

CONNECT_TIMEOUT_S: Final = 5
POOL_TIMEOUT_S: Final = 15

_TLS: Final = ("ssl_ca", "ssl_cert", "ssl_key")
_OPTIONS: Final = ("unix_socket", *_TLS)


def engine(url: URL, connections: int, timeout_s: float) -> AsyncEngine:
    """Return an engine with at most ``connections`` connections.

    The URL may have ``unix_socket``, or ``ssl_ca`` (with ``ssl_cert`` and ``ssl_key`` for a certificate of one's own): then
    the server must show a certificate of that CA for the host's name, and a server without TLS is refused.

    :raises ConfigError: when the URL names no database, has another option, or TLS files that can not be used.
    """
    unknown = sorted(set(url.query) - set(_OPTIONS))
    if unknown:
        raise ConfigError(f"the database URL has an unknown option {unknown[0]!r}", remedy=f"Known: {', '.join(_OPTIONS)}.")
    if not url.database or not url.username:
        raise ConfigError("the URL of a MariaDB or MySQL database must name a user and a database")
    if url.password is not None:
        # The driver writes passwords in Latin-1, where servers expect UTF-8: this way the bytes come out right.
        url = url.set(password=url.password.encode().decode("latin-1"))
    made = create_async_engine(
        url.difference_update_query(_TLS).set(drivername="mysql+aiomysql"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        hide_parameters=True,
        # Of the default level only its locks on gaps would be noticed, as deadlocks.
        isolation_level="READ COMMITTED",
        execution_options={TIMEOUT_OPTION: timeout_s},
        connect_args={
            "async_creator_fn": _connect,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "charset": "utf8mb4",
            "ssl": _tls(url),
        },
    )

    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        try:
            _limit(cursor, timeout_s)
        finally:
            cursor.close()

    event.listen(made.sync_engine, "connect", prepare)
    return made


class _Connection(DriverConnection):  # type: ignore[misc]  # aiomysql has no types
    """Begins TLS in its own way where it is asked for, and does not wait for ever.

    The driver goes on in plain text when the server offers none, which a man in the middle can bring about, and its way
    needs a socket that only some event loops give.
    """

    _ssl_context: ssl.SSLContext | None

    async def _request_authentication(self) -> None:
        context, self._ssl_context = self._ssl_context, None
        if context is not None:
            if not self.server_capabilities & CLIENT.SSL:
                raise OperationalError(CR.CR_SSL_CONNECTION_ERROR, "the server offers no TLS")
            # https://mariadb.com/kb/en/connection/#sslrequest-packet
            charset = charset_by_name(self.charset).id
            self.write_packet(struct.pack("<iIB23s", self.client_flag, MAX_PACKET_LEN, charset, b""))
            await self._writer.start_tls(context, server_hostname=self._host)
            self._secure = True
        await super()._request_authentication()

    async def rollback(self) -> None:
        """Roll back, for no longer than :data:`ROLLBACK_S`."""
        try:
            async with asyncio.timeout(ROLLBACK_S):
                await super().rollback()
        except TimeoutError as error:
            raise OperationalError(CR.CR_SERVER_LOST, f"no answer within {ROLLBACK_S:g} s") from error

    def _close_on_cancel(self) -> None:
        # What a server that hangs does not read would keep the socket open.
        if self._writer is not None:
            self._writer.transport.abort()
        super()._close_on_cancel()


async def _connect(*arguments: Any, **settings: Any) -> DriverConnection:
    connection = _Connection(*arguments, **settings)
    await connection._connect()  # noqa: SLF001 - what aiomysql.connect() does; it can not be told of another class
    return connection


def _limit(cursor: Any, timeout_s: float) -> None:
    """Set the session's limits. MySQL can only end statements that read, and no idle transactions."""
    cursor.execute("SELECT VERSION()")
    (version,) = cursor.fetchone()
    whole = max(1, int(timeout_s))
    settings = {
        # Text that does not fit is refused, never cut.
        "sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO'",
        "innodb_lock_wait_timeout": whole,
        "lock_wait_timeout": whole,
    }
    if "mariadb" in version.lower():
        settings |= {"max_statement_time": timeout_s, "idle_transaction_timeout": whole}
    else:
        settings["max_execution_time"] = int(timeout_s * 1000)
    cursor.execute("SET " + ", ".join(f"SESSION {name} = {value}" for name, value in settings.items()))


def _tls(url: URL) -> ssl.SSLContext | None:
    files = {name: value for name in _TLS if isinstance(value := url.query.get(name), str)}
    if not files:
        return None
    if "ssl_ca" not in files or not url.host or ("ssl_key" in files and "ssl_cert" not in files):
        raise ConfigError("TLS to the database needs a host, `ssl_ca`, and for `ssl_key` also `ssl_cert`")
    try:
        context = ssl.create_default_context(cafile=files["ssl_ca"])
        if "ssl_cert" in files:
            context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"))
    except OSError as error:
        raise ConfigError(f"the TLS files of the database URL can not be used: {error.strerror or error}") from error
    return context
