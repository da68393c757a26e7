"""Verification of quotes: the signature, and the digest over the PCR values (TPM 2.0 Part 3, section 18.4, TPM2_Quote)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attestream.errors import MalformedError, SignatureError, UnsupportedError
from attestream.tpm.algorithms import SIGNATURE_HASHES, hash_named
from attestream.tpm.public import Public
from attestream.tpm.selection import Selection
from attestream.tpm.structures import Quote, Signature, parse_quote, parse_signature

_HASHES: Final = {name: hash_named(name).primitive for name in (*sorted(SIGNATURE_HASHES), "sha1")}
_ECDSA: Final = {name: ec.ECDSA(primitive) for name, primitive in _HASHES.items()}
_PKCS1: Final = padding.PKCS1v15()
# A TPM salts with the digest's size or with all that fits, depending on its age (Part 1, annex B, RSASSA_PSS).
_PSS: Final = {name: padding.PSS(padding.MGF1(primitive), padding.PSS.AUTO) for name, primitive in _HASHES.items()}


def pcr_digest(quote_hash: str, selection: Selection, values: Mapping[str, Mapping[int, bytes]]) -> bytes:
    """Return what a quote's ``pcr_digest`` must be for these PCR values.

    ``quote_hash`` is the hash of the quote's signature; ``values`` maps bank and PCR index to the value.

    :raises MalformedError: when a selected value is missing or has not the size of its bank.
    :raises UnsupportedError: when a hash is not known.
    """
    parts = []
    for bank, pcrs in selection:
        size = hash_named(bank).size
        held = values.get(bank, {})
        for pcr in pcrs:
            value = held.get(pcr)
            if value is None or len(value) != size:
                raise MalformedError(
                    f"PCR {pcr} of bank {bank} was quoted, but its value is missing or not {size} bytes long"
                )
            parts.append(value)
    return hash_named(quote_hash).digest(b"".join(parts))


def verify_signature(key: Public, message: bytes, signature: Signature, *, allow_sha1: bool = False) -> None:
    """Check that ``key`` made ``signature`` over ``message``.

    :raises SignatureError: when it did not, or could not (an ECDSA signature and an RSA key).
    :raises UnsupportedError: when the signature uses SHA-1 and that is not allowed.
    """
    name = signature.hash
    primitive = _HASHES.get(name)
    if primitive is None or (name == "sha1" and not allow_sha1):
        raise UnsupportedError(f"signatures with {name} are not accepted")
    public = key.key()
    try:
        if isinstance(public, rsa.RSAPublicKey) and signature.scheme != "ecdsa":
            public.verify(signature.value, message, _PKCS1 if signature.scheme == "rsassa" else _PSS[name], primitive)
            return
        if isinstance(public, ec.EllipticCurvePublicKey) and signature.scheme == "ecdsa":
            public.verify(signature.value, message, _ECDSA[name])
            return
    except InvalidSignature:
        raise SignatureError("the signature was not made by this key over these bytes") from None
    raise SignatureError(f"a key of kind {key.kind} can not have made a signature of scheme {signature.scheme}")


def verify_quote_signature(
    ak: Public, quote: bytes, signature: bytes, *, allow_sha1: bool = False, trailing: bool = False
) -> Quote:
    """Return the quote in the TPMS_ATTEST ``quote`` after checking that the attestation key ``ak`` signed it.

    ``signature`` is a TPMT_SIGNATURE. That key and scheme fit together is enough: the TPM itself binds a restricted key to
    one scheme, and a valid signature under another accepted one is no weaker.

    :param allow_sha1: accept a signature with SHA-1.
    :param trailing: let bytes follow either structure.
    :raises SignatureError: when the key did not sign these bytes.
    :raises MalformedError: when signature or quote is not well formed, or the signed structure is no quote.
    :raises UnsupportedError: when an algorithm is not known, or the signature uses SHA-1 and that is not allowed.
    """
    verify_signature(ak, quote, parse_signature(signature, trailing=trailing), allow_sha1=allow_sha1)
    return parse_quote(quote, trailing=trailing)
