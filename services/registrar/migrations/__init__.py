"""Migrations of the registrar's tables."""
