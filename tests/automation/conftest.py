"""Ledgers on both databases."""

from databases import ledger, postgres, postgres_url, sqlite_url, url  # noqa: F401
