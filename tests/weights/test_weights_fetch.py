"""Fetching from a hub on loopback that breaks, refuses and lies."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import Fault
from small_weights import CONTENT, ENCODER, FLOW, LARGE, TABLE, WANTED, places, write

from trellis_pipeline.errors import ConfigError, StorageUnavailable, WeightsInvalid, WeightsMissing
from trellis_pipeline.trellis2.published import ENCODER_REPOSITORY, MAIN_REPOSITORY
from trellis_pipeline.weights.fetch import check_access, fetch
from trellis_pipeline.weights.hub import Hub
from trellis_pipeline.weights.look import look_through
from trellis_pipeline.weights.plan import check_room
from trellis_pipeline.weights.sources import HubRepository

SOON = (0.0, 0.0, 0.0)
FLOW_FILE = next(file for file in TABLE if file.place == FLOW)


def part_of(weights, file=FLOW_FILE):
    return weights / ".fetch" / f"{file.place}.{file.sha256[:12]}.part"


def test_everything_arrives_where_the_loader_looks_for_it(planned, client, weights):
    fetch(planned(), client)
    assert places(weights) == {file.place for file in WANTED}
    assert all((weights / place).read_bytes() == CONTENT[place] for place in places(weights))
    assert planned().steps == ()


def test_only_what_is_missing_or_damaged_is_fetched(hub, planned, client, weights):
    fetch(planned(), client)
    (weights / LARGE).write_bytes(bytes(150_000))
    (weights / ENCODER).unlink()
    hub.requests.clear()
    fetch(planned(), client)
    assert {asked.path.removeprefix("/store/") for asked in hub.requests if asked.to == "content"} == {
        LARGE,
        ENCODER,
    }
    assert all(found.state == "intact" for found in look_through(weights, WANTED))


def test_a_broken_transfer_goes_on_where_it_stopped(hub, planned, client, weights):
    hub.faults[FLOW] = [Fault("break", after=1_000_000), Fault("break", after=700_000)]
    told = []
    fetch(planned(), client, lambda doing, place, done, of: told.append((doing, done)), pauses=SOON)
    waits = [done for doing, done in told if doing.startswith("waiting")]
    assert waits == [1_000_000, 1_700_000]
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]
    bodies = hub.bodies(FLOW)
    assert [asked.headers.get("range", asked.headers.get("Range")) for asked in bodies] == [
        None,
        "bytes=1000000-",
        "bytes=1700000-",
    ]
    assert sum(asked.sent for asked in bodies) == 3_000_000


def test_a_line_that_brings_nothing_is_given_up_and_keeps_what_came(hub, planned, client, weights):
    hub.faults[FLOW] = [Fault("break", after=1_000_000)] + [Fault("break")] * 9
    with pytest.raises(StorageUnavailable, match=r"run the same command again"):
        fetch(planned(), client, pauses=SOON)
    assert FLOW not in places(weights)
    assert part_of(weights).read_bytes() == CONTENT[FLOW][:1_000_000]
    assert f"{MAIN_REPOSITORY}/pipeline.json" in places(weights)
    hub.faults.clear()
    hub.requests.clear()
    fetch(planned(), client)
    assert sum(asked.sent for asked in hub.bodies(FLOW)) == 2_000_000
    assert not (weights / ".fetch").exists()


@pytest.mark.parametrize("fault", [Fault("whole"), Fault("elsewhere"), Fault("status", status=500)])
def test_a_server_that_cannot_go_on_does_not_spoil_the_file(hub, planned, client, weights, fault):
    hub.faults[FLOW] = [Fault("break", after=1_000_000), fault]
    fetch(planned(), client, pauses=SOON)
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]


def test_a_beginning_longer_than_the_file_is_begun_anew(planned, client, weights):
    write(weights, str(part_of(weights).relative_to(weights)), bytes(3_000_001))
    fetch(planned(), client, pauses=SOON)
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]


def test_a_wrong_beginning_is_found_and_the_file_fetched_once_more(hub, planned, client, weights):
    write(weights, str(part_of(weights).relative_to(weights)), bytes(1_000_000))
    fetch(planned(), client, pauses=SOON)
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]
    assert [asked.sent for asked in hub.bodies(FLOW)] == [2_000_000, 3_000_000]


def test_wrong_bytes_are_deleted_and_never_get_the_name(hub, planned, client, weights):
    hub.files[FLOW] = bytes(3_000_000)
    hub.says[FLOW] = FLOW_FILE.sha256
    with pytest.raises(WeightsInvalid, match=r"ckpts/flow\.safetensors has SHA-256 .*it was deleted"):
        fetch(planned(), client, pauses=SOON)
    assert FLOW not in places(weights)
    assert not part_of(weights).exists()
    assert len(hub.bodies(FLOW)) == 1


def test_more_bytes_than_published_are_refused(hub, planned, client, weights):
    hub.faults[FLOW] = [Fault("more")]
    with pytest.raises(WeightsInvalid, match="more than the 3,000,000 bytes"):
        fetch(planned(), client, pauses=SOON)
    assert FLOW not in places(weights)


@pytest.mark.parametrize(
    ("content", "said"), [(bytes(3_000_000), "SHA-256"), (bytes(2_999_999), "2,999,999 bytes")]
)
def test_a_hub_that_has_another_file_is_found_out_before_the_download(
    hub, planned, client, weights, content, said
):
    hub.files[FLOW] = content
    with pytest.raises(WeightsInvalid, match=f"flow.safetensors is not the published file .*{said}"):
        check_access(planned(), client)
    assert not [asked for asked in hub.requests if asked.method == "GET"]


# -- who is let in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "hf_somebody_else"])
def test_a_gate_is_met_first_and_the_ways_out_are_named(hub, planned, client, weights, monkeypatch, token):
    hub.gated.add(ENCODER_REPOSITORY)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError) as caught:
        check_access(planned(), client)
    message = str(caught.value)
    assert f"https://huggingface.co/{ENCODER_REPOSITORY}" in message
    assert ("has no access to it" if token else "has no token") in message
    for way in ("HF_TOKEN", "--image-encoder FOLDER", "--image-encoder OWNER/REPOSITORY", "--without-image"):
        assert way in message
    assert "hf_somebody_else" not in message
    assert {asked.method for asked in hub.requests} == {"HEAD"}
    assert all(ENCODER_REPOSITORY in asked.path for asked in hub.requests)


def test_a_token_opens_the_gate_and_is_shown_to_the_hub_alone(hub, planned, client, weights, monkeypatch):
    hub.gated.add(ENCODER_REPOSITORY)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    check_access(planned(), client)
    fetch(planned(), client)
    assert (weights / ENCODER).read_bytes() == CONTENT[ENCODER]
    shown = {asked.to for asked in hub.requests if "authorization" in map(str.lower, asked.headers)}
    assert shown == {"hub"}


def test_a_mirror_gives_the_encoder_its_published_name(hub, planned, client, weights):
    hub.gated.add(ENCODER_REPOSITORY)
    for file in TABLE:
        if file.repository == ENCODER_REPOSITORY:
            hub.serve(file, CONTENT[file.place], under="somebody/dino-copy")
    plan = planned(encoder=HubRepository("somebody/dino-copy", "main"))
    check_access(plan, client)
    fetch(plan, client)
    assert (weights / ENCODER).read_bytes() == CONTENT[ENCODER]
    assert "somebody/dino-copy/model.safetensors" not in places(weights)


def test_a_mirror_with_another_encoder_is_refused(hub, planned, client):
    for file in TABLE:
        if file.repository == ENCODER_REPOSITORY:
            hub.serve(file, CONTENT[file.place][::-1], under="somebody/dino-copy")
    with pytest.raises(WeightsInvalid, match=r"somebody/dino-copy@main: model\.safetensors is not"):
        check_access(planned(encoder=HubRepository("somebody/dino-copy", "main")), client)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (HubRepository("nobody/nothing", "main"), "401 for nobody/nothing"),
        (HubRepository("somebody/else", "v9"), "somebody/else has no revision v9"),
        (HubRepository("somebody/else", "main"), r"somebody/else@main on .* has no ckpts/flow\.json"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub, planned, client, source, said):
    hub.serve(FLOW_FILE, CONTENT[FLOW], under="somebody/else")
    with pytest.raises((ConfigError, WeightsMissing), match=said):
        check_access(planned(model=source), client)


def test_a_hub_that_does_not_answer_is_no_traceback(planned, tmp_path):
    with pytest.raises(StorageUnavailable, match="does not answer"):
        check_access(planned(), Hub(endpoint="http://127.0.0.1:9", cache=tmp_path / "cache"))


# -- the disk ----------------------------------------------------------------------------------------------


def test_a_disk_without_room_is_said_before_anything_is_asked(hub, planned):
    plan = planned([replace(FLOW_FILE, file_bytes=10**16)])
    with pytest.raises(StorageUnavailable, match=r"10000000\.0 GB are to be written"):
        check_room(plan)
    check_room(planned())
    assert hub.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_ends_the_fetch_and_keeps_what_is_whole(planned, client, weights):
    part = part_of(weights)
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(StorageUnavailable, match="the disk is full"):
        fetch(planned(), client, pauses=SOON)
    assert f"{MAIN_REPOSITORY}/pipeline.json" in places(weights)
    assert not (weights / FLOW).exists()


def test_a_folder_that_cannot_be_made_is_named(planned, client, weights):
    weights.write_text("in the way")
    with pytest.raises(StorageUnavailable, match=str(weights)):
        fetch(planned(), client)


# -- interruptions -----------------------------------------------------------------------------------------


def test_whoever_stops_in_the_middle_keeps_the_beginning(hub, planned, client, weights):
    def stop(doing, place, done, of):
        if place == FLOW and done > 2_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(planned(), client, stop)
    begun = part_of(weights).stat().st_size
    assert 0 < begun < 3_000_000
    hub.requests.clear()
    fetch(planned(), client)
    assert sum(asked.sent for asked in hub.bodies(FLOW)) == 3_000_000 - begun


def test_the_second_of_two_fetches_waits_and_finds_the_work_done(hub, planned, client, weights):
    first, second = planned(), planned()
    under_way, waited = threading.Event(), []

    def slowly(doing, place, done, of):
        if doing == "fetching" and place == FLOW:
            under_way.set()
            hub.go_on.wait(120)

    other = threading.Thread(target=fetch, args=(first, client, slowly))
    other.start()
    assert under_way.wait(120)

    def waiting():
        waited.append(True)
        hub.go_on.set()

    fetch(second, client, waiting=waiting)
    other.join()
    assert waited == [True]
    assert len(hub.bodies(FLOW)) == 1
    assert places(weights) == {file.place for file in WANTED}


def test_what_another_fetch_brought_while_the_user_was_asked_is_not_brought_again(hub, planned, client):
    first, second = planned(), planned()
    fetch(first, client)
    hub.requests.clear()
    fetch(second, client)
    assert hub.requests == []


def test_progress_is_told_for_every_file_up_to_its_end(planned, client):
    told = {}
    fetch(planned(), client, lambda doing, place, done, of: told.setdefault((doing, place), []).append(done))
    for file in WANTED:
        for doing in ("fetching", "checking"):
            assert told[doing, file.place] == sorted(told[doing, file.place])
            assert told[doing, file.place][-1] == file.file_bytes


def test_nothing_of_the_hub_is_loaded_by_looking_only():
    code = (
        "import sys, trellis_pipeline.weights.plan, trellis_pipeline.cli_weights;"
        "print([m for m in ('huggingface_hub', 'torch', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
