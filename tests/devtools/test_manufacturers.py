"""What the maker of the store does with a package, and what it leaves out."""

import hashlib

import pytest

from attestream.manufacturers import shipped
from attestream.pki.trust_store import read_certificates
from devtools import manufacturers
from devtools.certificates import Authority

NOW = 1_800_000_000_000
ROOT = Authority("Maker (TM) Root", now=NOW, path_length=0)
BELOW = Authority("Maker EK CA", now=NOW, parent=ROOT)
PACKAGE = shipped.Package("name", "1-1", "00" * 32, "https://example.org", "Somebody", "MIT")


def damaged(der):
    return der[:-4] + bytes(4)


FILES = {
    "STMicro/RootCA/Maker(TM) Root.crt": ROOT.der,
    "STMicro/RootCA/Below.der": BELOW.der,
    "Acme/RootCA/Acme Leaf.cer": Authority("Leaf", now=NOW, authority=False).der,
    "Acme/RootCA/Acme Key.cer": b"junk",
    "Acme/RootCA/Acme Wrong.cer": damaged(ROOT.der),
}


@pytest.fixture
def unpacked(tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "x" / "usr/share/rubygems-integration/all/gems/gem-1/lib/tpm/certificates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "x"


def certificates(*authorities):
    return [read_certificates(one.der)[0] for one in authorities]


def test_store_is_made_and_read_again(tmp_path, unpacked):
    again = Authority(ROOT.name, now=NOW, key=ROOT.key)
    seen = {one.name: [] for one in manufacturers.COLLECTIONS}
    seen |= {"keylime": certificates(ROOT, BELOW), "fobnail": certificates(again)}
    made = manufacturers.write(tmp_path / "into", PACKAGE, unpacked, seen)
    assert shipped.manifest(tmp_path / "into") == made
    below, root = made.certificate
    assert (root.name, root.manufacturer) == ("stmicroelectronics-maker-root", "stmicroelectronics")
    assert (root.sha256, root.key) == (hashlib.sha256(ROOT.der).hexdigest(), "P-256")
    assert (root.seen_in, root.key_in, root.issued) == (["keylime"], ["fobnail"], 1)
    assert (below.seen_in, below.key_in, below.issued) == (["keylime"], [], 0)
    assert made.sources(root) == 1
    assert any("path length of 0" in note for note in root.notes)
    assert any("CN=Maker (TM) Root (which is here too)" in note for note in below.notes)
    assert [one.der for one in shipped.certificates(["stmicroelectronics"], tmp_path / "into")] == [BELOW.der, ROOT.der]
    assert "Somebody" in (tmp_path / "into/NOTICE").read_text()


def test_what_could_not_vouch_is_left_out_with_the_reason(tmp_path, unpacked):
    made = manufacturers.write(tmp_path / "into", PACKAGE, unpacked, {})
    reasons = {one.path.rpartition("/")[2]: one.reason for one in made.left_out}
    assert set(reasons) == {"Acme Leaf.cer", "Acme Key.cer", "Acme Wrong.cer"}
    assert reasons["Acme Leaf.cer"] == "It is no certificate authority by its own extensions."
    assert len(list((tmp_path / "into/certificates").iterdir())) == 2


def test_a_package_without_certificates_changes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        manufacturers.write(tmp_path / "into", PACKAGE, tmp_path, {})
    assert not (tmp_path / "into").exists()
