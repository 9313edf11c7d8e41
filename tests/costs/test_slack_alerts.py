"""Alerts in a Slack channel: what is posted, and that no channel ever holds up or betrays anything."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trellis_pipeline.costs.alerts import BudgetAlert
from trellis_pipeline.costs.budgets import Budgets, ScopeState, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.slack import SlackAlerts
from trellis_pipeline.errors import ConfigError

SECRET = "T0-hunter2sentinel"
HALF = BudgetAlert(ScopeState("catalog", "shop", Decimal(10), Decimal(4), Decimal(1)), 50)


@contextmanager
def channel(answer=lambda handler: handler.send_response(200)):
    """A webhook on loopback. Yields its URL and the list of bodies it got."""
    bodies = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            try:
                answer(self)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except ConnectionError:
                pass

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ended = ended
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/services/{SECRET}", bodies
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def drip(handler):
    """Header by header, for as long as anybody listens: no timeout between two bytes ever ends this."""
    handler.send_response(200)
    while not handler.server.ended.wait(0.05):
        handler.send_header("X-More", "to come")
        handler.flush_headers()


def redirect(handler):
    handler.send_response(302)
    handler.send_header("Location", f"/elsewhere/{SECRET}")


def hang_up(handler):
    handler.connection.close()
    raise ConnectionError


def test_an_alert_becomes_one_message_in_the_channel():
    with channel() as (url, bodies):
        SlackAlerts(url)(HALF)
    ((path, body),) = bodies
    assert path.endswith(SECRET)
    assert json.loads(body) == {
        "text": "trellis-pipeline: 50 % of a budget is used: "
        "catalog shop: cap $10.00, settled $4.00, reserved $1.00, left $5.00"
    }


def test_a_name_cannot_mention_the_whole_channel():
    state = ScopeState("run", "<!channel> & co", Decimal(1), Decimal(1), Decimal(0))
    with channel() as (url, bodies):
        SlackAlerts(url)(BudgetAlert(state, 100))
    assert "&lt;!channel&gt; &amp; co" in json.loads(bodies[0][1])["text"]


def test_products_are_left_out_unless_they_are_asked_for():
    alert = BudgetAlert(ScopeState("product", "shop/A", Decimal(1), Decimal(1), Decimal(0)), 100)
    with channel() as (url, bodies):
        SlackAlerts(url)(alert)
        assert bodies == []
        SlackAlerts(url, scopes=("product",))(alert)
        assert len(bodies) == 1


def test_a_ledger_posts_and_goes_on(sqlite_url):
    scope = SpendScope("shop", "A", "run-1", "runware", "m", "1024", "key")
    with channel() as (url, bodies), Ledger.open(sqlite_url, on_alert=SlackAlerts(url)) as ledger:
        ledger.reserve(Decimal(1), scope, Budgets(total_usd=Decimal(2)))
        ledger.reserve(Decimal("0.1"), scope, Budgets(total_usd=Decimal(2)))
    assert len(bodies) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda handler: handler.send_response(404), "404"),
        (lambda handler: handler.send_response(500), "500"),
        (redirect, "302"),
        (hang_up, "RemoteDisconnected|ConnectionResetError"),
        (drip, "no answer in 0.3 seconds"),
    ],
)
def test_a_channel_that_fails_is_logged_soon_and_its_address_never(answer, words, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    with channel(answer) as (url, bodies):
        started = time.monotonic()
        SlackAlerts(url, timeout_seconds=0.3 if answer is drip else 20)(HALF)
        assert time.monotonic() - started < 10
        assert len(bodies) == 1  # a redirect is not followed, a failure not repeated
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any(word in warning.getMessage() for word in words.split("|"))
    printed = capsys.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err


def test_a_channel_that_is_not_there_is_logged_too(caplog):
    caplog.set_level(logging.DEBUG)
    with channel() as (url, _):
        pass
    SlackAlerts(url)(HALF)
    assert "ConnectionRefusedError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "bad",
    [
        "",
        SECRET,
        f"http://example.com/{SECRET}",
        f"ftp://127.0.0.1/{SECRET}",
        f"https:///{SECRET}",
        f"https://[::1/{SECRET}",
        f"https://exa mple.com/{SECRET}",
        f"https://h:99999/{SECRET}",
        f"https://hooks.slack.com/{SECRET}\r\nX-Evil: 1",
        f"https://hooks.slack.com/{SECRET}é",
    ],
)
def test_a_webhook_that_cannot_work_is_refused_without_repeating_it(bad):
    with pytest.raises(ConfigError, match="https://") as caught:
        SlackAlerts(bad)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_address_does_not_show_in_a_repr():
    assert SECRET not in repr(SlackAlerts(f"https://hooks.slack.com/services/{SECRET}"))
