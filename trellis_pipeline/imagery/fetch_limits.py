"""What fetching one photo may cost, and what messages may say of where it is.

Query strings are often signatures and user parts are passwords, so no message ever repeats one.
"""

from __future__ import annotations

from dataclasses import dataclass

from trellis_pipeline.errors import SourceImageError


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What fetching one photo may cost.

    max_bytes: of the file, also after any content encoding. timeout_seconds: for everything together,
    redirects included. allow_private_addresses: also permits plain http, for a server in your own network.
    allowed_hosts: if not empty, the only hosts to fetch from; ".example.com" means every subdomain.
    """

    max_bytes: int = 50_000_000
    timeout_seconds: float = 30.0
    max_redirects: int = 5
    allow_private_addresses: bool = False
    allowed_hosts: tuple[str, ...] = ()


def redact_url(url: str) -> str:
    """The location without user, password, query and fragment, fit for a message. Paths stay as they are."""
    scheme, separator, rest = url.partition(":")
    if separator and scheme.lower() == "data":
        return "data:…"
    if not rest.startswith("//"):
        return printable(url)
    authority, slash, path = rest[2:].partition("/")
    # Cut by hand: a URL too broken to parse may still carry a secret.
    for mark in "?#":
        authority, path = authority.partition(mark)[0], path.partition(mark)[0]
    return printable(f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}")


def printable(text: str) -> str:
    """The text without control characters, and not too much of it."""
    return "".join(c if c.isprintable() else "�" for c in text)[:500]


def too_large(what: str, limit: int, size: int | None = None) -> SourceImageError:
    """The error for a photo over `limit` bytes. size: its bytes, where known."""
    said = f"is {size / 1e6:.1f} MB" if size else "is too large"
    return SourceImageError(f"{what} {said}; the limit is {limit / 1e6:g} MB (imagery.max_bytes)")


def timed_out(name: str, limits: FetchLimits) -> SourceImageError:
    """The error for a transfer that took too long."""
    return SourceImageError(
        f"{name} did not arrive within {limits.timeout_seconds:g} s (imagery.timeout_seconds)"
    )
