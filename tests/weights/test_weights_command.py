"""`trellis-pipeline weights` as a user meets it: what it says, what it asks, how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time

import pytest
import weights_process
from hub_server import Fault
from huggingface_hub import constants
from small_weights import CONTENT, ENCODER, FLOW, LARGE, MATTE, TABLE, WANTED, places, write
from typer.testing import CliRunner

from trellis_pipeline.cli_weights import weights_app
from trellis_pipeline.trellis2 import published
from trellis_pipeline.trellis2.published import ENCODER_REPOSITORY, MAIN_REPOSITORY

TOKEN = "hf_hunter2sentinel"


@pytest.fixture
def start(hub, tmp_path):
    """Starts `weights ...` in a process of its own."""
    (tmp_path / "trellis.toml").write_text('[local]\nweights = "weights"\n')
    table = weights_process.write_table(TABLE, tmp_path / "table.json")
    started = []

    def start(*arguments, **environment):
        process = weights_process.start(
            table, *arguments, folder=tmp_path, endpoint=hub.endpoint, **environment
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run(hub, tmp_path, monkeypatch):
    """Runs `weights ...` here: (exit code, stdout, stderr).

    What the hub's library reads once, when it is loaded, is set in place, and so is the table.
    """
    (tmp_path / "trellis.toml").write_text('[local]\nweights = "weights"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "FILES", TABLE)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments, token=None, offline=False):
        with monkeypatch.context() as now:
            if token:
                now.setenv("HF_TOKEN", token)
            now.setattr(constants, "HF_HUB_OFFLINE", offline)
            done = CliRunner().invoke(weights_app, list(arguments))
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.stdout, done.stderr

    yield run
    signal.signal(signal.SIGTERM, handler)


def test_fetch_says_what_it_will_do_does_it_and_check_agrees(run, hub, weights):
    code, out, err = run("fetch", "--yes")
    assert code == 0, err
    before, _, after = out.partition("to download: 3.7 MB")
    assert "licence: MIT" in before
    assert "licence: DINOv3 License" in before
    assert (
        f"gated: its owner lets people in one by one, https://huggingface.co/{ENCODER_REPOSITORY}" in before
    )
    assert "fetched and checked: 8 of 8 files" in after
    assert places(weights) == {file.place for file in WANTED}

    code, out, _ = run("check")
    assert code == 0
    assert out.endswith("complete for: 512, 1024, 1536\n")
    hub.requests.clear()
    code, out, _ = run("fetch")
    assert code == 0
    assert "nothing to fetch" in out
    assert hub.requests == []


def test_a_damaged_file_is_named_by_check_and_mended_by_fetch(run, weights):
    run("fetch", "--yes")
    (weights / FLOW).write_bytes(bytes(3_000_000))
    code, out, _ = run("check", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["ok"] is False
    assert [file["file"] for file in document["files"] if file["state"] == "damaged"] == [FLOW]
    code, out, _ = run("fetch", "--yes")
    assert (code, "fetched and checked: 1 of 8 files" in out) == (0, True)
    assert run("check", "--json")[0] == 0


def test_nobody_to_ask_means_nothing_is_fetched(run, hub, weights):
    code, out, err = run("fetch")
    assert code == 2
    assert "licence: DINOv3 License" in out
    assert "--yes" in err
    assert not weights.exists()
    assert hub.requests
    assert [asked for asked in hub.requests if asked.method != "HEAD"] == []


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_terminal_is_asked_and_shows_progress(start, weights, answer, code):
    keyboard, terminal = os.openpty()
    shown = bytearray()

    def read():
        with contextlib.suppress(OSError):  # the end of a terminal
            while block := os.read(keyboard, 65536):
                shown.extend(block)

    process = start("fetch", stdin=terminal, stderr=terminal)
    os.close(terminal)
    reader = threading.Thread(target=read)
    reader.start()
    os.write(keyboard, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=120)
    reader.join()
    os.close(keyboard)
    assert process.returncode == code, out
    assert out.index("DINOv3 License") < out.index("Fetch this?")
    if code:
        assert b"nothing was fetched" in shown
        assert not weights.exists()
    else:
        assert b"fetching flow.safetensors" in shown
        assert places(weights) == {file.place for file in WANTED}


def test_a_closed_gate_ends_it_before_anything_is_downloaded(run, hub, weights):
    hub.gated.add(ENCODER_REPOSITORY)
    code, out, err = run("fetch", "--yes", token=TOKEN)
    assert code == 2
    assert "gated" in out
    assert "Ask for access at" in err
    assert TOKEN not in out + err
    assert not weights.exists()
    assert hub.requests
    assert [asked for asked in hub.requests if asked.method != "HEAD"] == []


def test_the_rest_can_be_fetched_while_the_gate_is_closed(run, hub, weights):
    hub.gated.add(ENCODER_REPOSITORY)
    assert run("fetch", "--yes", "--without-image-encoder")[0] == 0
    assert places(weights) == {file.place for file in WANTED if file.repository != ENCODER_REPOSITORY}
    code, out, _ = run("check")
    assert code == 1
    assert "facebook/dinov3-vitl16-pretrain-lvd1689m: 0 of 2 files\n  missing: all of it" in out


def test_an_encoder_elsewhere_is_neither_asked_for_nor_fetched(run, hub, weights, tmp_path):
    hub.gated.add(ENCODER_REPOSITORY)
    for name in ("config.json", "model.safetensors"):
        write(tmp_path, f"dino/{name}", CONTENT[f"{ENCODER_REPOSITORY}/{name}"])
    (tmp_path / "trellis.toml").write_text('[local]\nweights = "weights"\nimage_encoder = "dino"\n')
    code, out, _ = run("fetch", "--yes")
    assert (code, "local.image_encoder" in out) == (0, True)
    assert ENCODER not in places(weights)
    assert run("check")[0] == 0


def test_one_resolution_and_the_matte_are_fetched_on_request(run, weights):
    code, out, _ = run("fetch", "--yes", "--only-mode", "512", "--matte")
    assert code == 0
    assert "onnx-community/BiRefNet-ONNX: matte, optional" in out
    assert LARGE not in places(weights)
    assert (weights / MATTE).read_bytes() == CONTENT[MATTE]
    assert run("check", "--only-mode", "512", "--matte")[0] == 0
    code, out, _ = run("check")
    assert (code, out.splitlines()[-1]) == (1, "complete for: 512")
    code, _, err = run("check", "--only-mode", "2048")
    assert (code, "512, 1024, 1536" in err) == (2, True)


def test_a_dry_run_says_the_same_and_asks_nobody(run, hub, weights):
    code, out, _ = run("fetch", "--dry-run")
    assert (code, "to download: 3.7 MB" in out) == (0, True)
    assert hub.requests == []
    assert not weights.exists()


def test_offline_uses_what_is_here_and_says_what_is_not(run, hub, weights, tmp_path):
    code, _, err = run("fetch", "--yes", offline=True)
    assert code == 2
    assert "HF_HUB_OFFLINE is set, and 8 files" in err
    for file in WANTED:
        write(tmp_path / "copies", file.place, CONTENT[file.place])
    code, _, err = run("fetch", "--yes", "--source", "copies", offline=True)
    assert code == 0, err
    assert places(weights) == {file.place for file in WANTED}
    assert hub.requests == []


def test_a_mirror_and_another_folder_can_be_named(run, hub, tmp_path):
    for file in TABLE:
        if file.repository == MAIN_REPOSITORY:
            hub.serve(file, CONTENT[file.place], under="somebody/trellis-copy")
    code, out, _ = run("fetch", "--yes", "--source", "somebody/trellis-copy", "--weights", "other")
    assert code == 0
    assert "from the hub, somebody/trellis-copy@main" in out
    assert places(tmp_path / "other") == {file.place for file in WANTED}


def test_wrong_bytes_end_in_a_message_and_not_in_a_file(run, hub, weights):
    flow = next(file for file in TABLE if file.place == FLOW)
    hub.files[FLOW], hub.says[FLOW] = bytes(3_000_000), flow.sha256
    code, _, err = run("fetch", "--yes")
    assert code == 2
    assert "it was deleted" in err
    assert FLOW not in places(weights)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_fetch_goes_on_where_it_stopped(start, run, hub, weights, by):
    hub.faults[FLOW] = [Fault("stall", after=2_000_000)]
    process = start("fetch", "--yes")
    until(lambda: any(part.stat().st_size == 2_000_000 for part in weights.rglob("flow.safetensors*.part")))
    process.send_signal(by)
    _, err = process.communicate(timeout=120)
    if by != signal.SIGKILL:
        assert process.returncode == 130
        assert "what was finished is kept" in err
    hub.go_on.set()
    assert LARGE in places(weights)
    hub.requests.clear()
    code, out, _ = run("fetch", "--yes")
    assert (code, "fetched and checked: 1 of 8 files" in out) == (0, True)
    assert [asked.sent for asked in hub.bodies(FLOW)] == [1_000_000]
    assert places(weights) == {file.place for file in WANTED}


def test_two_fetches_at_once_download_each_file_once(start, hub, weights, tmp_path):
    hub.faults[FLOW] = [Fault("stall", after=1_000_000)] + 3 * [Fault("stall")]  # a client gives up in time
    said = [tmp_path / "first.txt", tmp_path / "second.txt"]

    def waiting():
        return [path for path in said if "another fetch is filling this folder" in path.read_text()]

    with said[0].open("w") as first, said[1].open("w") as second:
        processes = [start("fetch", "--yes", stderr=stream) for stream in (first, second)]
        until(lambda: waiting() and hub.bodies(FLOW))
        hub.faults.clear()
        hub.go_on.set()
        for process in processes:
            process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0], [path.read_text() for path in said]
    assert len(waiting()) == 1
    assert sum(asked.sent for asked in hub.bodies(FLOW)) == 3_000_000
    assert places(weights) == {file.place for file in WANTED}


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
