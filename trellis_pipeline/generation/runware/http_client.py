"""The HTTP client that everything here uses: nothing from the environment, and no URL in any log.

httpx logs every URL it requests, and ours are permissions: whoever holds one may read the file. A filter on
its loggers cuts the query off before any handler sees the record. It changes nothing else.
"""

from __future__ import annotations

import logging
import ssl
from functools import cache
from typing import Any

import httpx

from trellis_pipeline.imagery.fetch_limits import redact_url


class _WithoutQueries(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                redact_url(str(arg)) if isinstance(arg, httpx.URL) else arg for arg in record.args
            )
        return True


class _NoHeaders(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        # httpcore's trace of an answer holds all its headers, and a Location is a link.
        return "headers" not in record.getMessage()


_FILTERS = (("httpx", _WithoutQueries()), ("httpcore.http11", _NoHeaders()), ("httpcore.http2", _NoHeaders()))


def make_http_client(**settings: Any) -> httpx.AsyncClient:
    """An httpx client. A proxy in the environment, or passwords in ~/.netrc, are nobody's decision here.

    settings: more of httpx.AsyncClient's.
    """
    _hide_urls_in_logs()
    return httpx.AsyncClient(trust_env=False, verify=_tls(), **settings)


@cache
def _tls() -> ssl.SSLContext:
    """Reading the authorities' certificates takes longer than many a call, so it is done once."""
    return httpx.create_ssl_context(trust_env=False)


def _hide_urls_in_logs() -> None:
    """Keep queries out of httpx's log records. Calling it again does nothing."""
    for name, rule in _FILTERS:
        logging.getLogger(name).addFilter(rule)
