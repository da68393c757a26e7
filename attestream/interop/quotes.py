"""Quotes as agents send them: a text of three base64 parts, and the checks of what it claims."""

from __future__ import annotations

import base64
import binascii
import hmac
import zlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from attestream.appraisal.findings import finding
from attestream.errors import MalformedError, RefusedError, SignatureError, TooLargeError, UnsupportedError
from attestream.interop.algorithms import QUOTE_SIGNING
from attestream.interop.pcr_blob import parse_pcr_blob
from attestream.tpm.algorithms import curve_named
from attestream.tpm.marshalling import Reader
from attestream.tpm.public import Public
from attestream.tpm.quote import pcr_digest, verify_quote_signature
from attestream.tpm.selection import Selection
from attestream.tpm.structures import Quote, parse_signature
from schemas.events import Finding

MAX_TEXT: Final = 256 * 1024
"""Characters of a quote's text."""
MAX_PART: Final = 64 * 1024
"""Bytes of one part, after inflation."""


class QuoteRefusedError(RefusedError):
    """A quote that proves nothing."""

    def __init__(self, found: Finding) -> None:
        super().__init__(found.message, remedy=found.remedy)
        self.finding = found


class QuoteParts(NamedTuple):
    """What a quote's text carries."""

    attest: bytes
    """TPMS_ATTEST."""
    signature: bytes
    """TPMT_SIGNATURE."""
    pcrs: bytes
    """PCR values, see :mod:`attestream.interop.pcr_blob`."""


class CheckedQuote(NamedTuple):
    """A quote that a key has signed over these PCR values for this nonce."""

    quote: Quote
    pcrs: Mapping[int, bytes]
    """PCR -> value in the bank that was agreed."""


def parse_quote_text(text: str, *, compressed: bool = False) -> QuoteParts:
    """Return the parts of ``r<base64>:<base64>:<base64>``. What follows a further colon says nothing.

    :param compressed: each part is deflated (zlib), as agents with API version 1.0 send it.
    :raises MalformedError: when the text has another form.
    :raises TooLargeError: when the text or a part is too long.
    """
    if len(text) > MAX_TEXT:
        raise TooLargeError(f"a quote has at most {MAX_TEXT} characters, not {len(text)}")
    tokens = text.removeprefix("r").split(":")
    if not text.startswith("r") or len(tokens) < len(QuoteParts._fields):
        raise MalformedError("a quote is the letter r and three base64 texts with colons between them")
    parts = [_decoded(token, compressed) for token in tokens[: len(QuoteParts._fields)]]
    return QuoteParts(*parts)


def _decoded(token: str, compressed: bool) -> bytes:
    try:
        data = base64.b64decode(token, validate=True)
        if not compressed:
            return data
        inflate = zlib.decompressobj()
        data = inflate.decompress(data, MAX_PART)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise MalformedError(f"a part of the quote can not be decoded: {error}") from error
    if inflate.unconsumed_tail or not inflate.eof:
        raise TooLargeError(f"a part of the quote is cut off or inflates to more than {MAX_PART} bytes")
    return data


def build_quote_text(parts: QuoteParts) -> str:
    """Return the text of ``parts``. The counterpart of :func:`parse_quote_text`."""
    return "r" + ":".join(base64.b64encode(part).decode("ascii") for part in parts)


def nonce_forms(nonce: str) -> tuple[bytes, ...]:
    """Return what the extra data of a quote for ``nonce`` may be: its text (pull), or what it encodes in base64 (push)."""
    try:
        return nonce.encode("utf-8"), base64.b64decode(nonce, validate=True)
    except (binascii.Error, ValueError):
        return (nonce.encode("utf-8", "surrogatepass"),)


def check_quote(ak: Public, parts: QuoteParts, nonce: str, hash_name: str) -> CheckedQuote:
    """Return the quote in ``parts`` after checking signature, nonce, selection and PCR digest, in this order.

    :param hash_name: the hash that was agreed on, for the signature and as the only PCR bank. Naming SHA-1 allows it.
    :raises QuoteRefusedError: with the finding that says why the quote proves nothing.
    """
    try:
        signature = parse_signature(parts.signature, trailing=True)
        if signature.scheme not in QUOTE_SIGNING or signature.hash != hash_name:
            wanted = " or ".join(QUOTE_SIGNING)
            raise UnsupportedError(
                f"it is signed with {signature.scheme} and {signature.hash}, not {wanted} and {hash_name}"
            )
        _check_coordinates(ak, parts.signature)
        quote = verify_quote_signature(ak, parts.attest, parts.signature, allow_sha1=hash_name == "sha1", trailing=True)
    except SignatureError as error:
        raise _refused("quote.signature-invalid", f"The attestation key did not sign the quote: {error.message}.") from error
    except MalformedError as error:
        code = "quote.algorithm" if isinstance(error, UnsupportedError) else "quote.malformed"
        raise _refused(code, f"The quote is not acceptable: {error.message}.") from error
    if not any(hmac.compare_digest(quote.extra_data, form) for form in nonce_forms(nonce)):
        raise _refused("quote.qualifying-data", "The quote was not made for this nonce.")
    return CheckedQuote(quote, _checked_pcrs(quote, parts.pcrs, hash_name))


def _checked_pcrs(quote: Quote, blob: bytes, hash_name: str) -> Mapping[int, bytes]:
    try:
        claimed = parse_pcr_blob(blob)
        signed = _pcrs(quote.selection)
        if signed != _pcrs(claimed.selection) or signed.keys() - {hash_name}:
            raise _refused("quote.selection")
        digest = pcr_digest(hash_name, quote.selection, claimed.values)
    except MalformedError as error:
        raise _refused("quote.pcr-digest", f"The claimed PCR values can not be right: {error.message}.") from error
    if not hmac.compare_digest(digest, quote.pcr_digest):
        raise _refused("quote.pcr-digest")
    return claimed.values.get(hash_name, {})


def _check_coordinates(ak: Public, signature: bytes) -> None:
    """Check that no number of an ECDSA signature is written with more bytes than the key's curve has."""
    if ak.kind != "ecc":
        return
    reader = Reader(signature[4:], "the signature")
    for _ in range(2):
        reader.sized(curve_named(ak.curve).size)


def _pcrs(selection: Selection) -> dict[str, set[int]]:
    selected: dict[str, set[int]] = {}
    for bank, pcrs in selection:
        if pcrs:
            selected.setdefault(bank, set()).update(pcrs)
    return selected


def _refused(code: str, message: str = "") -> QuoteRefusedError:
    return QuoteRefusedError(finding(code, "", message))
