"""``python -m devtools.manufacturers DEB COLLECTIONS``: makes the store of TPM manufacturers' CA certificates.

DEB is the file of the Debian package ``ruby-tpm-key-attestation``; its certificates become the store. COLLECTIONS is a
directory with a folder for each of the public collections below: the files there are only compared with, never copied.
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from attestream.errors import AttestreamError
from attestream.manufacturers.shipped import (
    CERTIFICATES,
    FOLDER,
    MANIFEST,
    LeftOut,
    Manifest,
    Package,
    PublicCollection,
    Row,
)
from attestream.pki import extensions as ext
from attestream.pki.certificate import Certificate
from attestream.pki.signatures import SHA1, certified_key, scheme_of, verify_issued
from attestream.pki.trust_store import TrustStore, read_certificates

HOMEPAGE: Final = "https://github.com/cedarcode/tpm-key_attestation"
_MICROSOFT: Final = "Microsoft's list of trusted TPM root certificates"

COLLECTIONS: Final = (
    PublicCollection(
        "keylime",
        "https://github.com/keylime/keylime",
        "9b1f6e6a917f86c792bac680ea7d36312d5914a5",
        "gathered by that project (tpm_cert_store)",
    ),
    PublicCollection(
        "tpm-ca-certificates",
        "https://github.com/loicsikidi/tpm-ca-certificates",
        "366e970a144e48057e56a833e2aa846c8d25676b",
        "the manufacturers' own servers",
    ),
    PublicCollection(
        "guard-oss",
        "https://github.com/immune-gmbh/guard-oss",
        "14a7c87f4f7d1eaa54105908b637cb98a03800da",
        _MICROSOFT,
    ),
    PublicCollection(
        "fobnail", "https://github.com/fobnail/fobnail", "7038cb34f7f1b9f9d2407eb1b2c8a0009f6dd460", _MICROSOFT
    ),
    PublicCollection(
        "tpm_roots",
        "https://github.com/carl-wallace/tpm_roots",
        "04900ccc6ac60d033b528e552618139837a4143c",
        _MICROSOFT,
    ),
)
"""Where its files are named as in Microsoft's list, a collection counts as of that source, whatever it says itself."""

_BELOW: Final = Path("usr/share/rubygems-integration/all/gems")
_ARMOUR: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_MANUFACTURERS: Final = {"STMicro": "stmicroelectronics"}
"""Folders of the package that are not named as the manufacturer."""

NOTES: Final = {
    "amd-ftpm-ecc-rootca": "Of the firmware TPM in processors.",
    "amd-ftpm-rsa-rootca": "Of the firmware TPM in processors.",
    "intel-ekrootpublickey": "Of the firmware TPM in processors (PTT) before those of the OnDie CA, whose root is not here.",
    "microsoft-tpm-root-certificate-authority-2014": "Nearly all of its authorities are for attestation keys of Windows; "
    "certificates of those are not of EKs, which `ek_profile` `strict` refuses and `permissive` warns of.",
    "infineon-ifx-rootca": "VeriSign's root for TPMs, which vouches for Infineon's.",
    "stmicroelectronics-globalsign-trusted-computing-ca": "GlobalSign's root for TPMs, which vouches for "
    "STMicroelectronics'.",
    "stmicroelectronics-globalsign-trusted-platform-module-ecc-root-ca": "GlobalSign's root for TPMs, which vouches for "
    "STMicroelectronics'.",
}
"""What a person has to say about certificates, by name."""

_NOTICE: Final = """\
The certificates in the folder `{folder}` were issued and published by the manufacturers of TPMs. They were taken from the
package {name} {version} of Debian, and turned from DER into PEM without a change of what they hold.

{homepage}
Copyright: {copyright}
Licence: {licence}, whose text is in the file LICENSE of Attestream.

{manifest} says which file each is from, and what is known about it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the store and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m devtools.manufacturers", description=__doc__)
    parser.add_argument("deb", type=Path, help="file of the Debian package")
    parser.add_argument(
        "collections", type=Path, help="directory with the folders " + ", ".join(one.name for one in COLLECTIONS)
    )
    parser.add_argument("--into", type=Path, default=FOLDER, help="where the store is made; default: in the library")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as unpacked:
        subprocess.run(["dpkg-deb", "-x", str(chosen.deb), unpacked], check=True)
        seen = {one.name: list(_found(chosen.collections / one.name)) for one in COLLECTIONS}
        made = write(chosen.into, _package(chosen.deb, Path(unpacked)), Path(unpacked), seen)
    print(f"{len(made.certificate)} certificates, {len(made.left_out)} left out")
    return 0


def write(into: Path, package: Package, unpacked: Path, seen: dict[str, list[Certificate]]) -> Manifest:
    """Make the store in the directory ``into`` from an unpacked package, and return what it has.

    :param seen: the certificates of each collection.
    """
    rows: list[tuple[Row, Certificate]] = []
    left_out: list[LeftOut] = []
    read = {path: path.read_bytes() for path in sorted(unpacked.joinpath(_BELOW).glob("*/lib/tpm/certificates/*/*/*"))}
    if not read:
        raise FileNotFoundError(f"{unpacked} has no certificates")
    store = TrustStore(one for data in read.values() for one in _readable(data))
    for path, data in read.items():
        place = str(path.relative_to(unpacked))
        if reason := _unusable(data):
            left_out.append(LeftOut(place, hashlib.sha256(data).hexdigest(), reason))
        else:
            (one,) = read_certificates(data)
            rows.append((_row(place, one, seen, store), one))
    made = Manifest(package, list(COLLECTIONS), [row for row, _ in rows], left_out)
    shutil.rmtree(into / CERTIFICATES, ignore_errors=True)
    (into / CERTIFICATES).mkdir(parents=True)
    for row, one in rows:
        (into / CERTIFICATES / f"{row.name}.pem").write_text(_pem(one.der), encoding="ascii")
    (into / MANIFEST).write_text("\n".join(_toml(made)), encoding="utf-8")
    facts = msgspec.to_builtins(package)
    (into / "NOTICE").write_text(_NOTICE.format(folder=CERTIFICATES, manifest=MANIFEST, **facts), encoding="utf-8")
    return made


def _package(deb: Path, unpacked: Path) -> Package:
    fields = subprocess.run(
        ["dpkg-deb", "-f", str(deb), "Package", "Version"], check=True, capture_output=True, text=True
    ).stdout
    name, version = (line.partition(": ")[2] for line in fields.splitlines())
    said = (unpacked / "usr/share/doc" / name / "copyright").read_text(encoding="utf-8")
    found = re.search(r"^Files: \*\nCopyright: (.+)\nLicense: (.+)$", said, re.MULTILINE)
    if found is None:
        raise ValueError("the package does not say its licence")
    return Package(name, version, hashlib.sha256(deb.read_bytes()).hexdigest(), HOMEPAGE, found[1], found[2])


def _found(folder: Path) -> Iterator[Certificate]:
    """Yield the certificates anywhere below a collection's folder; what can not be read is passed over."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            for each in _ARMOUR.findall(data) or [data]:
                yield from _readable(each)


def _readable(data: bytes) -> list[Certificate]:
    try:
        return read_certificates(data)
    except AttestreamError:
        return []


def _unusable(data: bytes) -> str:
    """Return why no path of certificates could end at what is in a file; empty when one can."""
    try:
        found = read_certificates(data)
        if len(found) != 1:
            return f"It holds {len(found)} certificates."
        certified_key(found[0])
        if found[0].self_issued():
            verify_issued(found[0], found[0])
    except AttestreamError as error:
        return f"{error.message[:1].upper()}{error.message[1:]}."
    said = found[0].extensions
    if not said.authority or (said.key_usage is not None and not said.key_usage & ext.KEY_CERT_SIGN):
        return "It is no certificate authority by its own extensions."
    return ""


def _row(place: str, one: Certificate, seen: dict[str, list[Certificate]], store: TrustStore) -> Row:
    folder, file = Path(place).parts[-3], Path(place).stem
    manufacturer = _MANUFACTURERS.get(folder, folder.lower())
    stem = re.sub(r"[^a-z0-9]+", "-", file.lower().replace("(tm)", "")).strip("-")
    name = stem if stem.startswith(manufacturer) else f"{manufacturer}-{stem}"
    alike = {each: [other for other in found if _same_key(one, other)] for each, found in seen.items()}
    return Row(
        name=name,
        manufacturer=manufacturer,
        subject=one.subject.text(),
        not_before=_day(one.not_before),
        not_after=_day(one.not_after),
        key=_kind(one),
        sha256=hashlib.sha256(one.der).hexdigest(),
        path=place,
        seen_in=[each for each, found in alike.items() if any(other.der == one.der for other in found)],
        key_in=[each for each, found in alike.items() if any(other.der != one.der for other in found)],
        issued=len({other.der for found in seen.values() for other in found if _issued(other, one)}),
        notes=[*_notes(one, store), *([NOTES[name]] if name in NOTES else [])],
    )


def _same_key(one: Certificate, other: Certificate) -> bool:
    return one.subject.key == other.subject.key and one.public_key == other.public_key


def _issued(certificate: Certificate, issuer: Certificate) -> bool:
    if certificate.issuer.key != issuer.subject.key or _same_key(certificate, issuer):
        return False
    try:
        verify_issued(certificate, issuer)
    except AttestreamError:
        return False
    return certificate.extensions.authority


def _notes(one: Certificate, store: TrustStore) -> Iterator[str]:
    if not one.self_issued():
        here = " (which is here too)" if any(_issued(one, other) for other in store.named(one.issuer)) else ""
        yield f"Issued by {one.issuer.text()}{here}; a path ends here nevertheless."
    if scheme_of(one).hash == SHA1:
        yield "Signed with SHA-1 itself, which does not matter: the signature of a trusted certificate is not asked for."
    if one.extensions.path_length == 0:
        yield "Issues certificates of EKs itself, by its path length of 0."
    if one.irregularities:
        yield f'Breaks DER ({", ".join(one.irregularities)}): needs `malformed_certificate = "warn"`.'


def _kind(one: Certificate) -> str:
    key = certified_key(one)
    return f"RSA-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else f"P-{key.key_size}"


def _day(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).date().isoformat()


def _pem(der: bytes) -> str:
    lines = textwrap.wrap(base64.b64encode(der).decode("ascii"), 64)
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))


def _toml(made: Manifest) -> Iterator[str]:
    yield "# TPM manufacturers' CA certificates, and where each is from."
    yield "# Made by `python -m devtools.manufacturers`; do not edit."
    yield ""
    yield from _table("[package]", msgspec.to_builtins(made.package))
    tables: dict[str, Iterable[Any]] = {
        "[[collection]]": made.collection,
        "[[certificate]]": made.certificate,
        "[[left_out]]": made.left_out,
    }
    for header, each in tables.items():
        for one in each:
            yield from _table(header, msgspec.to_builtins(one))


def _table(header: str, fields: dict[str, Any]) -> Iterator[str]:
    yield header
    for name, value in fields.items():
        yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
    yield ""


if __name__ == "__main__":
    sys.exit(main())
