"""MariaDB over the network: passwords, and TLS that can not be talked down."""

import asyncio
import ipaddress
import tempfile
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import text
from sqlalchemy.engine import URL

from attestream.clock import unix_ms
from attestream.database import open_engine, reading
from attestream.embedded.ports import free_port
from attestream.errors import StorageError
from devtools.certificates import Authority
from devtools.mariadb import MariaDb

PASSWORD = "p:a/s@s wörd"


class Networked:
    """A server on the network, and URLs of it."""

    def __init__(self, directory, *, tls):
        ca = Authority("Database CA", now=unix_ms())
        host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        own = Authority("db", now=unix_ms(), parent=ca, authority=False, days=(-1, 10), extra=((host, False),))
        self.ca, self.certificate, self.key = (directory / name for name in ("ca.pem", "db.pem", "db.key"))
        self.ca.write_bytes(ca.certificate.public_bytes(Encoding.PEM))
        self.certificate.write_bytes(own.certificate.public_bytes(Encoding.PEM))
        self.key.write_bytes(own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._port = free_port()
        settings = {"ssl_cert": self.certificate, "ssl_key": self.key} if tls else {}
        self.server = MariaDb(bind_address="127.0.0.1", port=self._port, **settings)
        self.server.start()
        self.server.execute(f"CREATE USER net IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO net")

    def url(self, host="127.0.0.1", password=PASSWORD, **options):
        url = URL.create("mariadb", "net", password, host, self._port, "information_schema", query=options)
        return url.render_as_string(hide_password=False)


@pytest.fixture(scope="module", params=["tls", "plain"])
def networked(request):
    # Not in a directory of pytest: the server's own account must be able to read its key.
    with tempfile.TemporaryDirectory(prefix="attestream-") as directory:
        Path(directory).chmod(0o755)
        made = Networked(Path(directory), tls=request.param == "tls")
        yield made
        made.server.remove()


only_tls = pytest.mark.parametrize("networked", ["tls"], indirect=True)
only_plain = pytest.mark.parametrize("networked", ["plain"], indirect=True)


async def cipher(url):
    engine = open_engine(url)
    try:
        async with reading(engine) as connection:
            return (await connection.execute(text("SHOW STATUS LIKE 'Ssl_cipher'"))).one()[1]
    finally:
        await engine.dispose()


async def test_a_password_of_any_characters(networked):
    await cipher(networked.url())


async def test_a_wrong_password_is_refused_and_not_told(networked, caplog):
    with pytest.raises(StorageError, match="refuses"):
        await cipher(networked.url(password="hunter2"))
    assert "Access denied" in caplog.text
    assert "hunter2" not in caplog.text


@only_tls
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_tls_in_every_event_loop(networked, run):
    assert run(cipher(networked.url(ssl_ca=str(networked.ca))))


@only_tls
async def test_a_server_whose_ca_is_not_ours_is_refused(networked, tmp_path):
    other = tmp_path / "other.pem"
    other.write_bytes(Authority("Other CA", now=unix_ms()).certificate.public_bytes(Encoding.PEM))
    with pytest.raises(StorageError):
        await cipher(networked.url(ssl_ca=str(other)))


@only_tls
async def test_a_certificate_for_another_host_is_refused(networked):
    with pytest.raises(StorageError):
        await cipher(networked.url(host="localhost", ssl_ca=str(networked.ca)))


@only_plain
async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(networked, caplog):
    with pytest.raises(StorageError):
        await cipher(networked.url(ssl_ca=str(networked.ca)))
    assert "the server offers no TLS" in caplog.text
