"""Public areas from which the agent's keys are made."""

from __future__ import annotations

from typing import Final

from tpm2_pytss import TPM2B_PUBLIC

from attestream.errors import ConfigError

EK_KINDS: Final = {"rsa2048": "EK-RSA2048", "p256": "EK-ECC256"}
"""Our name -> template L-1 or L-2 of the TCG EK Credential Profile for TPM 2.0 (low range)."""

_AK_KINDS: Final = {
    ("rsa2048", "rsassa"): "rsa2048:rsassa-sha256:null",
    ("rsa2048", "rsapss"): "rsa2048:rsapss-sha256:null",
    ("p256", "ecdsa"): "ecc256:ecdsa-sha256:null",
}
_USUAL_SCHEME: Final = {"rsa2048": "rsassa", "p256": "ecdsa"}

_OURS: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|noda"


def endorsement_kind(name: str) -> str:
    """Return ``name`` when it is a kind of EK.

    :raises ConfigError: when it is not.
    """
    if name not in EK_KINDS:
        raise ConfigError(f"agent.ek is {name!r}", remedy=f"Use one of {', '.join(EK_KINDS)}.")
    return name


def attestation_kind(name: str, scheme: str = "") -> tuple[str, str]:
    """Return key kind and signing scheme of an AK; an empty ``scheme`` stands for the usual one.

    :raises ConfigError: when the kind is not known or can not sign so.
    """
    kind = (name, scheme or _USUAL_SCHEME.get(name, ""))
    if kind not in _AK_KINDS:
        known = ", ".join(" with ".join(one) for one in _AK_KINDS)
        raise ConfigError(f"agent.ak is {name!r} with agent.ak_scheme {scheme!r}", remedy=f"Use one of {known}.")
    return kind


def attestation_key(kind: tuple[str, str]) -> TPM2B_PUBLIC:
    """Return the template of an AK: a restricted signing key that never leaves its TPM (TPM 2.0 Part 1, section 25.1.6).

    ``noda`` keeps it out of dictionary attack protection: it has no password, and a lockout must not silence the agent.
    """
    return TPM2B_PUBLIC.parse(_AK_KINDS[kind], objectAttributes=f"{_OURS}|sign")


def storage_root() -> TPM2B_PUBLIC:
    """Return the template of the AK's parent: a P-256 storage primary key (TCG TPM v2.0 Provisioning Guidance, 7.5.1).

    P-256 in each case: it is derived in milliseconds where RSA takes seconds, and every PC Client TPM has it.
    """
    return TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=f"{_OURS}|decrypt")


def sealed_data() -> TPM2B_PUBLIC:
    """Return the template of a sealed secret that never leaves its TPM but unsealed (TPM 2.0 Part 1, section 29)."""
    return TPM2B_PUBLIC.parse("keyedhash", objectAttributes="fixedtpm|fixedparent|userwithauth|noda")
