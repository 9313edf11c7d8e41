"""Budget alerts as Slack messages, through an incoming webhook.

A channel that does not answer must never hold up what spends the money: one message takes a few seconds at
most, whatever the server does, and what goes wrong is logged, not raised. Whoever knows the webhook's URL may
post to the channel, so it appears nowhere. That is why this goes through the standard library: httpx writes
the URL of each request, and the headers of each answer, to the log.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trellis_pipeline.costs.budgets import ScopeName
from trellis_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from trellis_pipeline.costs.alerts import BudgetAlert

logger = logging.getLogger(__name__)

# A cap per product is near the price of one: every second product would come to 50 % of it.
POSTED: tuple[ScopeName, ...] = ("total", "day", "catalog", "run")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SANE = re.compile(r"[!-~]+")  # printable ASCII without spaces


class SlackAlerts:
    """Posts alerts to one incoming webhook; give the object to `Ledger.open` as `on_alert`."""

    def __init__(
        self, webhook_url: str, *, scopes: tuple[ScopeName, ...] = POSTED, timeout_seconds: float = 5.0
    ) -> None:
        """scopes: alerts of other scopes are left out. timeout_seconds: for one message, all in all.

        Raises ConfigError, without repeating it, for a URL that is not https (http is taken on loopback).
        """
        try:
            url = urlsplit(webhook_url)
            host, port = url.hostname or "", url.port
        except (ValueError, AttributeError):
            url, host, port = urlsplit(""), "", None
        secure = host and url.scheme == "https"
        if not (secure or (url.scheme == "http" and host in _LOOPBACK)) or not _SANE.fullmatch(webhook_url):
            raise ConfigError("the Slack webhook must be an https:// URL, as Slack shows it; it is not used")
        self._connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._port = host, port
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._scopes = scopes
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"SlackAlerts({self._host!r})"

    def __call__(self, alert: BudgetAlert) -> None:
        """Post one alert, or log why it could not be posted. Never raises."""
        if alert.state.scope not in self._scopes:
            return
        # Timeouts of sockets begin anew with every byte; a thread that is no longer waited for does not.
        posting = threading.Thread(target=self._post, args=(str(alert),), name="slack-alert", daemon=True)
        posting.start()
        posting.join(self._timeout_seconds)
        if posting.is_alive():
            logger.warning(
                "a budget alert was not posted to Slack: no answer in %g seconds", self._timeout_seconds
            )

    def _post(self, message: str) -> None:
        body = json.dumps({"text": f"trellis-pipeline: {_escaped(message)}"}).encode()
        connection = self._connect(self._host, self._port, timeout=self._timeout_seconds)
        try:
            connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
        except Exception as error:  # noqa: BLE001 - whatever a network can do
            logger.warning("a budget alert was not posted to Slack: %s", type(error).__name__)
            return
        finally:
            connection.close()
        if status != 200:
            # A webhook that was withdrawn answers 404 or 410; a redirect is not followed.
            logger.warning("a budget alert was not posted to Slack: it answered %d", status)


def _escaped(message: str) -> str:
    """Slack reads these three as control characters (api.slack.com, "Formatting text")."""
    return message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
