"""Migrations of the verifier's table."""
