"""Which server sells the models: Runware itself, or another one with the same API.

The API is the same, the seller is not: a blockout from a server on this machine is no model from Runware, and
what one charges says nothing of the other's account. So the name under which requests are known, money is
booked and a model is signed says which server it was (ADR 0013).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.generation.wire_image import is_http_url

NAME = "runware"
RUNWARE_URL = "https://api.runware.ai/v1"

Origin = tuple[str, str, int]
"""Scheme, lower-case host, port."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def checked_url(base_url: str) -> str:
    """The endpoint without slashes at its end.

    Raises ConfigError where it is no absolute URL, says more than a URL should, or would let the API key
    travel in the open.
    """
    if not is_http_url(base_url):
        raise ConfigError(f"runware.base_url must be an absolute URL, for example {RUNWARE_URL}")
    parts = urlsplit(base_url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("runware.base_url takes no user, password, query or fragment")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError(
            "runware.base_url: plain http would show the API key to the network; use https, "
            "or a server on 127.0.0.1"
        )
    return base_url.rstrip("/?#")


def origin_of(base_url: str) -> Origin:
    """Two spellings of one server have one origin. A dot at the end of a host name says nothing more."""
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, str(parts.hostname).lower().rstrip("."), port


def seller_of(base_url: str) -> str:
    """`runware` where Runware itself is asked, `runware@host:port` elsewhere. Raises ConfigError."""
    origin = origin_of(checked_url(base_url))
    if origin == origin_of(RUNWARE_URL):
        return NAME
    _, host, port = origin
    return f"{NAME}@[{host}]:{port}" if ":" in host else f"{NAME}@{host}:{port}"


def options_for(name: str) -> str:
    """What to give on the command line for the generator of this name: any generator's, or a seller's."""
    kind, _, server = name.partition("@")
    if kind != NAME:
        return f"--generator {name}"
    host = server.rpartition(":")[0].strip("[]")
    scheme = "http" if host in _LOOPBACK else "https"
    return f"--generator {NAME} --base-url {f'{scheme}://{server}/v1' if server else RUNWARE_URL}"
