"""What a service is told when it starts. Plain values: reading settings is the caller's affair."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from trellis_pipeline.costs.money import checked
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.request import GenerationRequest

Price = Decimal | Callable[[GenerationRequest, float | None], Decimal]
"""USD for one result: fixed, or from its request and its generation seconds (None when only quoted)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """folder: holds the queue, the billing log and the files; one service at a time.

    api_key_hashes: sha256 (hex) of each key that is let in; with none, only loopback is served and any key is
    taken. price: None takes what the generator says that a result cost. credit_usd: what the accounts may
    spend together, None for no limit. concurrency: generations at once. max_queue: results that may wait.
    public_url: where clients reach this server, for links in webhooks and answers; empty takes it from each
    request. result_seconds: how long files are kept where a task sets no ttl. sync_seconds: how long a sync
    request is held open. allow_private_addresses: of input images, webhooks and upload endpoints.
    """

    folder: Path
    api_key_hashes: tuple[str, ...] = ()
    price: Price | None = None
    credit_usd: Decimal | None = None
    concurrency: int = 4
    max_queue: int = 10_000
    max_request_bytes: int = 64_000_000
    max_tasks: int = 100
    max_image_bytes: int = 50_000_000
    max_pixels: int = 64_000_000
    public_url: str = ""
    result_seconds: int = 7 * 24 * 3600
    sync_seconds: float = 120.0
    allow_private_addresses: bool = False
    delivery_attempts: int = 12
    host: str = "127.0.0.1"
    port: int = 8765

    def __post_init__(self) -> None:
        for text in self.api_key_hashes:
            if len(text) != 64 or set(text) - set("0123456789abcdef"):
                raise ConfigError(
                    "an API key of the service is given as its sha256 in 64 lower-case hex digits"
                )
        for name in ("concurrency", "max_queue", "max_request_bytes", "max_tasks", "result_seconds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"service {name} must be at least 1, not {getattr(self, name)}")

    @property
    def is_open(self) -> bool:
        """True when any key is taken."""
        return not self.api_key_hashes


def hash_api_key(key: str) -> str:
    """What stands in `api_key_hashes` for a key. Keys are long and random, so one sha256 is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def account_of(key: str, options: ServiceOptions) -> str | None:
    """The account that a key opens, None if it opens none. Every hash is compared, each in constant time."""
    if options.is_open:
        return "open"
    given = hash_api_key(key)
    found = [text for text in options.api_key_hashes if hmac.compare_digest(text, given)]
    return found[0] if found else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(options: ServiceOptions) -> None:
    """Raises ConfigError where a service without keys would be open to the network."""
    if options.is_open and not is_loopback(options.host):
        raise ConfigError(
            f"the service would listen on {options.host} for anybody: give it API keys (as sha256 hashes), "
            "or let it listen on 127.0.0.1"
        )


def price_of(options: ServiceOptions, request: GenerationRequest, seconds: float | None) -> Decimal | None:
    """USD for one result, to nine places; None where only the generator can say.

    Raises LedgerError where the price is no amount.
    """
    price = options.price
    usd = price(request, seconds) if callable(price) else price
    return None if usd is None else checked(usd, "the price of a result")
