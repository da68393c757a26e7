"""The command ``backup``, on a secure installation with its own bus."""

import json

import pytest

from attestream import config
from attestream.bus import keyvalue
from attestream.bus.connection import connect
from attestream.cli import exits
from attestream.cli.main import main
from attestream.database import migrate, open_engine
from attestream.embedded.stack import bus_environment, provision
from attestream.installation.places import Installation, locked
from devtools.secure_bus import secure_installation, secure_server
from schemas import topology
from schemas.roles import Role

PASSPHRASE = "a phrase of some length"


@pytest.fixture
async def place(tmp_path):
    """An installation whose bus runs, with streams and tables."""
    place = secure_installation(tmp_path / "first")
    server = secure_server(place)
    server.start()
    environment = bus_environment(place, server)
    await provision(place, environment)
    loaded = config.load(place.config_file, environment)
    for service in ("registrar", "verifier"):
        engine = open_engine(getattr(loaded, service).database_url)
        await migrate(engine, f"services.{service}.migrations")
        await engine.dispose()
    with locked(place):
        place.url_file.write_text(server.local_url + "\n")
        yield place
    server.kill()


@pytest.fixture
def phrase(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return str(path)


async def run(place, *arguments):
    """Run a command as another process would: with an event loop of its own."""
    import asyncio

    return await asyncio.to_thread(main, ["--data-dir", str(place), *arguments])


async def test_a_cluster_moves_to_another_machine(place, tmp_path, phrase, capsys):
    target = str(tmp_path / "backup")
    created = await run(place.directory, "backup", "create", target, "--keys", "--passphrase-file", phrase, "--json")
    assert created == exits.OK
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["entries"]}
    assert {"installation", "registrar", "verifier", "EVENTS", "KV_attestream"} <= set(entries)
    assert await run(place.directory, "backup", "check", target) == exits.OK

    second = Installation(tmp_path / "second")
    assert await run(second.directory, "backup", "keys", target, "--passphrase-file", phrase) == exits.OK
    assert second.root_key.read_bytes() == place.root_key.read_bytes()
    assert second.root_key.stat().st_mode & 0o777 == 0o600
    signature = tmp_path / "backup" / "manifest.sig"
    signed = signature.read_bytes()
    signature.unlink()
    assert await run(second.directory, "backup", "check", target) == exits.REFUSED
    assert await run(second.directory, "backup", "restore", target) == exits.REFUSED
    assert "nobody has signed the backup" in capsys.readouterr().err
    assert await run(second.directory, "backup", "check", target, "--unsigned") == exits.OK
    signature.write_bytes(signed)
    # Its own bus does not run: the command starts it for as long as it needs.
    assert await run(second.directory, "backup", "restore", target) == exits.OK
    assert "restored" in capsys.readouterr().out
    server = secure_server(second)
    server.start()
    try:
        environment = bus_environment(second, server)
        await provision(second, environment)
        bus = await connect(config.load(second.config_file, environment).bus.settings(str(Role.VERIFIER)))
        assert await keyvalue.entries(bus, topology.CLUSTER.name, topology.KEY_ROSTER)
        await bus.close()
    finally:
        server.kill()


async def test_a_wrong_passphrase_puts_nothing_back(place, tmp_path, phrase, capsys):
    target = str(tmp_path / "backup")
    assert await run(place.directory, "backup", "create", target, "--keys", "--passphrase-file", phrase) == exits.OK
    wrong = tmp_path / "wrong"
    wrong.write_text("another phrase altogether\n")
    second = tmp_path / "second"
    assert await run(second, "backup", "keys", target, "--passphrase-file", str(wrong)) == exits.REFUSED
    assert "passphrase is wrong" in capsys.readouterr().err
    assert not second.exists()


async def test_a_backup_without_keys_says_so(place, tmp_path, phrase, capsys):
    target = str(tmp_path / "backup")
    assert await run(place.directory, "backup", "create", target) == exits.OK
    assert await run(tmp_path / "second", "backup", "keys", target, "--passphrase-file", phrase) == exits.USAGE
    assert "holds no keys" in capsys.readouterr().err


async def test_a_full_data_directory_is_left_alone(place, tmp_path, phrase, capsys):
    target = str(tmp_path / "backup")
    assert await run(place.directory, "backup", "create", target, "--keys", "--passphrase-file", phrase) == exits.OK
    assert await run(place.directory, "backup", "keys", target, "--passphrase-file", phrase) == exits.USAGE
    assert "nothing is overwritten" in capsys.readouterr().err
