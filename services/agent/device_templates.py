"""Where makers put IAKs and IDevIDs, and the public areas from which those are derived (TCG TPM 2.0 Keys for Device Identity
and Attestation, sections 7.3.2 and 7.3.4).

The specification leaves room, and makers have read it differently: there are several areas for some kinds of key. Which one
is right the certificate tells, for its key comes out of no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec
from tpm2_pytss import TPM2B_PUBLIC


class Role(msgspec.Struct, frozen=True):
    """A key of the device's identity."""

    name: str
    certificates: range
    """NV indexes of its certificates."""
    label: bytes
    """What the template has in its unique field."""
    attributes: str
    restricted: bool
    policies: dict[str, str]
    """Hash -> authPolicy, in hexadecimal digits. What is done here needs none of them: user authorisation suffices."""


HANDLES: Final = range(0x81020000, 0x81030000)
"""Persistent handles of device identities."""

_FIXED: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign"

IAK: Final = Role(
    "IAK",
    range(0x01C90100, 0x01C90200),
    b"IAK",
    f"{_FIXED}|restricted",
    restricted=True,
    policies={
        "sha256": "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07",
        "sha384": "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf672f51716c5cbb605f313bf345aab312",
        "sha512": (
            "8060d1fb31716a29e48a6e5fece088bcfc1b278fc162255e81c3eca3544cd44a"
            "f94410c3715d561cccd9e39a6cb2646d43535bb54ea88710deb5f7836bd9b586"
        ),
    },
)
IDEVID: Final = Role(
    "IDevID",
    range(0x01C90200, 0x01C90300),
    b"IDEVID",
    _FIXED,
    restricted=False,
    policies={
        "sha256": "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea",
        "sha384": "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33",
        "sha512": (
            "7dd7500fd6c1b94f97a6af910da147301ef28f662fee06f225a4ccadda3b4e6b"
            "38e66b2f3ad5dee1a0503cd2daedb1e68cfe4f84b03a8cd22bb6a976f071a72f"
        ),
    },
)

_RSA_HASHES: Final = {2048: ("sha256",), 3072: ("sha384",), 4096: ("sha384", "sha512")}
_ECC_HASHES: Final = {256: "sha256", 384: "sha384", 521: "sha512"}


def templates(role: Role, algorithm: Literal["rsa", "ecc"], bits: int) -> Iterator[TPM2B_PUBLIC]:
    """Return the public areas from which such a key may have been derived, the likeliest first; none for unknown kinds."""
    if algorithm == "rsa":
        for name in _RSA_HASHES.get(bits, ()):
            scheme = f"rsapss-{name}" if role.restricted else "null"
            made = _template(role, name, f"rsa{bits}:{scheme}:null")
            made.publicArea.unique.rsa.buffer = role.label
            yield made
    elif name := _ECC_HASHES.get(bits, ""):
        for y in (b"", role.label):
            made = _template(role, name, f"ecc{bits}:ecdsa-{name}:null")
            made.publicArea.unique.ecc.x.buffer = role.label
            made.publicArea.unique.ecc.y.buffer = y
            yield made


def _template(role: Role, name: str, kind: str) -> TPM2B_PUBLIC:
    policy = bytes.fromhex(role.policies[name])
    return TPM2B_PUBLIC.parse(kind, objectAttributes=role.attributes, nameAlg=name, authPolicy=policy)
