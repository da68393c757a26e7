"""Measures the verifier on real parts: ``python -m bench``. What is measured and how stands in ``docs/performance.md``."""
