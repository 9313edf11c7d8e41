"""The steps of the ledger's schema, in order. A step that was released is never edited; add another."""
