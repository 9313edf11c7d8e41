"""The Dagster resources: where artifacts go, who makes models, where money is written down, what a catalog is."""
