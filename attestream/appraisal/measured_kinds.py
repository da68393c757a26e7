"""Findings about what the kernel measured beside plain files: signatures, keys, buffers and devices."""

from __future__ import annotations

from typing import Final

from attestream.appraisal.kinds import FAILURE, WARNING, Kind

_LOOK: Final = "Treat the machine as compromised until it is explained; then mend the machine or the policy."
_DEVICE: Final = "Find out what set up the device; then mend the machine or `runtime.device_mapper` of the policy."


def _failure(code: str, summary: str, remedy: str = _LOOK) -> Kind:
    return Kind(f"runtime.{code}", "runtime", FAILURE, summary, remedy)


MEASURED_KINDS: Final = (
    _failure("denied", "A file was run or read that the policy forbids."),
    _failure(
        "signature-missing",
        "A file has no valid signature by a key of the policy.",
        "Sign the file, or add the key that signed it to `runtime.signatures` of the policy.",
    ),
    _failure(
        "evm-signature",
        "A file has no valid portable EVM signature by a key of the policy.",
        "Sign the file with `evmctl sign --portable`, and have the kernel measure it with the template evm-sig.",
    ),
    _failure(
        "violation-refused",
        "A file was open for writing while it was measured, which the policy does not allow.",
        "Find out what writes to the file while it is in use.",
    ),
    Kind(
        "runtime.padded",
        "runtime",
        WARNING,
        "The kernel measures into this PCR bank with SHA-1 digests only.",
        "Update the kernel to 5.8 or later.",
    ),
    _failure("keyring-unknown", "A key was put on a keyring that the policy does not know."),
    _failure("key-unknown", "A key was put on a keyring that the policy does not allow it on."),
    _failure(
        "key-unsupported",
        "A key of a kind that does not sign files was put on a keyring.",
        "Name the keyring in `runtime.ignored_keyrings` of the policy if its keys need not be judged.",
    ),
    _failure(
        "buffer-unknown",
        "Data was measured that the policy does not know.",
        "Add its name to `runtime.buffers` of the policy, or narrow the kernel's IMA policy.",
    ),
    _failure("buffer-content", "Measured data has content that the policy does not allow."),
    _failure("buffer-altered", "Measured data does not have the digest that the log gives for it."),
    _failure("device-event", "A device mapper event can not be read.", _DEVICE),
    _failure("device-unknown", "A device was set up that no rule of the policy matches.", _DEVICE),
    _failure("device-loaded", "A device's table was loaded a second time.", _DEVICE),
    _failure("device-field", "A device differs from what its rule wants.", _DEVICE),
    _failure("device-targets", "A device's table has other targets than its rule.", _DEVICE),
    _failure("device-target", "A target of a device's table differs from what its rule wants.", _DEVICE),
    _failure("device-target-unknown", "A target of a device's table lacks what its rule asks for.", _DEVICE),
    _failure("device-target-invalid", "A target of a device's table is not the one that its rule has.", _DEVICE),
    _failure("device-order", "Something was done to a device whose table was never loaded.", _DEVICE),
    _failure("device-active", "A device was resumed a second time.", _DEVICE),
    _failure("device-table", "A device was resumed with another table than the one that was loaded.", _DEVICE),
    _failure("device-cleared", "A device's table was cleared.", _DEVICE),
    _failure("device-removed", "A device was removed.", _DEVICE),
    _failure("device-name", "A device got a name that its rule does not allow.", _DEVICE),
    _failure("device-uuid", "A device got a UUID that its rule does not allow.", _DEVICE),
    _failure("device-required", "A device that the policy requires is not in use.", _DEVICE),
    Kind(
        "runtime.device-pending",
        "runtime",
        WARNING,
        "A device was loaded and is not in use yet.",
        "Nothing while it is being set up; if it lasts, find out why it was not resumed.",
    ),
)
"""In the order of the documentation."""
