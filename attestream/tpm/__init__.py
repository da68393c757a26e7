"""TPM 2.0 structures, quote verification and credential making: pure functions, no device.

Parts and sections refer to the TCG's Trusted Platform Module Library Specification, Family 2.0.
"""
