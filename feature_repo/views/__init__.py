"""Feast definitions, one file per project."""
