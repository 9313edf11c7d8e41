"""An S3 bucket as artifact store, over a boto3 client that somebody else configured.

S3 replaces objects in one step and refuses a conditional put that comes second, so the promises of the
protocol are S3's own. What needs care is the network between: an upload is checked on arrival by its sha256,
every object carries that hash as metadata, and a conditional create whose answer was lost recognises its own
object by a token when the retry is refused.

Errors are named by operation, key and S3 error code. The text of a botocore error is never repeated or
chained, since it can hold the endpoint, the access key or a presigned URL.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from trellis_pipeline.errors import BlobCorrupt, BlobMissing, StorageError, StorageUnavailable
from trellis_pipeline.storage.store import BLOB_FOLDER, BlobRef, check_path

# The answers a caller may decide about; HEAD answers carry only the status.
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_EXISTS = frozenset({"412", "PreconditionFailed"})
_CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
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
_CREATE_ATTEMPTS = 6
_GET_ATTEMPTS = 3

# So that a browser opening an object shows it instead of saving it.
_CONTENT_TYPES = {
    "glb": "model/gltf-binary",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "usdz": "model/vnd.usdz+zip",
}


class _Refused(Exception):
    """S3 answered with an error code that the caller decides about; never leaves this module."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class S3Store:
    """Blobs and readable paths below one prefix of a bucket. Implements `ArtifactStore`.

    Publishing is a copy inside S3: no bytes pass through this machine. Unlike a folder, S3 allows a path and
    paths below it at once (`a` and `a/b`); do not rely on it.
    """

    def __init__(self, bucket: str, prefix: str, client: Callable[[], Any]) -> None:
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._make_client = client
        self._client: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    # -- blobs ---------------------------------------------------------------------------------------------

    def put_blob(self, data: bytes, suffix: str) -> BlobRef:
        """See `ArtifactStore.put_blob`. Asks first: a repeated run then uploads nothing."""
        ref = BlobRef.of(data, suffix)
        head = self._head(ref.key)
        # Objects stored by this class carry their hash; one without it, or with another size, is replaced.
        if head and head.get("ContentLength") == ref.size and _stored_sha256(head) == ref.sha256:
            return ref
        self._put(ref.key, data)
        return ref

    def get_blob(self, ref: BlobRef) -> bytes:
        """See `ArtifactStore.get_blob`."""
        data, _ = self._get(ref.key)
        if not ref.matches(data):
            raise BlobCorrupt(
                f"{self.url}/{ref.key}: the bytes do not hash to the name; delete it, run the product again"
            )
        return data

    def has_blob(self, ref: BlobRef) -> bool:
        """See `ArtifactStore.has_blob`."""
        head = self._head(ref.key)
        return head is not None and head.get("ContentLength") == ref.size

    # -- readable paths --------------------------------------------------------------------------------------

    def publish(self, path: str, ref: BlobRef) -> str:
        """See `ArtifactStore.publish`."""
        target = self._root + check_path(path)
        source = {"Bucket": self._bucket, "Key": self._root + ref.key}
        try:
            self._call("copy_object", path, _MISSING, Key=target, CopySource=source)
        except _Refused:
            raise BlobMissing(
                f"{path}: cannot publish {ref.key}, it is not in {self.url}; run the product again"
            ) from None
        return self.location(path)

    def write(self, path: str, data: bytes) -> None:
        """See `ArtifactStore.write`."""
        self._put(check_path(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """See `ArtifactStore.create`. S3 answers 409 where two creators meet; the put is then repeated."""
        check_path(path)
        token = uuid.uuid4().hex
        for attempt in range(_CREATE_ATTEMPTS):
            try:
                self._put(path, data, _EXISTS | _CONFLICT, token=token, IfNoneMatch="*")
            except _Refused as refused:
                if refused.code in _EXISTS:
                    # boto3 repeats a put whose answer was lost: what is "already there" may be ours.
                    head = self._head(path)
                    return head is not None and head.get("Metadata", {}).get("created-by") == token
                time.sleep(0.02 * 2**attempt)
            else:
                return True
        raise StorageUnavailable(
            f"{self.url}/{path}: other writers kept creating it at the same time; try again later"
        )

    def read(self, path: str) -> bytes:
        """See `ArtifactStore.read`. Raises BlobCorrupt where they do not match their stored hash."""
        data, stored = self._get(check_path(path))
        if stored and hashlib.sha256(data).hexdigest() != stored:
            raise BlobCorrupt(
                f"{self.location(path)}: the bytes do not match their hash; run the product again"
            )
        return data

    def exists(self, path: str) -> bool:
        """See `ArtifactStore.exists`."""
        return self._head(check_path(path)) is not None

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `ArtifactStore.list`."""
        folder = f"{check_path(prefix.rstrip('/'))}/" if prefix else ""
        blobs = f"{self._root}{BLOB_FOLDER}/"
        start: dict[str, Any] = {}
        while True:
            page = self._call("list_objects_v2", folder, Prefix=self._root + folder, **start)
            keys = [str(item["Key"]) for item in page.get("Contents", [])]
            readable = [key for key in keys if not key.startswith(blobs) and not key.endswith("/")]
            yield from (key[len(self._root) :] for key in readable)
            if not keys or not page.get("IsTruncated"):
                return
            # StartAfter instead of continuation tokens lets the listing step over all blobs at once
            # ("0" is the character after "/"), of which there are many more than readable paths.
            start = {"StartAfter": f"{blobs[:-1]}0" if keys[-1].startswith(blobs) else keys[-1]}

    def delete(self, path: str) -> None:
        """See `ArtifactStore.delete`."""
        self._call("delete_object", path, Key=self._root + check_path(path))

    def location(self, path: str) -> str:
        """`s3://bucket/prefix/path`."""
        return f"{self.url}/{check_path(path)}"

    # -- how -------------------------------------------------------------------------------------------------

    def _put(
        self,
        key: str,
        data: bytes,
        expected: frozenset[str] = frozenset(),
        *,
        token: str = "",
        **conditions: str,
    ) -> None:
        digest = hashlib.sha256(data)
        kind = _CONTENT_TYPES.get(key.rpartition(".")[2].lower(), "application/octet-stream")
        self._call(
            "put_object",
            key,
            expected,
            Key=self._root + key,
            Body=data,
            ContentType=kind,
            ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
            Metadata={"sha256": digest.hexdigest()} | ({"created-by": token} if token else {}),
            **conditions,
        )

    def _get(self, key: str) -> tuple[bytes, str]:
        """The bytes and the hash stored with them. boto3 repeats requests, but not bodies that break off."""
        for _ in range(_GET_ATTEMPTS):
            try:
                answer = self._call("get_object", key, _MISSING, Key=self._root + key)
            except _Refused:
                raise BlobMissing(f"{key}: not in {self.url}; run the product again to make it") from None
            # Not `with answer["Body"] as body`: that gives the raw stream, which misses a missing end.
            with contextlib.suppress(BotoCoreError, OSError), contextlib.closing(answer["Body"]) as body:
                return body.read(), _stored_sha256(answer)
        raise self._unavailable("get_object", key, "the answer breaks off each time; check the network")

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return self._call("head_object", key, _MISSING, Key=self._root + key)
        except _Refused:
            return None

    def _call(
        self, operation: str, name: str, expected: frozenset[str] = frozenset(), **arguments: Any
    ) -> dict[str, Any]:
        """One S3 request.

        name: the path or blob it is about, for errors. Raises _Refused for the error codes in `expected`,
        about which the caller decides, and StorageUnavailable for everything else.
        """
        failure: StorageError | _Refused
        try:
            answer: dict[str, Any] = getattr(self._s3(), operation)(Bucket=self._bucket, **arguments)
            return answer
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            if code in expected:
                failure = _Refused(code)
            else:
                failure = self._unavailable(operation, name, _WAY_OUT.get(code, f"S3 answered {code[:60]}"))
        except NoCredentialsError:
            failure = self._unavailable(
                operation, name, "no S3 credentials; set them in the environment or the S3 resource"
            )
        except (BotoCoreError, OSError) as error:
            kind = type(error).__name__
            failure = self._unavailable(
                operation, name, f"no answer from S3 ({kind}); check network and endpoint"
            )
        # Raised outside the handlers, so that the botocore error hangs on it neither as cause nor as context.
        raise failure

    def _unavailable(self, operation: str, name: str, reason: str) -> StorageUnavailable:
        return StorageUnavailable(f"{self.url}/{name} ({operation}): {reason}")

    def _s3(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
            return self._client


def _stored_sha256(answer: dict[str, Any]) -> str:
    return str(answer.get("Metadata", {}).get("sha256", ""))
