"""Which register holds what: PCRs of a TPM, or the run-time measurement registers of a confidential virtual machine."""

from __future__ import annotations

from typing import Final, NamedTuple


class Layout(NamedTuple):
    """Indices, as events name them, of the registers that claims depend on.

    ``loaders`` is one register for all that boot loaders measure; None when they are told apart by PCR.
    """

    secure_boot: int
    loaders: int | None


TPM: Final = Layout(secure_boot=7, loaders=None)
"""PC Client Platform Firmware Profile 1.06, section 3.3.4."""
TDX: Final = Layout(secure_boot=1, loaders=3)
"""UEFI 2.10, section 38.4.1: register 1 takes PCRs 1 and 7, register 2 PCRs 2-6, register 3 PCRs 8-15."""
