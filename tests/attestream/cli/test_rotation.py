"""What is no role's is replaced too: root key, certificate authority, cluster secret, the key of the bus's own account."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from attestream.errors import ConfigError
from attestream.installation.certificate_authority import prune_authorities, retired
from attestream.installation.people import discard
from attestream.installation.places import Installation
from attestream.installation.root_key import prune_root, rotate_root
from attestream.installation.roster import load_root, load_roster, write_roster
from attestream.installation.staff import set_approvals
from attestream.signing import Signer, TrustedKeys
from attestream.trust.roots import UnknownRootError, open_roster
from devtools.secure_bus import secure_installation
from schemas.base import decode
from schemas.events import Signed


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    return secure_installation(tmp_path / "i")


@pytest.fixture
def run(place: Installation, inside):
    return lambda *arguments: inside("--data-dir", str(place.directory), *arguments)


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def chains(pair: Path, authority: x509.Certificate) -> bool:
    try:
        certificates(pair)[0].verify_directly_issued_by(authority)
    except ValueError:
        return False
    return True


def test_the_root_key_is_replaced_without_a_bus_and_whoever_knows_the_old_one_follows(place, run):
    old = Signer.load(place.root_key)
    pinned = TrustedKeys.from_pems([place.root_public.read_text()])
    before = load_roster(place)
    ran = run("keys", "rotate", "root", "--overlap", "2h")
    assert ran.code == 0, ran.err
    assert "`attestream keys publish` puts it there" in ran.out
    new = load_root(place)
    roster, counting = open_roster(decode(place.roster.read_bytes(), Signed), pinned)
    assert (roster.version, roster.keys) == (before.version + 1, before.keys)
    assert counting.key_ids == {new.key_id} != {old.key_id}
    assert place.root_public.read_text() == new.public_pem
    assert (place.operator("admin") / "root.pem").read_text() == new.public_pem
    assert (place.retired_keys / f"root-{old.key_id}.pem").read_text() == old.public_pem
    assert [path.name for path in place.root_key.parent.glob("root*")] == ["root.pem"]
    shown = [key for key in run("keys", "show", "--json").json["signing"] if key["role"] == "root"]
    assert [(key["key"], key["here"]) for key in shown] == [(old.key_id, False), (new.key_id, True)]
    assert shown[0]["until"] - time.time() == pytest.approx(7200, abs=600)
    # What needs the root key goes on with the new one.
    set_approvals(place, 2, by="admin", now_ms=1)
    assert open_roster(decode(place.roster.read_bytes(), Signed), pinned)[0].version == roster.version + 1


def test_a_persons_directory_goes_with_what_was_learnt_of_the_root_key(place):
    (place.operator("admin") / "roster.vouchers").touch()
    assert discard(place.operator("admin"))


def test_vouchers_leave_the_roster_when_their_time_is_over(place):
    pinned = TrustedKeys.from_pems([place.root_public.read_text()])
    rotate_root(place, overlap_s=60, now_ms=1_000_000)
    assert prune_root(place, now_ms=1_059_999) is None
    pruned = prune_root(place, now_ms=1_060_000)
    assert pruned is not None
    assert pruned.vouchers == load_roster(place).vouchers == []
    with pytest.raises(UnknownRootError):
        open_roster(decode(place.roster.read_bytes(), Signed), pinned)


@pytest.mark.parametrize("at", ["before the roster", "after the roster", "after the public key"])
def test_a_rotation_of_the_root_key_that_was_interrupted_is_finished_by_the_same_command(place, tmp_path, at):
    untouched = tmp_path / "untouched"
    shutil.copytree(place.directory, untouched)
    rotate_root(place, overlap_s=60, now_ms=1_000_000)
    new = Signer.load(place.root_key)
    # Back to what was there when it was interrupted.
    place.root_key.rename(place.root_next)
    undone = {place.root_key: True, place.root_public: at != "after the public key", place.roster: at == "before the roster"}
    for path, undo in undone.items():
        if undo:
            shutil.copy2(untouched / path.relative_to(place.directory), path)
    if at != "before the roster":
        with pytest.raises(ConfigError, match="is not the root key that counts"):
            write_roster(place, load_roster(place), load_root(place))
    roster = rotate_root(place, overlap_s=60, now_ms=1_000_000)
    assert len(roster.vouchers) == 1
    assert load_root(place).key_id == new.key_id
    assert not place.root_next.exists()
    write_roster(place, load_roster(place), load_root(place))


def test_the_authority_is_replaced_in_two_steps_and_both_count_meanwhile(place, run):
    assert run("servers", "make", "bus.example").code == 0
    assert run("certificates", "client", "gateway").code == 0
    pairs = [place.tls / "server.pem", place.servers / "bus-1" / "server.pem", place.tls / "clients" / "gateway.pem"]
    everywhere = [place.ca_file, place.servers / "bus-1" / "ca.pem", place.operator("admin") / "ca.pem"]
    (old,) = certificates(place.ca_file)

    first = run("keys", "rotate", "ca")
    assert first.code == 0, first.err
    assert "once more" in first.out
    _, new = certificates(place.ca_file)
    assert [certificates(path) for path in everywhere] == [[old, new]] * 3
    assert all(chains(pair, old) for pair in pairs)
    assert run("certificates", "renew").code == 0  # the old one still issues
    assert chains(pairs[0], old)

    second = run("keys", "rotate", "ca", "--overlap", "2h")
    assert second.code == 0, second.err
    assert [certificates(path) for path in everywhere] == [[new, old]] * 3
    assert all(chains(pair, new) for pair in pairs)
    assert not list(place.tls.glob("ca-next*"))
    assert run("certificates", "renew").code == 0
    names = [each["name"] for each in run("certificates", "show", "--json").json]
    assert sum("CA" in name for name in names) == 2

    assert prune_authorities(place, datetime.now(UTC)) == []
    assert set(prune_authorities(place, datetime.now(UTC) + timedelta(hours=3))) == set(everywhere)
    assert [certificates(path) for path in everywhere] == [[new]] * 3
    assert retired(place) == []


def test_an_authority_whose_certificates_are_still_here_is_not_pruned(place, run):
    stale = (place.tls / "server.pem").read_bytes()
    for _ in range(2):
        assert run("keys", "rotate", "ca", "--overlap", "2h").code == 0
    (place.tls / "server.pem").write_bytes(stale)
    with pytest.raises(ConfigError, match="is by the authority that is to go"):
        prune_authorities(place, datetime.now(UTC) + timedelta(hours=3))
    assert len(certificates(place.ca_file)) == 2


def test_a_new_cluster_secret_leaves_the_one_before_beside_it_unless_others_know_it(place, run):
    first = place.cluster_secret.read_bytes()
    assert run("keys", "rotate", "cluster-secret").code == 0
    second = place.cluster_secret.read_bytes()
    assert place.cluster_secret_before.read_bytes() == first != second
    assert {path.stat().st_mode & 0o777 for path in (place.cluster_secret, place.cluster_secret_before)} == {0o600}
    assert run("keys", "prune").out == "no key's time is over\n"
    assert run("keys", "rotate", "cluster-secret", "--at-once").code == 0
    assert not place.cluster_secret_before.exists()
    assert place.cluster_secret.read_bytes() not in (first, second)


@pytest.mark.parametrize(
    "arguments",
    [
        ["root", "--at-once"],
        ["ca", "--at-once"],
        ["bus-operator", "--at-once"],
        ["cluster-secret", "--overlap", "1h"],
        ["system", "--only", "bus"],
    ],
)
def test_what_can_not_be_done_to_a_key_is_said_before_anything_is_done(place, run, arguments):
    before = {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file()}
    assert run("keys", "rotate", *arguments).code == 2
    assert {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file()} == before
