"""The artifact store as a Dagster resource: one URL decides between a directory and a bucket."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from trellis_pipeline.errors import StorageUnavailable
from trellis_pipeline.storage.store import ArtifactStore, BlobRef, open_store

if TYPE_CHECKING:
    from trellis_pipeline.generation.runware.options import UploadSlot
    from trellis_pipeline.storage.s3 import S3Store


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

    def new_slot(self, seconds: int) -> Callable[[str], UploadSlot] | None:
        """Makes places in the bucket that a provider may upload one file to; None where there is no bucket.

        seconds: how long each permission lasts. The files stand under `incoming/` and may be expired by a
        lifecycle rule after a day: what is worth keeping has been copied by then, inside the bucket.
        """
        store = self._bucket()
        if store is None:
            return None
        from trellis_pipeline.generation.runware.options import UploadSlot
        from trellis_pipeline.mesh.glb_container import parse_head
        from trellis_pipeline.storage.s3_incoming import Incoming

        def slot(task_uuid: str) -> UploadSlot:
            place = Incoming(store, f"incoming/{task_uuid}.glb")

            def take(most_bytes: int) -> BlobRef | None:
                return place.adopt(".glb", most_bytes, parse_head)

            return UploadSlot(place.put_url(seconds), take)

        return slot

    def picture_url(self, seconds: int) -> Callable[[str], str] | None:
        """Makes links under which anybody may read one picture (a PNG blob), by content hash; None where
        there is no bucket. seconds: how long each holds, counted from when it is made.
        """
        store = self._bucket()
        if store is None:
            return None
        from botocore.exceptions import BotoCoreError

        calls = store.calls
        calls.client()  # what is wrong with it is said now, not at the first purchase

        def link(sha256: str) -> str:
            key = BlobRef(sha256, 0, ".png").key
            try:
                return calls.signed_url("get_object", key, seconds)
            except BotoCoreError as error:
                failure = type(error).__name__  # its text may hold the access key
            raise StorageUnavailable(f"no link to {key} can be signed ({failure}); check the S3 credentials")

        return link

    def _bucket(self) -> S3Store | None:
        """The store where it is a bucket."""
        if not self.url.startswith("s3://"):
            return None
        from trellis_pipeline.storage.s3 import S3Store

        store = self.open()
        assert isinstance(store, S3Store)
        return store

    def s3_client(self) -> Any:
        """A boto3 S3 client, the same one as long as the AWS environment stays."""
        aws = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
        return _client(self.s3_endpoint, self.s3_region, aws)


@lru_cache(maxsize=8)
def _client(endpoint: str | None, region: str | None, _aws: tuple[tuple[str, str], ...]) -> Any:
    """To make one takes fifty milliseconds, and a catalog has thousands of photos. Threads may share it."""
    from dagster_aws.s3 import S3Resource

    client = S3Resource(endpoint_url=endpoint, region_name=region).get_client()
    client.meta.events.register_first("choose-signer.s3.*", _current_signature)
    return client


def _current_signature(**_asked: Any) -> str:
    """In its oldest region botocore signs links as of 2006, which buckets made since 2020 refuse."""
    return "s3v4"
