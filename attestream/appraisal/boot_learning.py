"""Makes the expectations of a policy document from the boot log of a machine in good order."""

from __future__ import annotations

from typing import Any, Final

from attestream.appraisal.boot_expectations import APPLICATION_PCR, FILE_PCR, KEY_VARIABLES, STUB_PCR, signature_text
from attestream.appraisal.boot_judgement import signatures_of
from attestream.errors import PolicyError
from attestream.uefi import claim_kinds as claim
from attestream.uefi.claims import draw_claims
from attestream.uefi.parser import parse_log
from attestream.uefi.replay import replay_bank

_INITRD_TAG: Final = 0x8F3B22EC
"""``INITRD_EVENT_TAG_ID`` of Linux ``drivers/firmware/efi/libstub/efistub.h``."""


def expectations_from_log(log: bytes, bank: str = "sha256") -> dict[str, Any]:
    """Return what to add to ``boot`` of a policy so that it allows the boot that ``log`` tells of.

    The log is taken as it is: make it from a machine that is known to be good. Load options of a kernel that the firmware
    starts are not in the log, only their digest; add ``load_options`` by hand.

    :raises MalformedError: when the log can not be read.
    :raises PolicyError: when it has no digests for ``bank``, or data that is not what was measured.
    """
    parsed = parse_log(log)
    values = replay_bank(parsed, bank)
    if values is None:
        raise PolicyError(f"the log has no digests for the bank {bank}")
    found = draw_claims(parsed, bank, values)
    if found.rejected:
        raise PolicyError(f"the log contradicts itself: {found.rejected[0].reason}")
    databases = {one.name: one for one in found.claims if isinstance(one, claim.SignatureDatabase)}
    listed = {name: sorted(map(signature_text, signatures_of(database))) for name, database in databases.items()}
    boot: dict[str, Any] = {
        "applications": [
            one.digest.hex() for one in found.claims if isinstance(one, claim.ImageLoad) and one.pcr == APPLICATION_PCR
        ]
    }
    sections = [one for one in found.claims if isinstance(one, claim.ImageSection) and one.pcr == STUB_PCR]
    if sections:
        boot["sections"] = {one.name: one.digest.hex() for one in sections}
    tagged = [one for one in found.claims if isinstance(one, claim.TaggedEvent) and one.pcr == FILE_PCR]
    if initrds := [one.digest.hex() for one in tagged if one.tag == _INITRD_TAG]:
        boot["initrd"] = initrds[0]
    made = {
        "secure_boot": found.secure_boot is True,
        "keys": {name: listed[name] for name in KEY_VARIABLES if name in listed},
    }
    return made | ({"dbx": listed["dbx"]} if "dbx" in listed else {}) | {"boots": [boot]}
