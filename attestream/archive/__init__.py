"""Evidence that was kept: finding it, proving it, and appraising it once more by the code that the verifier runs."""
