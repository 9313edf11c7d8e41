"""Catalogs: rows in from any common format, validated products out, and what changed since last time."""
