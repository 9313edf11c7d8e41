"""`serve` says where it can be reached once it can be reached, and not before."""

import contextlib
import io
import logging
import os
import re
import signal
import socket
import threading
import time

import httpx
import pytest
import typer

from trellis_pipeline.cli_serve import serve

SAFETY_SECONDS = 30


@pytest.fixture
def said(monkeypatch, tmp_path):
    """An empty folder to stand in, and a place for what the command writes to stderr."""
    monkeypatch.chdir(tmp_path)
    ours = logging.getLogger("trellis_pipeline")
    level = ours.level
    yield io.StringIO()
    ours.setLevel(level)


def serve_until_it_ends(said, **options):
    with contextlib.redirect_stderr(said), pytest.raises(typer.Exit) as ended:
        serve(generator="draft", host=None, config=None, **options)
    return ended.value.exit_code


def test_serve_on_any_free_port_prints_the_address_that_it_got_and_answers_there(tmp_path, said):
    answers = []

    def visit():
        end = time.monotonic() + SAFETY_SECONDS
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)/v1", said.getvalue())):
            if time.monotonic() > end:
                break
            time.sleep(0.01)
        else:
            with contextlib.suppress(httpx.HTTPError):
                answers.append(httpx.get(f"{found[1]}/healthz", trust_env=False).text)
        os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert serve_until_it_ends(said, port=0, folder=tmp_path / "service") == 0
    visitor.join()
    assert answers == ["ok"]
    assert "made by draft" in said.getvalue()


def test_serve_on_a_taken_port_prints_the_error_and_no_address_to_go_to(tmp_path, said):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve_until_it_ends(said, port=port, folder=tmp_path / "service") == 2
    assert said.getvalue().startswith("error: ")
    assert f"cannot listen on 127.0.0.1:{port}" in said.getvalue()
    assert "http://" not in said.getvalue()
