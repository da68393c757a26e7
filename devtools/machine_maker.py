"""The maker of a machine: gives its TPM an IAK and an IDevID with certificates, as a factory does."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2B_NV_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_NV,
    TPMS_NV_PUBLIC,
    TPMS_SENSITIVE_CREATE,
)

from attestream.tpm.public import Public, parse_public
from devtools.certificates import Authority
from services.agent.device_templates import HANDLES, IAK, IDEVID, Role, templates

Kind = tuple[Literal["rsa", "ecc"], int]

PERSISTENT: Final = {IDEVID.name: HANDLES.start, IAK.name: HANDLES.start + 1}
"""Where makers leave the keys."""

_ATTRIBUTES: Final = (
    TPMA_NV.OWNERWRITE | TPMA_NV.AUTHREAD | TPMA_NV.OWNERREAD | TPMA_NV.PPREAD | TPMA_NV.PPWRITE | TPMA_NV.NO_DA
)
_CHUNK: Final = 512


class Equipment(msgspec.Struct, frozen=True):
    """What a machine was given, by the role's name: ``IAK`` and ``IDevID``."""

    keys: dict[str, Public]
    certificates: dict[str, bytes]
    """DER."""


def equip(
    tcti: str,
    authority: Authority,
    serial: str,
    *,
    kind: Kind = ("ecc", 256),
    variant: int = 0,
    persistent: bool = True,
    password: bytes = b"",
    stored: bool = True,
) -> Equipment:
    """Make a TPM's IAK and IDevID and certify them.

    :param authority: signs the certificates.
    :param serial: of the machine.
    :param variant: which of the templates for keys of this kind.
    :param persistent: whether the keys stay in the TPM; otherwise they are derived when they are needed.
    :param password: of the IAK.
    :param stored: whether the certificates are written into the TPM's NV memory.
    """
    keys: dict[str, Public] = {}
    with ESAPI(tcti) as tpm:
        for role in (IAK, IDEVID):
            keys[role.name] = _make(tpm, role, kind, variant, persistent, password if role is IAK else b"")
        made = {name: authority.identify(name, key.key(), serial=serial) for name, key in keys.items()}
        if stored:
            for role in (IAK, IDEVID):
                write(tpm, role.certificates.start, made[role.name])
    return Equipment(keys, made)


def write(tpm: ESAPI, index: int, content: bytes) -> None:
    """Define an NV index that holds ``content``."""
    public = TPMS_NV_PUBLIC(nvIndex=index, nameAlg=TPM2_ALG.SHA256, attributes=_ATTRIBUTES, dataSize=len(content))
    handle = tpm.nv_define_space(b"", TPM2B_NV_PUBLIC(nvPublic=public))
    for at in range(0, len(content), _CHUNK):
        tpm.nv_write(handle, content[at : at + _CHUNK], at, auth_handle=ESYS_TR.OWNER)


def _make(tpm: ESAPI, role: Role, kind: Kind, variant: int, persistent: bool, password: bytes) -> Public:
    template = list(templates(role, *kind))[variant]
    sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(userAuth=password))
    handle, public, *_ = tpm.create_primary(sensitive, template, ESYS_TR.ENDORSEMENT)
    if persistent:
        tpm.evict_control(ESYS_TR.OWNER, handle, PERSISTENT[role.name])
    tpm.flush_context(handle)
    return parse_public(bytes(public.marshal()))
