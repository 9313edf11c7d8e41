"""The Dagster resources: catalogs, the artifact store, the generator and the spend ledger."""
