"""The artifact store as a Dagster resource: one URL decides between a directory and a bucket."""

from __future__ import annotations

from typing import Any

import dagster as dg

from trellis_pipeline.storage.store import ArtifactStore, open_store


class ArtifactStoreResource(dg.ConfigurableResource[ArtifactStore]):
    """url: `file:///absolute/dir` or `s3://bucket/prefix`.

    Credentials for S3 come from the usual AWS environment through dagster-aws; endpoint and region may be
    set here for other S3-compatible servers.
    """

    url: str
    s3_endpoint: str | None = None
    s3_region: str | None = None

    def open(self) -> ArtifactStore:
        """Open the store. Raises ConfigError for an unusable URL, StorageUnavailable without access."""
        return open_store(self.url, s3_client=self.s3_client)

    def s3_client(self) -> Any:
        """A boto3 S3 client; dagster-aws is imported only by those who need it."""
        from dagster_aws.s3 import S3Resource

        return S3Resource(endpoint_url=self.s3_endpoint, region_name=self.s3_region).get_client()
