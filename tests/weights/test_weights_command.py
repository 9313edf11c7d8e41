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
from small_weights import CONTENT, ENCODER, FLOW, LARGE, MATTE, TABLE, WANTED, places, write

from trellis_pipeline.trellis2.published import ENCODER_REPOSITORY, MAIN_REPOSITORY

TOKEN = "hf_hunter2sentinel"


@pytest.fixture
def command(hub, tmp_path):
    """Starts `weights ...`; with `.run`, waits for it: (exit code, stdout, stderr)."""
    (tmp_path / "trellis.toml").write_text('[local]\nweights = "weights"\n')
    table = weights_process.write_table(TABLE, tmp_path / "table.json")

    started = []

    def start(*arguments, **environment):
        process = weights_process.start(
            table, *arguments, folder=tmp_path, endpoint=hub.endpoint, **environment
        )
        started.append(process)
        return process

    def run(*arguments, **environment):
        process = start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        return process.returncode, out, err

    start.run = run
    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_fetch_says_what_it_will_do_does_it_and_check_agrees(command, hub, weights):
    code, out, err = command.run("fetch", "--yes")
    assert code == 0, err
    before, _, after = out.partition("to download: 3.7 MB")
    assert "licence: MIT" in before
    assert "licence: DINOv3 License" in before
    assert (
        f"gated: its owner lets people in one by one, https://huggingface.co/{ENCODER_REPOSITORY}" in before
    )
    assert "fetched and checked: 8 of 8 files" in after
    assert places(weights) == {file.place for file in WANTED}

    code, out, _ = command.run("check")
    assert code == 0
    assert out.endswith("complete for: 512, 1024, 1536\n")
    hub.requests.clear()
    code, out, _ = command.run("fetch")
    assert code == 0
    assert "nothing to fetch" in out
    assert hub.requests == []


def test_a_damaged_file_is_named_by_check_and_mended_by_fetch(command, weights):
    command.run("fetch", "--yes")
    (weights / FLOW).write_bytes(bytes(3_000_000))
    code, out, _ = command.run("check", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["ok"] is False
    assert [file["file"] for file in document["files"] if file["state"] == "damaged"] == [FLOW]
    code, out, _ = command.run("fetch", "--yes")
    assert (code, "fetched and checked: 1 of 8 files" in out) == (0, True)
    assert command.run("check", "--json")[0] == 0


def test_nobody_to_ask_means_nothing_is_fetched(command, hub, weights):
    code, out, err = command.run("fetch")
    assert code == 2
    assert "licence: DINOv3 License" in out
    assert "--yes" in err
    assert not weights.exists()
    assert {asked.method for asked in hub.requests} == {"HEAD"}


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_terminal_is_asked_and_shows_progress(command, weights, answer, code):
    keyboard, terminal = os.openpty()
    shown = bytearray()

    def read():
        with contextlib.suppress(OSError):  # the end of a terminal
            while block := os.read(keyboard, 65536):
                shown.extend(block)

    process = command("fetch", stdin=terminal, stderr=terminal)
    os.close(terminal)
    reader = threading.Thread(target=read)
    reader.start()
    os.write(keyboard, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=60)
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


def test_a_closed_gate_ends_it_before_anything_is_downloaded(command, hub, weights):
    hub.gated.add(ENCODER_REPOSITORY)
    code, out, err = command.run("fetch", "--yes", HF_TOKEN=TOKEN)
    assert code == 2
    assert "gated" in out
    assert "Ask for access at" in err
    assert TOKEN not in out + err
    assert not weights.exists()
    assert {asked.method for asked in hub.requests} == {"HEAD"}


def test_the_rest_can_be_fetched_while_the_gate_is_closed(command, hub, weights):
    hub.gated.add(ENCODER_REPOSITORY)
    assert command.run("fetch", "--yes", "--without-image-encoder")[0] == 0
    assert places(weights) == {file.place for file in WANTED if file.repository != ENCODER_REPOSITORY}
    code, out, _ = command.run("check")
    assert code == 1
    assert "missing: model.safetensors is not there" in out


def test_an_encoder_elsewhere_is_neither_asked_for_nor_fetched(command, hub, weights, tmp_path):
    hub.gated.add(ENCODER_REPOSITORY)
    for name in ("config.json", "model.safetensors"):
        write(tmp_path, f"dino/{name}", CONTENT[f"{ENCODER_REPOSITORY}/{name}"])
    (tmp_path / "trellis.toml").write_text('[local]\nweights = "weights"\nimage_encoder = "dino"\n')
    code, out, _ = command.run("fetch", "--yes")
    assert (code, "local.image_encoder" in out) == (0, True)
    assert ENCODER not in places(weights)
    assert command.run("check")[0] == 0


def test_one_resolution_and_the_matte_are_fetched_on_request(command, weights):
    code, out, _ = command.run("fetch", "--yes", "--only-mode", "512", "--matte")
    assert code == 0
    assert "onnx-community/BiRefNet-ONNX: matte, optional" in out
    assert LARGE not in places(weights)
    assert (weights / MATTE).read_bytes() == CONTENT[MATTE]
    assert command.run("check", "--only-mode", "512", "--matte")[0] == 0
    code, out, _ = command.run("check")
    assert (code, out.splitlines()[-1]) == (1, "complete for: 512")
    code, _, err = command.run("check", "--only-mode", "2048")
    assert (code, "512, 1024, 1536" in err) == (2, True)


def test_a_dry_run_says_the_same_and_asks_nobody(command, hub, weights):
    code, out, _ = command.run("fetch", "--dry-run")
    assert (code, "to download: 3.7 MB" in out) == (0, True)
    assert hub.requests == []
    assert not weights.exists()


def test_offline_uses_what_is_here_and_says_what_is_not(command, hub, weights, tmp_path):
    code, _, err = command.run("fetch", "--yes", HF_HUB_OFFLINE="1")
    assert code == 2
    assert "HF_HUB_OFFLINE is set, and 8 files" in err
    for file in WANTED:
        write(tmp_path / "copies", file.place, CONTENT[file.place])
    code, _, err = command.run("fetch", "--yes", "--source", "copies", HF_HUB_OFFLINE="1")
    assert code == 0, err
    assert places(weights) == {file.place for file in WANTED}
    assert hub.requests == []


def test_a_mirror_and_another_folder_can_be_named(command, hub, tmp_path):
    for file in TABLE:
        if file.repository == MAIN_REPOSITORY:
            hub.serve(file, CONTENT[file.place], under="somebody/trellis-copy")
    code, out, _ = command.run("fetch", "--yes", "--source", "somebody/trellis-copy", "--weights", "other")
    assert code == 0
    assert "from the hub, somebody/trellis-copy@main" in out
    assert places(tmp_path / "other") == {file.place for file in WANTED}


def test_wrong_bytes_end_in_a_message_and_not_in_a_file(command, hub, weights):
    flow = next(file for file in TABLE if file.place == FLOW)
    hub.files[FLOW], hub.says[FLOW] = bytes(3_000_000), flow.sha256
    code, _, err = command.run("fetch", "--yes")
    assert code == 2
    assert "it was deleted" in err
    assert FLOW not in places(weights)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_fetch_goes_on_where_it_stopped(command, hub, weights, by):
    hub.faults[FLOW] = [Fault("stall", after=2_000_000)]
    process = command("fetch", "--yes")
    until(lambda: any(part.stat().st_size == 2_000_000 for part in weights.rglob("flow.safetensors*.part")))
    process.send_signal(by)
    _, err = process.communicate(timeout=30)
    if by != signal.SIGKILL:
        assert process.returncode == 130
        assert "what was finished is kept" in err
    hub.go_on.set()
    assert LARGE in places(weights)
    hub.requests.clear()
    code, out, _ = command.run("fetch", "--yes")
    assert (code, "fetched and checked: 1 of 8 files" in out) == (0, True)
    assert [asked.sent for asked in hub.bodies(FLOW)] == [1_000_000]
    assert places(weights) == {file.place for file in WANTED}


def test_two_fetches_at_once_download_each_file_once(command, hub, weights, tmp_path):
    hub.faults[FLOW] = [Fault("stall", after=1_000_000)]
    said = [tmp_path / "first.txt", tmp_path / "second.txt"]

    def waiting():
        return [path for path in said if "another fetch is filling this folder" in path.read_text()]

    with said[0].open("w") as first, said[1].open("w") as second:
        processes = [command("fetch", "--yes", stderr=stream) for stream in (first, second)]
        until(lambda: waiting() and hub.bodies(FLOW))
        hub.go_on.set()
        for process in processes:
            process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0], [path.read_text() for path in said]
    assert len(waiting()) == 1
    assert sum(asked.sent for asked in hub.bodies(FLOW)) == 3_000_000
    assert places(weights) == {file.place for file in WANTED}


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
