"""Where results live: one `ArtifactStore` protocol over a local directory or an S3 bucket.

Start at `store.open_store`. Blobs are named by their content and never change; readable paths point at them.
"""
