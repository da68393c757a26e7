"""`attestream policy create` on real files."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestream.appraisal.policy import compile_policy
from attestream.uefi.policy.create import create_reference_state
from devtools import ima_log
from devtools.grub_boot import grub_boot
from devtools.package_maker import INITRD, INITRD_FILES, deb, packages_index, primary, repomd, rpm, tar_link
from devtools.soft_tpm import SoftTpm

KEY_DER = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def made(ran) -> dict:
    assert ran.code == 0, ran.err
    document = ran.json
    compile_policy(ran.out.encode())
    return document


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, data in {"usr/bin/ls": b"list", "usr/bin/a b": b"spaces", "home/u/x": b"home", "proc/1": b"virtual"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "bin").symlink_to("usr/bin")
    (root / "usr/bin/link").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_bytes(b"odd")
    return root


def test_a_tree_is_hashed_without_following_links(inside, tree):
    runtime = made(inside("policy", "create", "runtime", "--tree", str(tree), "--skip", "/home", "--json"))["runtime"]
    assert runtime["digests"] == {
        "/usr/bin/ls": [digest(b"list")],
        "/usr/bin/a_b": [digest(b"spaces")],
        "/\udcff": [digest(b"odd")],
    }


def test_a_tree_can_be_a_part_of_the_machine(inside, tree):
    arguments = ("--tree", str(tree / "usr"), "--mounted-at", "/usr", "--algorithm", "sha512", "--workers", "2", "--json")
    runtime = made(inside("policy", "create", "runtime", *arguments))["runtime"]
    assert runtime["digests"]["/usr/bin/ls"] == [digest(b"list", "sha512")]


def test_what_can_not_be_read_is_told(inside, tree):
    if os.geteuid() == 0:
        pytest.skip("everything can be read")
    (tree / "usr/bin/ls").chmod(0)
    ran = inside("policy", "create", "runtime", "--tree", str(tree))
    assert "usr/bin/ls can not be read" in ran.err


def test_all_sources_go_into_one_policy_on_top_of_another(inside, tmp_path):
    (tmp_path / "initrd").write_bytes(gzip.compress(INITRD))
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs" / "a.deb").write_bytes(deb({"./bin/deb": b"deb"}, tar_link("./usr/bin/hard", "./bin/deb")))
    (tmp_path / "a.rpm").write_bytes(rpm())
    records = [
        ima_log.record("boot_aggregate", bytes(32)),
        ima_log.record("/usr/bin/run", hashlib.sha256(b"run").digest()),
        ima_log.violation("/var/log/x"),
    ]
    (tmp_path / "binary").write_bytes(b"".join(record.binary for record in records))
    (tmp_path / "ascii").write_text("".join(f"{record.ascii}\n" for record in records[1:]))
    (tmp_path / "list").write_text(f"# all\n{'12' * 32}  /opt/a b\nsha512:{'34' * 64} *//opt/c\n{'56' * 32} %keyring:.ima\n")
    (tmp_path / "excludes").write_text("# none\n/var/tmp/.*\n")
    base = {
        "format": "attestream-policy/1",
        "bank": "sha384",
        "description": "base",
        "runtime": {"digests": {"/base": [digest(b"")]}},
    }
    (tmp_path / "base").write_text(json.dumps(base))
    options = {
        "initrd": "initrd",
        "deb": "debs",
        "rpm": "a.rpm",
        "ima-log": "binary",
        "list": "list",
        "exclude-list": "excludes",
    }
    arguments = [word for name, file in options.items() for word in (f"--{name}", str(tmp_path / file))]
    arguments += ["--ima-log", str(tmp_path / "ascii"), "--base", str(tmp_path / "base"), "--exclude", "/tmp/.*", "--json"]
    ran = inside("policy", "create", "runtime", *arguments, "--merged-usr", "--no-boot-aggregate")
    document = made(ran)
    assert (document["bank"], document["description"]) == ("sha384", "base")
    runtime = document["runtime"]
    assert runtime["digests"] == {
        "/base": [digest(b"")],
        **{path: [digest(content)] for path, content in INITRD_FILES.items()},
        "/opt/a_b": ["sha256:" + "12" * 32],
        "//opt/c": ["sha512:" + "34" * 64],
        "/usr/bin/deb": [digest(b"deb")],
        "/usr/bin/hard": [digest(b"deb")],
        "/usr/bin/run": [digest(b"run")],
        "/usr/bin/tool": ["sha256:" + "ab" * 32],
    }
    assert runtime["excludes"] == ["/tmp/.*", "/var/tmp/.*"]
    assert runtime["keyrings"] == {".ima": ["sha256:" + "56" * 32]}
    assert "/var/log/x was measured while it was written to" in ran.err


def test_keys_and_buffers_of_a_log_go_where_they_belong(inside, tmp_path):
    records = [
        ima_log.record("boot_aggregate", bytes(32)),
        *(
            ima_log.record(name, hashlib.sha256(data).digest(), template="ima-buf", more={"buf": data})
            for name, data in ((".ima", KEY_DER), ("kexec-cmdline", b"quiet"))
        ),
    ]
    (tmp_path / "log").write_bytes(b"".join(record.binary for record in records))
    runtime = made(inside("policy", "create", "runtime", "--ima-log", str(tmp_path / "log"), "--json"))["runtime"]
    assert list(runtime["digests"]) == ["boot_aggregate"]
    assert runtime["keyrings"] == {".ima": [digest(KEY_DER)]}
    assert runtime["buffers"] == {"kexec-cmdline": [digest(b"quiet")]}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give at least one source"),
        (("--list", "weak"), 1, "weak: line 1: md5 is too weak"),
        (("--list", "odd"), 1, "odd: line 2: is not a digest and a path"),
        (("--ima-log", "odd"), 1, "odd: "),
        (("--initrd", "odd"), 1, "odd: this is not an initial RAM disk"),
        (("--deb", "a.md5sums"), 1, "a.md5sums has only MD5 digests"),
        (("--deb", "odd"), 1, "odd: this is not a Debian package"),
        (("--rpm", "odd"), 1, "odd: this is not an RPM package"),
        (("--rpm", "empty"), 1, "has no packages"),
        (("--list", "good", "--exclude", "("), 1, "runtime.excludes[0]: is not an RE2 expression"),
        (("--tree", "empty", "--base", "odd"), 1, "the document: is not JSON"),
    ],
)
def test_each_mistake_is_one_clear_line(inside, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    Path("weak").write_text(f"md5:{'1' * 32} /a\n")
    Path("odd").write_text(f"{'1' * 64} /a\nodd\n")
    Path("good").write_text(f"{'1' * 64} /a\n")
    Path("a.md5sums").write_text(f"{'1' * 32} a\n")
    Path("empty").mkdir()
    ran = inside("policy", "create", "runtime", *arguments)
    assert ran.code == code
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not ran.out


def test_a_report_goes_beside_a_file(inside, tmp_path):
    (tmp_path / "list").write_text(f"{'1' * 64} /a\n")
    target = tmp_path / "policy.json"
    ran = inside("policy", "create", "runtime", "--list", str(tmp_path / "list"), "-o", str(target), "--json")
    assert ran.json == {"file": str(target), "remarks": []}
    assert compile_policy(target.read_bytes()).entries == 1
    ran = inside("policy", "create", "runtime", "--list", str(tmp_path / "list"), "-o", str(target))
    assert "1 reference values for 1 paths" in ran.out


def repository(root: Path, kind: str) -> Path:
    """Make a repository whose index lists one of two packages."""
    (root / "pool").mkdir(parents=True)
    package = deb({"./usr/bin/a": b"a"}) if kind == "deb" else rpm()
    (root / "pool" / f"a.{kind}").write_bytes(package)
    (root / "pool" / f"stray.{kind}").write_bytes(b"not listed, and no package")
    sha256 = hashlib.sha256(package).hexdigest()
    if kind == "deb":
        (root / "dists").mkdir()
        (root / "dists" / "Packages.gz").write_bytes(gzip.compress(packages_index({"pool/a.deb": sha256})))
        return root
    listed = gzip.compress(primary({"pool/a.rpm": sha256}))
    (root / "repodata").mkdir()
    (root / "repodata" / "primary.xml.gz").write_bytes(listed)
    (root / "repodata" / "repomd.xml").write_bytes(repomd("repodata/primary.xml.gz", hashlib.sha256(listed).hexdigest()))
    return root


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_a_repository_is_what_its_index_lists(inside, tmp_path, kind):
    root = repository(tmp_path / "repository", kind)
    runtime = made(inside("policy", "create", "runtime", f"--{kind}", str(root), "--json"))["runtime"]
    assert "/usr/bin/a" in runtime["digests"] or "/bin/tool" in runtime["digests"]
    package = root / "pool" / f"a.{kind}"
    package.write_bytes(package.read_bytes() + b" ")
    ran = inside("policy", "create", "runtime", f"--{kind}", str(root))
    assert ran.code == 1
    assert f"a.{kind}: the package is not the one that the repository lists" in ran.err


@pytest.mark.parametrize("name", ["../outside.deb", "/etc/passwd"])
def test_an_index_that_points_out_of_its_repository_is_refused(inside, tmp_path, name):
    root = tmp_path / "repository"
    root.mkdir()
    (tmp_path / "outside.deb").write_bytes(deb({"a": b"x"}))
    (root / "Packages").write_text(f"Filename: {name}\nSHA256: {'0' * 64}\n")
    ran = inside("policy", "create", "runtime", "--deb", str(root))
    assert ran.code == 1
    assert "which is not in it" in ran.err


def test_boot_policies_allow_the_boot_of_today_and_the_next(inside, tmp_path):
    today, tomorrow = (tmp_path / name for name in ("today", "tomorrow"))
    today.write_bytes(bytes(grub_boot()))
    tomorrow.write_bytes(bytes(grub_boot(kernel=b"the next kernel")))
    first = tmp_path / "first.json"
    assert inside("policy", "create", "boot", str(today), "-o", str(first)).code == 0
    document = made(inside("policy", "create", "boot", str(tomorrow), "--base", str(first), "--json"))
    states = [create_reference_state(path.read_bytes()) for path in (today, tomorrow)]
    assert document["boot"] == {"policy": "example", "reference_states": states}
    assert inside("policy", "create", "boot", str(today), "--bare", "--json").json == states[0]
    today.write_bytes(b"odd")
    ran = inside("policy", "create", "boot", str(today))
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)


def test_pcr_values_come_from_lists_and_json(inside, tmp_path):
    values = {pcr: hashlib.sha256(bytes([pcr])).hexdigest() for pcr in range(24)}
    (tmp_path / "yaml").write_text(
        "sha1:\n  0 : 0x"
        + "1" * 40
        + "\nsha256:\n"
        + "".join(f"  {pcr:<2}: 0x{value.upper()}\n" for pcr, value in values.items())
    )
    (tmp_path / "json").write_text(json.dumps({"sha256": {"0": "0" * 64, "7": values[7]}}))
    files = (str(tmp_path / "yaml"), str(tmp_path / "json"))
    document = made(inside("policy", "create", "pcr", *files, "--pcrs", "7,0", "--json"))
    assert document["pcrs"] == {"0": [values[0], "0" * 64], "7": [values[7]]}
    assert set(made(inside("policy", "create", "pcr", files[0], "--json"))["pcrs"]) == set(map(str, range(8)))


def test_pcr_values_of_a_quote_must_be_those_that_it_is_over(inside, tmp_path):
    from attestream.interop.pcr_blob import build_pcr_blob
    from attestream.interop.quotes import QuoteParts, build_quote_text
    from attestream.tpm.structures import parse_quote

    tpm = SoftTpm()
    tpm.extend(3, {"sha1": bytes(20), "sha256": bytes(32)})
    attest, signature = tpm.quote(b"nonce", {"sha256": [0, 3]})
    values = {"sha256": {pcr: tpm.pcr("sha256", pcr) for pcr in (0, 3)}}
    selection = parse_quote(attest).selection
    for name, shown in (("good", values), ("bad", {"sha256": {0: bytes(32), 3: bytes(32)}})):
        text = build_quote_text(QuoteParts(attest, signature, build_pcr_blob(selection, shown)))
        (tmp_path / name).write_text(text)
    document = made(inside("policy", "create", "pcr", str(tmp_path / "good"), "--pcrs", "3", "--json"))
    assert document["pcrs"] == {"3": [values["sha256"][3].hex()]}
    ran = inside("policy", "create", "pcr", str(tmp_path / "bad"), "--pcrs", "3")
    assert "not those that the quote is over" in ran.err


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        ("sha256:\n 0 : 0x" + "1" * 64, ("--pcrs", "0,10"), 1, "PCR 10 changes with each measured file"),
        ("sha256:\n 0 : 0x" + "1" * 64, ("--pcrs", "1"), 1, "no value of PCR 1"),
        ("sha256:\n 0 : 0x" + "1" * 64, ("--pcrs", "24"), 2, "is not a list of PCRs"),
        ("sha256:\n 0 : 0x" + "1" * 40, ("--pcrs", "0"), 1, "20 bytes are no value"),
        ("sha256:\n 0 = 0x" + "1" * 64, ("--pcrs", "0"), 1, "line 2 is neither"),
        ("{}", ("--pcrs", "0"), 1, "there are no PCR values"),
        ("{", ("--pcrs", "0"), 1, "not JSON"),
        ("\x80", ("--pcrs", "0"), 1, ""),
    ],
)
def test_mistakes_about_pcrs(inside, tmp_path, content, arguments, code, message):
    (tmp_path / "file").write_text(content)
    ran = inside("policy", "create", "pcr", str(tmp_path / "file"), *arguments)
    assert ran.code == code, ran.err
    assert message in ran.err
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)
