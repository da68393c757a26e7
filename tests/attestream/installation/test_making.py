"""A data directory: private, complete, never overwritten, held by one process."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from attestream import config
from attestream.errors import ConfigError
from attestream.installation.bus_server import Server
from attestream.installation.cluster_secret import SECRET_BYTES
from attestream.installation.making import initialise
from attestream.installation.places import Installation, locked
from attestream.signing import Signer, TrustedKeys


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_complete_and_its_secrets_are_private_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        initialise(tmp_path / "d", accept_ek="certificate", port=4333)
    finally:
        os.umask(previous)
    place = Installation(tmp_path / "d")
    loaded = config.load(place.config_file, {})
    assert mode(place.directory) == 0o700
    assert mode(place.cluster_secret) == mode(place.signing_key) == mode(place.config_file) == 0o600
    assert len(place.cluster_secret.read_bytes()) == SECRET_BYTES
    assert loaded.bus.urls == ["nats://127.0.0.1:4333"]
    assert loaded.registrar.accept_ek == "certificate"
    assert loaded.registrar.ek_store == place.ek_store
    assert loaded.verifier.cluster_secret_file == place.cluster_secret
    signer = Signer.load(loaded.notifier.signing_key_file)
    root = Signer.load(place.root_key)
    assert TrustedKeys.from_directory(place.trusted_keys).key_ids == {signer.key_id, root.key_id}


def test_two_installations_share_no_secret(tmp_path: Path) -> None:
    for name in "ab":
        initialise(tmp_path / name, accept_ek="any", port=1)
    assert (tmp_path / "a/keys/cluster.secret").read_bytes() != (tmp_path / "b/keys/cluster.secret").read_bytes()


@pytest.mark.parametrize("name", ["attestream.toml", "keys/cluster.secret", "keys/revocation.pem", "trusted/revocation.pem"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    existing = tmp_path / name
    existing.parent.mkdir(exist_ok=True)
    existing.write_text("precious")
    with pytest.raises(ConfigError) as caught:
        initialise(tmp_path, accept_ek="any", port=1)
    assert str(existing) in caught.value.message
    assert existing.read_text() == "precious"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [existing]


def test_a_place_that_can_not_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can not initialise"):
        initialise(tmp_path / "file" / "d", accept_ek="any", port=1)


def test_one_process_holds_it_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    place = Installation(tmp_path)
    code = (
        "import sys, pathlib; from attestream.installation.places import Installation, locked\n"
        "with locked(Installation(pathlib.Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError) as caught, locked(place):
            pass
        assert f"process {holder.pid}" in caught.value.message
    finally:
        holder.kill()
        holder.communicate()
    with locked(place):
        pass


def test_the_disk_of_a_bus_on_this_machine_is_watched_and_no_other(tmp_path: Path) -> None:
    initialise(tmp_path / "one", accept_ek="any", port=1)
    place = Installation((tmp_path / "one").absolute())
    assert config.load(place.config_file, {}).limits.store_dir == place.bus
    assert place.bus.is_dir()
    servers = [Server(f"bus-{number}", "bus.example", 4222, 6222, 443, "0.0.0.0") for number in (1, 2, 3)]
    initialise(tmp_path / "three", accept_ek="any", port=1, servers=servers)
    assert config.load(Installation(tmp_path / "three").config_file, {}).limits.store_dir is None
