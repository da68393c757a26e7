"""Findings about the boot log: the last part of the code, its severity, meaning and remedy."""

from __future__ import annotations

from typing import Final

_LOG: Final = "Check that the agent may read the firmware's event log and sends the one of this boot."
_CHANGED: Final = (
    "If firmware, loader, kernel or keys were changed on purpose, add a reference state for it; otherwise treat the "
    "machine as compromised."
)
_ALTERED: Final = "Treat the machine as compromised until it is explained: somebody may have altered the log."

BOOT: Final = (
    ("log-missing", "failure", "The boot log was asked for, but not sent.", _LOG),
    ("log-malformed", "failure", "The boot log can not be read.", _LOG),
    (
        "log-bank",
        "failure",
        "The boot log has no digests for the policy's PCR bank.",
        "Name a bank in the policy that the firmware measures into.",
    ),
    ("pcr-mismatch", "failure", "The boot log does not replay to the quoted value of a PCR.", _ALTERED),
    (
        "pcr-uncovered",
        "failure",
        "A PCR that the boot policy judges was not compared with the boot log.",
        "Have the PCR quoted and the boot log sent.",
    ),
    ("event-unproven", "failure", "An event of the boot log says something else than what it measured.", _ALTERED),
    ("policy", "failure", "The boot policy refuses what the boot log tells.", _CHANGED),
    ("secure-boot", "failure", "Secure Boot was off, or nothing proves that it was on.", _CHANGED),
    ("key-unknown", "failure", "A key or image is enrolled in PK, KEK or db that the policy does not allow.", _CHANGED),
    (
        "not-forbidden",
        "failure",
        "What the policy wants to be forbidden is not in dbx.",
        "Update dbx on the machine (`fwupdmgr update`), or the policy if the list there is newer than the machine's can be.",
    ),
    ("application", "failure", "Another boot loader, kernel or tool was started than the policy allows.", _CHANGED),
    ("section", "failure", "A part of a unified kernel image is not the one that the policy has.", _CHANGED),
    ("command-line", "failure", "The kernel was given a command line that the policy does not allow.", _CHANGED),
    ("file", "failure", "Something else was loaded with the kernel than the policy allows.", _CHANGED),
    (
        "reference-invalid",
        "failure",
        "The reference state of the boot policy can not be used.",
        "Mend the reference state at the place that the message names.",
    ),
)
