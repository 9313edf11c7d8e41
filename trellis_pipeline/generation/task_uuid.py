"""The name under which a purchase is known to the provider, the same in every process for all time.

The provider does the work for one UUID at most once. A random UUID would protect only as long as somebody
remembers it; one that is made from what is asked for protects even when every record of ours is lost.
"""

from __future__ import annotations

import hashlib
import uuid


def task_uuid(request_key: str, number: int) -> str:
    """A UUID for one purchase. request_key: see `request.request_key`; number: 1 for its first purchase.

    sha256 over both, cut to 128 bits, with the version and variant bits of a UUID v4 (RFC 9562 §5.4), which
    is the only version the API takes.
    """
    digest = hashlib.sha256(f"{request_key}/{number}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))
