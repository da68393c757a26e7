"""Public areas from which the agent's keys are made."""

from __future__ import annotations

from typing import Final

from tpm2_pytss import TPM2B_PUBLIC

from attestream.errors import ConfigError

EK_KINDS: Final = {"rsa2048": "EK-RSA2048", "p256": "EK-ECC256"}
"""Our name -> template L-1 or L-2 of the TCG EK Credential Profile for TPM 2.0 (low range)."""

_AK_SCHEMES: Final = {
    "rsa2048": "rsa2048:rsassa-sha256:null",
    "rsa2048-pss": "rsa2048:rsapss-sha256:null",
    "p256": "ecc256:ecdsa-sha256:null",
}
AK_KINDS: Final = tuple(_AK_SCHEMES)

_OURS: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|noda"


def check_kinds(ek: str, ak: str) -> None:
    """Check the configured kinds of key.

    :raises ConfigError: when one is not known.
    """
    for setting, value, known in (("agent.ek", ek, tuple(EK_KINDS)), ("agent.ak", ak, AK_KINDS)):
        if value not in known:
            raise ConfigError(f"{setting} is {value!r}", remedy=f"Use one of {', '.join(known)}.")


def attestation_key(kind: str) -> TPM2B_PUBLIC:
    """Return the template of an AK: a restricted signing key that never leaves its TPM (TPM 2.0 Part 1, section 25.1.6).

    ``noda`` keeps it out of dictionary attack protection: it has no password, and a lockout must not silence the agent.
    """
    return TPM2B_PUBLIC.parse(_AK_SCHEMES[kind], objectAttributes=f"{_OURS}|sign")


def storage_root() -> TPM2B_PUBLIC:
    """Return the template of the AK's parent: a P-256 storage primary key (TCG TPM v2.0 Provisioning Guidance, 7.5.1).

    P-256 in each case: it is derived in milliseconds where RSA takes seconds, and every PC Client TPM has it.
    """
    return TPM2B_PUBLIC.parse("ecc256:aes128cfb", objectAttributes=f"{_OURS}|decrypt")
