"""UEFI boot: the TCG PC Client event log, its replay into PCR values, and what the proven events say."""
