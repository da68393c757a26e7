"""Runs the migrations on the connection that the verifier gives."""

from attestream.database import run_migrations

run_migrations()
