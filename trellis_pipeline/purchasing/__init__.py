"""Where a request meets the ledger: what was bought before is found, what is new is reserved, made, settled."""
