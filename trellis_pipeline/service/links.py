"""Links to files: signed and dated, so that a link is a permission that ends.

HMAC-SHA256 over the file's name and the second at which the link dies, with a key that never leaves the
service's folder. Whoever holds the link may read the file, as with any presigned URL.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re

_EXPIRES = re.compile(r"[0-9]{1,12}")


def sign(secret: bytes, name: str, expires: int) -> str:
    """The signature of a link, 64 hex digits."""
    return hmac.new(secret, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()


def link(secret: bytes, base_url: str, name: str, expires: float) -> str:
    """A URL of the file `name` below `base_url`, good until `expires` (seconds since 1970)."""
    second = math.ceil(expires)
    return f"{base_url}/files/{name}?expires={second}&signature={sign(secret, name, second)}"


def is_good(secret: bytes, name: str, expires: str, signature: str) -> bool:
    """Whether we signed this. It may still have expired."""
    if not _EXPIRES.fullmatch(expires):
        return False
    expected = sign(secret, name, int(expires))
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass"))
