"""Settings of everything that buys or sells: the provider, our own service, webhooks and budget alerts.

Secrets have no place in the settings file: the API key is RUNWARE_API_KEY in the environment, the Slack
address TRELLIS_ALERTS__SLACK_URL.
"""

from __future__ import annotations

import ipaddress
import re
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr

_STRICT = ConfigDict(frozen=True, extra="forbid")

Percent = Annotated[int, Field(ge=1, le=100)]


class RunwareSettings(BaseModel):
    """How models are bought from Runware, or from a server with the same API."""

    model_config = _STRICT
    base_url: str = "https://api.runware.ai/v1"
    delivery: Literal["async", "sync"] = "async"
    image_input: Literal["data_uri", "upload", "url"] = "data_uri"
    ttl_seconds: Annotated[int, Field(ge=60)] | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=1000)] = 32
    tasks_per_request: Annotated[int, Field(ge=1, le=100)] = 1
    polls_per_request: Annotated[int, Field(ge=1, le=1000)] = 50
    attempts: Annotated[int, Field(ge=1, le=50)] = 8
    task_seconds: Annotated[float, Field(gt=0)] = 1800.0
    download_seconds: Annotated[float, Field(gt=0)] = 300.0
    max_downloads: Annotated[int, Field(ge=1, le=100)] = 8
    max_model_bytes: Annotated[int, Field(ge=1_000)] = 500_000_000
    allowed_hosts: tuple[str, ...] = (".runware.ai",)
    upload_to_store: bool = False

    def client_options(self) -> dict[str, Any]:
        """What the client is told, as plain JSON-able data; None leaves its own default."""
        return self.model_dump(mode="json", exclude={"upload_to_store"}, exclude_none=True)


class ServiceSettings(BaseModel):
    """Our own server with the same API. api_key_hashes: sha256 of each key; none serves this machine only.

    price_usd: of each result; None takes what the generator costs. credit_usd: what clients may spend.
    """

    model_config = _STRICT
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8765
    api_key_hashes: tuple[str, ...] = ()
    price_usd: Annotated[Decimal, Field(ge=0)] | None = None
    credit_usd: Annotated[Decimal, Field(ge=0)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 1
    public_url: str = ""


class WebhookSettings(BaseModel):
    """Where the provider reaches our webhook endpoint; None is polling alone."""

    model_config = _STRICT
    public_url: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8790

    @pydantic.field_validator("public_url")
    @classmethod
    def _can_be_called(cls, url: str | None) -> str | None:
        return None if url is None else public_address(url)


def public_address(url: str) -> str:
    """The address of a webhook endpoint without its last slash.

    It may have a path, where a proxy serves the endpoint below one. Raises ValueError, which does not repeat
    it, unless it is https (plain http only to this machine), without user, query or fragment.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("is not a valid URL") from None
    loopback = host in {"127.0.0.1", "::1", "localhost"}
    # Looked for in the text: the parser drops line breaks, and finds no query behind a bare "?".
    plain = not re.search(r"[\s?#@\\]|[^!-~]", url)
    if not host or not plain or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise ValueError("must be like https://hooks.example.com: https, without user, query or fragment")
    return url.rstrip("/")


def is_of_this_network(url: str) -> bool:
    """Whether the host is this machine, or an address that means another machine in every network."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class AlertSettings(BaseModel):
    """When somebody is told that a budget goes to its end, and where besides the log."""

    model_config = _STRICT
    percents: tuple[Percent, ...] = (50, 80, 100)
    slack_url: SecretStr | None = None
