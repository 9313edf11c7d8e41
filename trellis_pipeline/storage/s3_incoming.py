"""What somebody else uploaded becomes a blob, and is never held in memory as a whole.

A provider that is given a presigned address brings a model to the bucket by itself. What arrives is not
believed: first its size and type are looked at, then its beginning, then all of it streams past once for its
hash. The copy to the blob's name is made inside S3. Every step asks for the very object that was looked at,
by its ETag, because the address is good for another upload.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError

from trellis_pipeline.errors import StorageError, StorageUnavailable
from trellis_pipeline.storage.s3 import S3Store, content_type
from trellis_pipeline.storage.s3_calls import EXISTS, MISSING, Refused
from trellis_pipeline.storage.store import BlobRef, check_path

Check = Callable[[Callable[[int, int], bytes], int], object]
"""Called with `read(offset, length)` and the object's size; raises what is wrong with it."""

_SOMETHING_ELSE = re.compile(r"(text|image|audio|video)/|application/(json|xml)\b")
_GONE_OR_CHANGED = MISSING | EXISTS
_HEAD_BYTES = 65_536
_PIECE_BYTES = 2**20


class Incoming:
    """One object of a store's bucket that somebody else writes. path: where, below the store's prefix."""

    def __init__(self, store: S3Store, path: str) -> None:
        self._store = store
        self._calls = store.calls
        self._path = check_path(path)
        self._key = store.calls.root + path
        self._looked_at = ""

    def put_url(self, seconds: int) -> str:
        """An address for a PUT, good for so many seconds. It is a permission: not for logs."""
        return self._calls.signed_url("put_object", self._path, seconds)

    def adopt(self, suffix: str, most_bytes: int, check: Check) -> BlobRef | None:
        """Make what was uploaded a blob of the store.

        None while nothing is there, while it is replaced under our eyes, and where the same object was looked
        at before and was not good. Raises StorageError where it has more than `most_bytes` or says that it is
        something else, what `check` raises, and StorageUnavailable.
        """
        found = self._calls.head(self._path)
        etag = str(found.get("ETag", "")) if found else ""
        if not found or (etag and etag == self._looked_at):
            return None
        self._looked_at = etag
        size, kind = int(found.get("ContentLength", 0)), str(found.get("ContentType", "")).lower()
        if size > most_bytes:
            raise StorageError(f"{self._path}: the upload has {size} bytes; at most {most_bytes} are taken")
        if _SOMETHING_ELSE.match(kind):
            raise StorageError(f"{self._path}: the upload says that it is {kind[:60]!r}, not a {suffix} file")
        try:
            check(self._reader(etag, size), size)
            ref = BlobRef(self._sha256(etag, size), size, suffix)
            if not self._store.holds(ref) and not self._copied(ref, etag):
                return None
        except Refused:  # not there any more, or not the object that was looked at
            return None
        except StorageUnavailable:
            self._looked_at = ""  # nothing was found out about it
            raise
        return ref

    def _reader(self, etag: str, size: int) -> Callable[[int, int], bytes]:
        """Reads by offset and length; the beginning, where most of what is asked for stands, only once."""
        head = self._range(etag, 0, min(size, _HEAD_BYTES)) if size else b""

        def read(offset: int, length: int) -> bytes:
            if offset + length <= len(head):
                return head[offset : offset + length]
            return self._range(etag, offset, length) if length else b""

        return read

    def _range(self, etag: str, offset: int, length: int) -> bytes:
        pieces: list[bytes] = []
        self._stream(etag, pieces.append, Range=f"bytes={offset}-{offset + length - 1}")
        return b"".join(pieces)[:length]

    def _sha256(self, etag: str, size: int) -> str:
        digest, seen = hashlib.sha256(), 0

        def take(piece: bytes) -> None:
            nonlocal seen
            digest.update(piece)
            seen += len(piece)

        self._stream(etag, take)
        if seen != size:
            raise self._calls.unavailable("get_object", self._path, f"{seen} of {size} bytes came")
        return digest.hexdigest()

    def _stream(self, etag: str, take: Callable[[bytes], object], **more: Any) -> None:
        key = {"Key": self._key} | ({"IfMatch": etag} if etag else {})
        answer = self._calls.call("get_object", self._path, _GONE_OR_CHANGED, **key, **more)
        try:
            with contextlib.closing(answer["Body"]) as body:
                for piece in body.iter_chunks(_PIECE_BYTES):
                    take(piece)
            return
        except (BotoCoreError, OSError) as error:
            failure = self._calls.unavailable(
                "get_object", self._path, f"the answer broke off ({type(error).__name__}); check the network"
            )
        # Outside the handler, as in `S3Calls.call`.
        raise failure

    def _copied(self, ref: BlobRef, etag: str) -> bool:
        self._calls.call(
            "copy_object",
            ref.key,
            _GONE_OR_CHANGED,
            Key=self._calls.root + ref.key,
            CopySource={"Bucket": self._calls.bucket, "Key": self._key},
            MetadataDirective="REPLACE",
            ContentType=content_type(ref.key),
            Metadata={"sha256": ref.sha256},
            **({"CopySourceIfMatch": etag} if etag else {}),
        )
        # Some servers that speak S3 take no notice of the condition.
        now = self._calls.head(self._path)
        if now and now.get("ETag", "") == etag:
            return True
        self._calls.call("delete_object", ref.key, Key=self._calls.root + ref.key)
        return False
