"""One request to S3, and what its failure means.

Errors are named by operation, key and S3 error code. The text of a botocore error is never repeated or
chained, since it can hold the endpoint, the access key or a presigned URL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from trellis_pipeline.errors import StorageError, StorageUnavailable

# The answers a caller may decide about; HEAD answers carry only the status.
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
EXISTS = frozenset({"412", "PreconditionFailed"})
CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
_WAY_OUT = {
    "NoSuchBucket": "the bucket does not exist; create it or correct [storage] url in trellis.toml",
    "AccessDenied": "access denied; grant s3:GetObject, PutObject, DeleteObject and ListBucket on the prefix",
    "403": "access denied; grant s3:GetObject, PutObject, DeleteObject and ListBucket on the prefix",
    "InvalidAccessKeyId": "the access key is unknown; check the S3 resource",
    "SignatureDoesNotMatch": "the secret key is wrong; check the S3 resource",
    "ExpiredToken": "the session token has expired; renew it",
    "SlowDown": "the bucket asks to slow down; lower the concurrency or try again later",
    "NotImplemented": "this server knows no conditional writes (If-None-Match); use one that does",
    "BadDigest": "the upload arrived damaged; try again",
}


class Refused(Exception):
    """S3 answered with an error code that the caller decides about; never leaves this package."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class S3Calls:
    """Requests about one bucket.

    root: stands before the key of everything of the store. url: `s3://bucket/root`, for people and errors.
    """

    def __init__(self, bucket: str, root: str, client: Callable[[], Any]) -> None:
        self.bucket = bucket
        self.root = root
        self.url = f"s3://{bucket}/{root}".rstrip("/")
        self._make_client = client
        self._client: Any = None
        self._lock = threading.Lock()

    def head(self, key: str) -> dict[str, Any] | None:
        """What S3 says about an object of the store, None where there is none."""
        try:
            return self.call("head_object", key, MISSING, Key=self.root + key)
        except Refused:
            return None

    def call(
        self, operation: str, name: str, expected: frozenset[str] = frozenset(), **arguments: Any
    ) -> dict[str, Any]:
        """One S3 request.

        name: the path or blob it is about, for errors. Raises Refused for the error codes in `expected`,
        about which the caller decides, and StorageUnavailable for everything else.
        """
        failure: StorageError | Refused
        try:
            answer: dict[str, Any] = getattr(self.client(), operation)(Bucket=self.bucket, **arguments)
            return answer
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in expected:
                failure = Refused(code)
            else:
                failure = self.unavailable(operation, name, _WAY_OUT.get(code, f"S3 answered {code[:60]}"))
        except NoCredentialsError:
            failure = self.unavailable(
                operation, name, "no S3 credentials; set them in the environment or the S3 resource"
            )
        except (BotoCoreError, OSError) as error:
            kind = type(error).__name__
            failure = self.unavailable(
                operation, name, f"no answer from S3 ({kind}); check network and endpoint"
            )
        # Raised outside the handlers, so that the botocore error hangs on it neither as cause nor as context.
        raise failure

    def unavailable(self, operation: str, name: str, reason: str) -> StorageUnavailable:
        """The error for a request that failed."""
        return StorageUnavailable(f"{self.url}/{name} ({operation}): {reason}")

    def signed_url(self, operation: str, path: str, seconds: int) -> str:
        """An address that anybody may use for this one request. It is a permission: not for logs."""
        place = {"Bucket": self.bucket, "Key": self.root + path}
        return str(self.client().generate_presigned_url(operation, place, ExpiresIn=seconds))

    def client(self) -> Any:
        """The boto3 client, made at the first request."""
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client
