"""The endpoint in the open: the right call wakes somebody once, and no other call does anything at all."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from trellis_pipeline.costs.budgets import Budgets, SpendScope
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import intents
from trellis_pipeline.errors import ConfigError
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.webhook_app import MAX_BODY_BYTES, build_webhook_app, webhook_server
from trellis_pipeline.purchasing.webhooks import check_public_url, claims_news, new_token, note_callback

PUBLIC = "https://hooks.example.com"


@dataclass
class Endpoint:
    base_url: str
    client: httpx.Client

    def post(self, task, token=None, body=None, **kinds):
        body = {"taskType": "3dInference", "taskUUID": task, "status": "success"} if body is None else body
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **kinds}
        params = {} if token is None else {"token": token}
        url = f"{self.base_url}/runware/{task}"
        return self.client.post(url, params=params, content=content, headers=headers)

    def health(self):
        return self.client.get(f"{self.base_url}/healthz")


def new_client():
    # Loading certificates takes longer than most of these tests, and nothing here speaks TLS.
    return httpx.Client(trust_env=False, verify=False, timeout=120)


@contextmanager
def serving(ledger) -> Iterator[Endpoint]:
    """The endpoint as it is served, on a free port of this machine."""
    server = webhook_server(build_webhook_app(ledger))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            # The socket listens already, so a call that comes too early only waits.
            with new_client() as client:
                yield Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", client)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """A ledger and its endpoint for many examples."""
    with Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('books') / 'ledger.db'}") as ledger:
        begin(ledger)
        with serving(ledger) as endpoint:
            yield ledger, endpoint


@pytest.fixture
def endpoint(ledger):
    with serving(ledger) as endpoint:
        yield endpoint


def begin(ledger, sku="CHAIR-7", token=None):
    """An intent as a run writes it before it hands the task in."""
    scope = SpendScope("shop", sku, "run-1", "runware", "trellis-2", "1024", f"key-{sku}", 1)
    token = token or new_token(PUBLIC)
    intent = Journal(ledger).begin(Decimal("0.10"), scope, Budgets(), after=None, token_sha256=token.sha256)
    return intent.task_uuid, token.secret


def row(ledger, task):
    with ledger.reading() as connection:
        return connection.execute(select(intents).where(intents.c.task_uuid == task)).one()


# -- the right call --------------------------------------------------------------------------------------


def test_a_call_with_the_right_token_is_noted_whatever_shape_its_body_has(ledger, endpoint):
    for number, wrap in enumerate(
        (
            lambda item: item,
            lambda item: {"data": [item]},
            lambda item: {"data": item},
            lambda item: {"errors": [{**item, "code": "timeoutProvider", "status": "error"}]},
            lambda item: {"data": [], "errors": [{"code": "inferenceError", "message": "it failed"}]},
        )
    ):
        task, token = begin(ledger, f"CHAIR-{number}")
        item = {"taskType": "3dInference", "taskUUID": task, "status": "success"}
        assert endpoint.post(task, token, wrap(item)).status_code == 200
        noted = row(ledger, task)
        assert noted.called_back_at is not None
        assert noted.token_used_at == noted.called_back_at


def test_a_call_that_comes_before_the_submit_is_acknowledged_is_noted(ledger, endpoint):
    task, token = begin(ledger)
    assert row(ledger, task).submitted_at is None
    assert endpoint.post(task, token).status_code == 200
    assert row(ledger, task).called_back_at is not None


def test_the_token_is_kept_only_as_a_hash(ledger, endpoint):
    task, token = begin(ledger)
    endpoint.post(task, token)
    assert token not in str(row(ledger, task)._asdict())
    assert len(token) >= 22  # 128 bits in base 64


def test_ten_replays_have_no_effect_and_are_told_to_stop(ledger, endpoint):
    task, token = begin(ledger)
    endpoint.post(task, token)
    first = row(ledger, task)
    answers = {endpoint.post(task, token).status_code for _ in range(10)}
    assert answers == {200}
    assert row(ledger, task) == first


def test_of_many_calls_at_once_exactly_one_is_news(ledger):
    task, token = begin(ledger)
    told = []
    threads = [
        threading.Thread(target=lambda: told.append(note_callback(ledger, task, token))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == ["known"] * 15 + ["news"]


def test_progress_is_no_news_and_leaves_the_token_for_the_result(ledger, endpoint):
    task, token = begin(ledger)
    assert endpoint.post(task, token, {"taskUUID": task, "status": "processing"}).status_code == 200
    assert row(ledger, task).called_back_at is None
    endpoint.post(task, token)
    assert row(ledger, task).called_back_at is not None


def test_a_call_for_a_task_that_is_over_changes_nothing(ledger, endpoint):
    task, token = begin(ledger)
    journal = Journal(ledger)
    reservation = ledger.find(task)
    ledger.release(reservation, "failed", also=journal.closing(journal.find(task), "failed"))
    assert endpoint.post(task, token).status_code == 200
    assert row(ledger, task).called_back_at is None


def test_an_item_about_another_task_is_no_news_for_this_one(ledger, endpoint):
    task, token = begin(ledger)
    other, _ = begin(ledger, "TABLE-2")
    assert endpoint.post(task, token, {"data": [{"taskUUID": other}]}).status_code == 200
    assert row(ledger, task).called_back_at is None
    assert row(ledger, other).called_back_at is None


# -- all other calls -------------------------------------------------------------------------------------


def test_forged_calls_all_look_alike_and_do_nothing(ledger, endpoint):
    task, token = begin(ledger)
    other, other_token = begin(ledger, "TABLE-2")
    no_hook = Journal(ledger).begin(
        Decimal("0.10"),
        SpendScope("shop", "LAMP", "run-1", "runware", "trellis-2", "1024", "key-lamp", 1),
        Budgets(),
        after=None,
    )
    tries = [
        (task, None),
        (task, ""),
        (task, token[:-1]),
        (task, token + "A"),
        (task, other_token),
        (other, token),
        ("00000000-0000-4000-8000-000000000000", token),
        ("no-uuid", token),
        (no_hook.task_uuid, ""),
        (no_hook.task_uuid, token),
        # The stored hash itself opens nothing.
        (task, row(ledger, task).token_sha256),
    ]
    answers = [endpoint.post(*attempt) for attempt in tries]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1
    for uuid in (task, other, no_hook.task_uuid):
        assert row(ledger, uuid).called_back_at is None
    assert endpoint.post(task, token).status_code == 200


def test_two_tokens_in_one_url_are_none(ledger, endpoint):
    task, token = begin(ledger)
    url = f"{endpoint.base_url}/runware/{task}?token={token}&token={token}"
    assert endpoint.client.post(url, json={"status": "success"}).status_code == 404


def test_other_methods_and_paths_do_nothing_and_no_redirect_repeats_the_token(ledger, endpoint):
    task, token = begin(ledger)
    path = f"{endpoint.base_url}/runware/{task}"
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        assert endpoint.client.request(method, f"{path}?token={token}").status_code == 405
    for wrong in (f"{path}/", f"{endpoint.base_url}//runware/{task}", f"{endpoint.base_url}/"):
        answer = endpoint.client.post(f"{wrong}?token={token}", json={})
        assert answer.status_code == 404
        assert token not in str(answer.headers)
    assert row(ledger, task).called_back_at is None


@pytest.mark.parametrize(
    "kind",
    [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/problem+json",
        "text/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "nonsense",
        "",
        None,
    ],
)
def test_json_is_taken_whatever_its_content_type_says(lasting, kind):
    ledger, endpoint = lasting
    task, token = begin(ledger, f"TYPE {kind}")
    url = f"{endpoint.base_url}/runware/{task}?token={token}"
    headers = {} if kind is None else {"Content-Type": kind}
    body = json.dumps({"data": [{"taskUUID": task, "status": "success"}]}).encode()
    answer = endpoint.client.post(url, content=body, headers=headers)
    assert ("content-type" in answer.request.headers) is (kind is not None)
    assert (answer.status_code, answer.json()) == (200, {"status": "noted"})
    assert row(ledger, task).called_back_at is not None


def test_what_is_no_json_is_refused_whatever_its_content_type_says(ledger, endpoint):
    task, token = begin(ledger)
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        answer = endpoint.post(task, token, b"taskUUID=1&status=success", **{"Content-Type": kind})
        assert answer.status_code == 400
    large = b'{"x": "' + b"x" * MAX_BODY_BYTES + b'"}'
    assert endpoint.post(task, token, large, **{"Content-Type": "text/plain"}).status_code == 413
    assert row(ledger, task).called_back_at is None


def test_a_body_that_is_no_callback_is_refused_and_the_token_stays_good(ledger, endpoint):
    task, token = begin(ledger)
    for body in (b"", b"{", b"\xff\xfe", b"[" * 60_000, b"[]", b"7", b"null", b'"x"', b"NaN", b"1" * 5000):
        assert endpoint.post(task, token, body).status_code == 400, body[:20]
    assert row(ledger, task).called_back_at is None
    assert endpoint.post(task, token).status_code == 200


def test_a_hundred_megabytes_are_turned_away_without_being_read(ledger, endpoint):
    task, token = begin(ledger)
    sent = 0

    def pieces():
        nonlocal sent
        for _ in range(100):
            sent += 1_000_000
            yield b" " * 1_000_000

    url = f"{endpoint.base_url}/runware/{task}?token={token}"
    tracemalloc.start()
    try:
        # Chunked, so that no declared length gives it away.
        answer = endpoint.client.post(url, content=pieces(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # hung up on in the middle of sending, which is as good an answer
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent < 50_000_000
    assert peak < 20_000_000
    assert row(ledger, task).called_back_at is None
    assert endpoint.post(task, token, b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert endpoint.post(task, token).status_code == 200


def test_a_body_at_the_limit_is_still_taken(ledger, endpoint):
    task, token = begin(ledger)
    body = json.dumps({"taskUUID": task, "status": "success"}).encode().ljust(MAX_BODY_BYTES)
    assert endpoint.post(task, token, body).status_code == 200
    assert row(ledger, task).called_back_at is not None


def test_a_body_that_never_ends_is_not_waited_for(lasting):
    ledger, endpoint = lasting
    task, token = begin(ledger, "SLOW")
    host, port = endpoint.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as line:
        line.sendall(
            f"POST /runware/{task}?token={token} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            'Content-Length: 100\r\n\r\n{"status":'.encode()
        )
        assert line.recv(1000).startswith(b"HTTP/1.1 408")
    assert row(ledger, task).called_back_at is None


def test_an_address_in_a_body_is_never_fetched(ledger, endpoint):
    task, token = begin(ledger)
    fetched = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_POST = do_PUT = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Trap) as trap:
        threading.Thread(target=trap.serve_forever).start()
        bait = f"http://127.0.0.1:{trap.server_port}/bait.glb"
        body = {
            "taskUUID": task,
            "status": "success",
            "cost": 1_000_000,
            "modelURL": bait,
            "webhookURL": bait,
            "outputs": {"files": [{"uuid": task, "url": bait}]},
        }
        assert endpoint.post(task, token, body).status_code == 200
        assert endpoint.post(task, "wrong", body).status_code == 404
        trap.shutdown()
    assert fetched == []
    assert bait not in str(row(ledger, task)._asdict())
    assert ledger.find(task).amount == Decimal("0.10")


# -- when things are broken ------------------------------------------------------------------------------


def test_without_its_database_it_asks_to_be_called_again(tmp_path):
    path = tmp_path / "books" / "ledger.db"
    with Ledger.open(f"sqlite:///{path}") as ledger, serving(ledger) as endpoint:
        task, token = begin(ledger)
        assert endpoint.health().status_code == 200
        ledger.close()
        hidden = path.parent.rename(tmp_path / "hidden")
        answer = endpoint.post(task, token)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert endpoint.health().status_code == 503
        ledger.close()
        hidden.rename(path.parent)
        assert endpoint.post(task, token).status_code == 200
        assert row(ledger, task).called_back_at is not None


def test_a_locked_database_is_answered_before_the_provider_gives_up(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Ledger.open(url) as ledger, Ledger.open(url) as other, serving(ledger) as endpoint:
        task, token = begin(ledger)
        with other.writing():
            answer = endpoint.post(task, token)
            assert answer.status_code == 503
            # Forged calls do not write, so they neither wait nor keep others waiting.
            assert endpoint.post(task, "forged").status_code == 404
        assert answer.elapsed.total_seconds() < 5
        assert endpoint.post(task, token).status_code == 200
        assert row(ledger, task).called_back_at is not None


def test_no_log_line_ever_holds_a_token_or_a_password(postgres_url, caplog):
    caplog.set_level(logging.DEBUG)
    with Ledger.open(postgres_url) as ledger, serving(ledger) as endpoint:
        task, token = begin(ledger)
        endpoint.post(task, token)
        endpoint.post(task, token)
        endpoint.post(task, "wrong-" + token)
        endpoint.post(f"{task}%0d%0aforged line", token)
        endpoint.post(task, token, b"{" + token.encode())
    ours = [r for r in caplog.records if r.name.startswith(("trellis_pipeline", "uvicorn", "starlette"))]
    assert ours
    lines = "\n".join(record.getMessage() + (record.exc_text or "") for record in ours)
    assert token not in lines
    assert "forged" not in lines
    assert f"callback for task {task}: news" in lines


def test_answers_tell_browsers_and_caches_to_keep_nothing(endpoint):
    for answer in (endpoint.post("x"), endpoint.health()):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_as_a_process_it_says_where_it_listens_and_ends_when_told(tmp_path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    code = (
        "import logging, sys; logging.basicConfig(level=logging.DEBUG);"
        "from trellis_pipeline.purchasing.webhook_app import serve_webhooks;"
        "serve_webhooks(sys.argv[1], '127.0.0.1', 0, ready=lambda address: print(address, flush=True))"
    )
    with Ledger.open(url) as ledger:
        task, token = begin(ledger)
        process = subprocess.Popen(
            [sys.executable, "-c", code, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        try:
            with new_client() as client:
                endpoint = Endpoint(process.stdout.readline().strip(), client)
                assert endpoint.post(task, token).status_code == 200
            assert row(ledger, task).called_back_at is not None
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=120)
    assert token not in out + err
    assert "Traceback" not in err


def test_the_command_writes_one_line_for_each_call_and_no_token(tmp_path):
    (tmp_path / "trellis.toml").write_text("")
    code = "from trellis_pipeline.cli import main; main()"
    with Ledger.open(f"sqlite:///{tmp_path / '.trellis' / 'ledger.sqlite'}") as ledger:
        task, token = begin(ledger)
        process = subprocess.Popen(
            [sys.executable, "-c", code, "webhooks", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if not k.startswith("TRELLIS_")},
        )
        try:
            with new_client() as client:
                endpoint = Endpoint(process.stderr.readline().split()[-1], client)
                assert endpoint.post(task, token).status_code == 200
                assert endpoint.post(task, f"{token}x").status_code == 404
        finally:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    taken, forged = err.splitlines()
    assert taken.endswith(f"INFO callback for task {task}: news")
    assert forged.endswith("WARNING callback refused: unknown task or wrong token")
    assert token not in out + err


def test_a_port_that_is_taken_is_named(tmp_path):
    from trellis_pipeline.purchasing.webhook_app import serve_webhooks

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1 port {port}"):
            serve_webhooks(f"sqlite:///{tmp_path / 'ledger.db'}", "127.0.0.1", port)


# -- hostile input ---------------------------------------------------------------------------------------


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "errors", "error", "taskUUID", "status", "outputs"])
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
BODIES = st.binary(max_size=300) | JSONISH.map(lambda value: json.dumps(value).encode())


@settings(max_examples=60, deadline=None)
@given(body=BODIES)
def test_no_body_brings_it_down(lasting, body):
    ledger, endpoint = lasting
    token = new_token(PUBLIC)
    with ledger.writing() as connection:
        connection.execute(
            update(intents)
            .where(intents.c.sku == "CHAIR-7")
            .values(token_sha256=token.sha256, token_used_at=None)
        )
        task = connection.execute(select(intents.c.task_uuid).where(intents.c.sku == "CHAIR-7")).scalar_one()
    assert endpoint.post(task, token.secret, body).status_code in (200, 400)


@settings(max_examples=60, deadline=None)
@given(path=st.binary(max_size=80), query=st.binary(max_size=80))
def test_no_path_and_no_query_brings_it_down_or_finds_a_task(lasting, path, query):
    _, endpoint = lasting
    quoted = ["".join(f"%{byte:02x}" for byte in part) for part in (path, query)]
    url = f"{endpoint.base_url}/runware/{quoted[0]}?token={quoted[1]}"
    assert endpoint.client.post(url, json={"status": "success"}).status_code == 404


@settings(max_examples=100, deadline=None)
@given(task=st.text(max_size=60), token=st.text(max_size=300))
def test_no_strings_open_anything(lasting, task, token):
    ledger, _ = lasting
    with ledger.reading() as connection:
        real = connection.execute(select(intents.c.task_uuid).where(intents.c.sku == "CHAIR-7")).scalar_one()
    assert note_callback(ledger, task, token) == "unknown"
    assert note_callback(ledger, real, token) == "unknown"


@settings(max_examples=100, deadline=None)
@given(body=JSONISH)
def test_a_hint_is_yes_no_or_nothing(body):
    assert claims_news(body, "x") in (True, False, None)


# -- addresses -------------------------------------------------------------------------------------------


def test_the_callback_address_carries_task_and_token_and_hides_the_token_when_shown():
    token = new_token("https://hooks.example.com/trellis/")
    assert (
        token.url("some-task") == f"https://hooks.example.com/trellis/runware/some-task?token={token.secret}"
    )
    assert token.secret not in repr(token)
    assert new_token(PUBLIC).secret != new_token(PUBLIC).secret


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "http://hooks.example.com",
        "ftp://hooks.example.com",
        "https://",
        "https://user:secret@hooks.example.com",
        "https://hooks.example.com?key=secret",
        "https://hooks.example.com/#x",
        "https://hooks.example.com:99999",
        "https://hooks.example.com\n.evil.example",
        "https://[::1",
    ],
)
def test_an_address_that_cannot_be_called_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match=r"webhooks\.public_url") as raised:
        check_public_url(url)
    assert "secret" not in str(raised.value)


def test_plain_http_is_for_this_machine_only():
    assert check_public_url("http://127.0.0.1:8790/") == "http://127.0.0.1:8790"
    assert check_public_url("http://[::1]:8790") == "http://[::1]:8790"
