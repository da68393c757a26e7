"""Cases of EK, IAK and IDevID certificates.

The incumbent matches the direct issuer and nothing else. The cases are run under the profile for certificates as makers
issue them, as of the day on which the expected values were computed: some certificates were made then, for a few days.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from attestream.errors import AttestreamError
from attestream.pki.device_identity import judge_device_key, judge_same_device
from attestream.pki.endorsement import judge_endorsement
from attestream.pki.profile import PERMISSIVE
from attestream.pki.trust_store import TrustStore
from tests.conformance.outcome import CannotRunError, Outcome

AS_OF: Final = 1_795_305_600_000
"""2026-11-22, in Unix milliseconds."""

_DEVICE: Final = msgspec.structs.replace(PERMISSIVE, unrestricted="warn")
"""The cases' IAK certificates say nothing of the key: the incumbent does not ask for it."""

_STORES: Final = {"keylime tpm_cert_store": "data/ek/tpm_cert_store"}


def run(case: Mapping[str, Any], folder: Path) -> Outcome:
    """Judge the certificates of a case."""
    inputs = case["inputs"]
    store = _store(folder / _STORES.get(inputs["store"], inputs["store"]))
    match case["call"].partition("(")[0]:
        case "cert_utils.verify_ek":
            chain = [(folder / inputs["cert"]).read_bytes()]
            good = judge_endorsement(chain, store, profile=PERMISSIVE, now=AS_OF).trusted
        case "cert_utils.iak_idevid_cert_checks":
            chains = {role: [(folder / inputs[role.lower()]).read_bytes()] for role in ("IDevID", "IAK")}
            good = judge_same_device(chains["IAK"], chains["IDevID"]) is None and all(
                judge_device_key(role, chain, store, profile=_DEVICE, now=AS_OF).trusted for role, chain in chains.items()
            )
        case unknown:
            raise CannotRunError(f"{unknown} is not known")
    return Outcome("pass" if good else "fail", values={"error": ""} if good else {})


def _store(directory: Path) -> TrustStore:
    """Read a directory as the incumbent does: ``*.pem``, and what is no certificate is passed over."""
    store = TrustStore()
    for file in sorted(directory.glob("*.pem")):
        try:
            store = store + TrustStore.of([file.read_bytes()])
        except AttestreamError:
            continue
    return store
