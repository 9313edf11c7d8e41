"""Where a request meets the ledger: what was bought is found; what is new is reserved, made, settled."""
