"""Budget alerts as Slack messages, through an incoming webhook.

A channel that does not answer must never hold up what spends the money: one message takes a few seconds at
most, whatever the server does, and what goes wrong is logged, not raised. Whoever knows the webhook's URL may
post to the channel, so it appears nowhere: not in errors, and not in the line that httpx's client would log
about each request, which is why this goes through its transport.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from trellis_pipeline.costs.budgets import ScopeName
from trellis_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from trellis_pipeline.costs.alerts import BudgetAlert

logger = logging.getLogger(__name__)

# A cap per product is near the price of one: every second product would come to 50 % of it.
POSTED: tuple[ScopeName, ...] = ("total", "day", "catalog", "run")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SlackAlerts:
    """Posts alerts to one incoming webhook; give the object to `Ledger.open` as `on_alert`."""

    def __init__(
        self, webhook_url: str, *, scopes: tuple[ScopeName, ...] = POSTED, timeout_seconds: float = 5.0
    ) -> None:
        """scopes: alerts of other scopes are left out. timeout_seconds: for one message, all in all.

        Raises ConfigError, without repeating it, for a URL that is not https (http is taken on loopback).
        """
        import httpx

        try:
            url = httpx.URL(webhook_url)
        except (httpx.InvalidURL, ValueError, TypeError):
            url = httpx.URL("")
        if not url.host or (url.scheme != "https" and not (url.scheme == "http" and url.host in _LOOPBACK)):
            raise ConfigError("the Slack webhook must be an https:// URL, as Slack shows it; it is not used")
        self._url = url
        self._scopes = scopes
        self._timeout_seconds = timeout_seconds

    def __repr__(self) -> str:
        return f"SlackAlerts({self._url.host!r})"

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
        import httpx

        limits = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout_seconds)
        body = {"text": f"trellis-pipeline: {_escaped(message)}"}
        request = httpx.Request("POST", self._url, json=body, extensions={"timeout": limits})
        try:
            with httpx.HTTPTransport() as transport:
                response = transport.handle_request(request)
                response.close()
                status = response.status_code
        except Exception as error:  # noqa: BLE001 - whatever a network can do; its words may quote the URL
            logger.warning("a budget alert was not posted to Slack: %s", type(error).__name__)
            return
        if status != 200:
            # A webhook that was withdrawn answers 404 or 410; a redirect is not followed.
            logger.warning("a budget alert was not posted to Slack: it answered %d", status)


def _escaped(message: str) -> str:
    """Slack reads these three as control characters (api.slack.com, "Formatting text")."""
    return message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
