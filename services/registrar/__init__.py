"""The registrar: proves that an agent's attestation key lives in its TPM, and remembers who is who."""
