"""TLS to the bus: who vouches for its servers, and what the client shows of itself."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from attestream.errors import ConfigError

PLAIN: Final = ("nats", "ws")
ENCRYPTED: Final = ("tls", "wss")
WEB: Final = ("ws", "wss")


class Encryption(msgspec.Struct, frozen=True, kw_only=True):
    """Files for TLS. They are read anew at each attempt to connect, so that renewed ones are used."""

    ca_file: Path | None = None
    """PEM file of the CAs that may vouch for a server; none: those of the system."""
    client_cert: Path | None = None
    """PEM file of the certificate, and its chain, that the client shows."""
    client_key: Path | None = None
    """PEM file of that certificate's key; none: it is in ``client_cert``."""

    @property
    def configured(self) -> bool:
        """Whether any file is named, which no connection without TLS could honour."""
        return self != Encryption()

    def context(self) -> ssl.SSLContext:
        """Return a client's context: TLS 1.2 or newer, the server's chain and name are checked.

        :raises ConfigError: a file can not be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca_file is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            try:
                context.load_verify_locations(cafile=self.ca_file)
            except OSError as error:
                raise ConfigError(
                    f"the CA certificates {self.ca_file} can not be read: {error.strerror or error}",
                    remedy="Name a PEM file with `--ca` or `[bus] ca_file`.",
                ) from error
        if self.client_key is not None and self.client_cert is None:
            raise ConfigError("`client_key` is set, but `client_cert` is not")
        if self.client_cert is not None:
            try:
                # An empty password: a key that wants one must fail, not ask at a terminal that nobody watches.
                context.load_cert_chain(self.client_cert, self.client_key, password="")
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"the client certificate {self.client_cert} can not be used with its key: {error}",
                    remedy="Name a certificate in PEM and its key, without a password.",
                ) from error
        return context


def required(urls: list[str], encryption: Encryption, *, credentials: bool) -> bool:
    """Return whether every connection must be encrypted: one URL says so, or files for it are named.

    :raises ConfigError: the URLs contradict each other or the files, are none of the bus, or would carry credentials and
        evidence over a network in the clear.
    """
    schemes = {urlsplit(url).scheme for url in urls}
    if unknown := schemes - {*PLAIN, *ENCRYPTED}:
        raise ConfigError(
            f"{', '.join(sorted(unknown)) or urls[0]!r} is not how a bus is reached",
            remedy="Write nats://, tls://, ws:// or wss:// before the server's name.",
        )
    if schemes & {*WEB} and schemes - {*WEB}:
        raise ConfigError("WebSocket URLs (ws, wss) and others can not be mixed: each reaches another port of the servers")
    encrypted = bool(schemes & {*ENCRYPTED}) or encryption.configured
    if encrypted and "ws" in schemes:
        raise ConfigError("a ws:// URL is not encrypted, although TLS is configured", remedy="Write wss://.")
    if credentials and not encrypted:
        for url in urls:
            if not _loopback(urlsplit(url).hostname or ""):
                raise ConfigError(
                    f"{url} is not encrypted and not on this machine: what is sent with credentials must not be readable",
                    remedy="Write tls:// or wss://, and name the CA with `--ca` or `[bus] ca_file`.",
                )
    return encrypted


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
