"""The product catalog as a Dagster resource: rows from a file, a directory or a bucket."""

# Dagster inspects annotations at run time, so they are not deferred in this module.
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from resources.store import ArtifactStoreResource
from trellis_pipeline.errors import (
    BlobMissing,
    CatalogError,
    SourceImageError,
    StorageError,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from trellis_pipeline.catalog.readers import CatalogLoad


class CatalogResource(dg.ConfigurableResource[None]):
    """Reads catalogs and photos. The store resource lends its S3 client for `s3://` sources."""

    store: dg.ResourceDependency[ArtifactStoreResource]

    def load(self, source: str) -> "CatalogLoad":
        """Read and validate a catalog. Raises CatalogError when it cannot be read at all."""
        from trellis_pipeline.catalog.readers import load_catalog

        try:
            return load_catalog(source, list_bucket=self.list_images, read_bytes=self.read_s3)
        except (StorageError, SourceImageError) as error:
            raise CatalogError(f"catalog {error}") from None

    def read_s3(self, url: str, most_bytes: int | None = None) -> bytes:
        """The bytes of one `s3://` object, or the first `most_bytes` of them.

        Raises BlobMissing, and SourceImageError for everything else: the bucket is one that a row names, not
        the store of the run, so it is that product's misfortune even where no bucket answers.
        """
        try:
            return self._object(url, most_bytes)
        except StorageUnavailable as error:
            raise SourceImageError(str(error)) from None

    def _object(self, url: str, most_bytes: int | None) -> bytes:
        bucket, key = _split(url)
        with _named(url), closing(self.store.s3_client().get_object(Bucket=bucket, Key=key)["Body"]) as body:
            data: bytes = body.read(most_bytes)
        return data

    def s3_state(self, url: str) -> str:
        """The ETag of one `s3://` object, which changes with its content.

        Raises BlobMissing; SourceImageError where S3 refuses this one; StorageUnavailable where it cannot be
        asked at all, without network or credentials.
        """
        bucket, key = _split(url)
        with _named(url):
            return str(self.store.s3_client().head_object(Bucket=bucket, Key=key)["ETag"])

    def list_images(self, prefix: str) -> Iterator[str]:
        """URLs of every object under an `s3://` prefix."""
        bucket, key = _split(prefix)
        with _named(prefix):
            pages = (
                self.store.s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    yield f"s3://{bucket}/{entry['Key']}"


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn a client's error into ours. Its text is not repeated: it can hold a key or a signed URL."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in {"404", "NoSuchKey", "NotFound"}:
            raise BlobMissing(f"{url}: no such object") from None
        raise SourceImageError(f"{url}: S3 answered {code}; check bucket, credentials and region") from None
    except ParamValidationError:
        raise SourceImageError(f"{url}: no bucket or object can have such a name; correct the URL") from None
    except BotoCoreError as error:
        raise StorageUnavailable(f"{url}: {type(error).__name__}; check endpoint and credentials") from None


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key
