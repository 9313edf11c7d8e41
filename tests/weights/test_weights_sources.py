"""Weights that are on this machine already, and what users may write as a source."""

import errno
import fcntl
import os

import pytest
from small_weights import CONTENT, ENCODER, FLOW, TABLE, WANTED, places, write

from trellis_pipeline.errors import ConfigError, WeightsInvalid, WeightsMissing
from trellis_pipeline.trellis2.published import (
    ENCODER_REPOSITORY,
    MAIN_REPOSITORY,
    REPOSITORIES,
    STRUCTURE_REPOSITORY,
)
from trellis_pipeline.weights.describe import check_document, check_text, plan_text
from trellis_pipeline.weights.fetch import check_access, fetch
from trellis_pipeline.weights.look import look_through
from trellis_pipeline.weights.sources import Folder, HubRepository, parse_source


def copy_of(repository, folder):
    for file in TABLE:
        if file.repository == repository:
            write(folder, file.path, CONTENT[file.place])
    return folder


@pytest.mark.parametrize(
    "layout",
    [
        lambda name: name,
        lambda name: name.split("/")[1],
        lambda name: f"models--{name.replace('/', '--')}/snapshots/{REPOSITORIES[name].revision}",
    ],
    ids=["owner/name", "name", "the hub's cache"],
)
def test_a_folder_of_repositories_needs_no_network(hub, planned, client, weights, tmp_path, layout):
    for name in {file.repository for file in WANTED}:
        copy_of(name, tmp_path / "copies" / layout(name))
    plan = planned(model=Folder(tmp_path / "copies"))
    assert plan.download_bytes == 0
    fetch(plan, client)
    assert places(weights) == {file.place for file in WANTED}
    assert hub.requests == []
    # On the same disk nothing is doubled.
    assert all((weights / file.place).stat().st_nlink == 2 for file in WANTED)


def test_a_clone_gives_its_own_files_and_the_hub_the_others(planned, client, weights, tmp_path):
    plan = planned(model=Folder(copy_of(MAIN_REPOSITORY, tmp_path / "clone")))
    assert {step.file.repository for step in plan.steps if step.hub} == {
        STRUCTURE_REPOSITORY,
        ENCODER_REPOSITORY,
    }
    fetch(plan, client)
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]


def test_a_clone_among_clones_finds_its_siblings(planned, tmp_path):
    for name in {file.repository for file in WANTED}:
        copy_of(name, tmp_path / "git" / name.split("/")[1])
    plan = planned(model=Folder(tmp_path / "git" / "TRELLIS.2-4B"))
    assert {step.file.repository for step in plan.steps if step.hub} == {ENCODER_REPOSITORY}


def test_files_of_another_disk_are_copied(planned, client, weights, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    copy_of(MAIN_REPOSITORY, tmp_path / "clone")
    monkeypatch.setattr(os, "link", refuse)
    fetch(planned(model=Folder(tmp_path / "clone")), client)
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]
    assert (weights / FLOW).stat().st_nlink == 1


def test_an_encoder_of_ones_own_gets_the_published_name(hub, planned, client, weights, tmp_path):
    hub.gated.add(ENCODER_REPOSITORY)
    plan = planned(encoder=Folder(copy_of(ENCODER_REPOSITORY, tmp_path / "my-dino")))
    check_access(plan, client)
    fetch(plan, client)
    assert (weights / ENCODER).read_bytes() == CONTENT[ENCODER]


def test_an_encoder_folder_without_the_file_is_named(planned, tmp_path):
    with pytest.raises(ConfigError, match=r"--image-encoder .*: there is no config\.json in it"):
        planned(encoder=Folder(tmp_path))


def test_another_file_under_the_name_is_not_taken(planned, client, weights, tmp_path):
    clone = copy_of(MAIN_REPOSITORY, tmp_path / "clone")
    (clone / "ckpts/flow.safetensors").write_bytes(bytes(3_000_000))
    with pytest.raises(WeightsInvalid, match=r"clone/ckpts/flow\.safetensors has SHA-256 .* not taken"):
        fetch(planned(model=Folder(clone)), client)
    assert FLOW not in places(weights)


def test_a_clone_without_git_lfs_is_recognised(planned, tmp_path):
    clone = copy_of(MAIN_REPOSITORY, tmp_path / "clone")
    (clone / "ckpts/flow.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    with pytest.raises(WeightsInvalid, match="a Git LFS pointer, run `git lfs pull`"):
        planned(model=Folder(clone))


def test_the_weights_folder_as_its_own_source_mends_what_is_damaged(hub, planned, client, weights):
    fetch(planned(), client)
    (weights / FLOW).write_bytes(bytes(3_000_000))
    fetch(planned(model=Folder(weights)), client)
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]


def test_a_file_system_without_locks_does(planned, client, weights, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    fetch(planned(), client)
    assert places(weights) == {file.place for file in WANTED}


def test_a_folder_with_nothing_in_it_is_refused(planned, tmp_path):
    with pytest.raises(ConfigError, match=r"no weights in it; expected pipeline\.json"):
        planned(model=Folder(tmp_path))


def test_what_is_in_the_hubs_cache_is_not_downloaded_again(hub, planned, client, weights, tmp_path):
    store = tmp_path / "cache" / "models--microsoft--TRELLIS.2-4B"
    blob = write(store, "blobs/abc", CONTENT[FLOW])
    snapshot = store / "snapshots" / REPOSITORIES[MAIN_REPOSITORY].revision / "ckpts"
    snapshot.mkdir(parents=True)
    (snapshot / "flow.safetensors").symlink_to(blob)
    fetch(planned(), client)
    assert (weights / FLOW).read_bytes() == CONTENT[FLOW]
    assert not (weights / FLOW).is_symlink()
    assert hub.bodies(FLOW) == []


def test_offline_says_what_is_missing_and_asks_nobody(hub, planned, client, weights):
    client.offline = True
    with pytest.raises(WeightsMissing, match=r"HF_HUB_OFFLINE is set, and 8 files .*--source FOLDER"):
        check_access(planned(), client)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("some-one/a.mirror_2", "some-one/a.mirror_2", "main"),
        ("some/mirror@refs/pr/1", "some/mirror", "refs/pr/1"),
        (MAIN_REPOSITORY, MAIN_REPOSITORY, REPOSITORIES[MAIN_REPOSITORY].revision),
        (f"{MAIN_REPOSITORY}@main", MAIN_REPOSITORY, "main"),
    ],
)
def test_a_repository_of_the_hub_is_owner_and_name(text, repository, revision):
    assert parse_source(text, "--source") == HubRepository(repository, revision)


@pytest.mark.parametrize(
    "text", ["/not/there", "name", "a/b/c", "../x", "~/nothing/here", "a b/c", "", "https://x/y"]
)
def test_what_is_neither_folder_nor_repository_is_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text == "":
        assert parse_source(text, "--source") == Folder(parse_source(".", "--source").path)
        return
    with pytest.raises(ConfigError, match="--source"):
        parse_source(text, "--source")


def test_a_folder_wins_over_a_repository_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "microsoft/TRELLIS.2-4B").mkdir(parents=True)
    assert isinstance(parse_source(MAIN_REPOSITORY, "--source"), Folder)


# -- what is said ------------------------------------------------------------------------------------------


def test_licences_sizes_gates_and_origins_are_said(planned, tmp_path):
    text = plan_text(planned(model=Folder(copy_of(MAIN_REPOSITORY, tmp_path / "clone"))))
    assert "licence: DINOv3 License, https://ai.meta.com" in text
    assert f"gated: its owner lets people in one by one, https://huggingface.co/{ENCODER_REPOSITORY}" in text
    assert f"to fetch: 4 files, 3.2 MB, from this machine, {tmp_path / 'clone'}" in text
    assert "to fetch: 2 files, 300.0 kB, from the hub, facebook/dinov3" in text
    assert "to download: 500.0 kB" in text


def test_a_mirror_is_not_called_gated(planned):
    text = plan_text(planned(encoder=HubRepository("somebody/dino-copy", "main")))
    assert "gated" not in text
    assert "from the hub, somebody/dino-copy@main" in text


def test_a_check_says_what_is_missing_damaged_and_possible(planned, client, weights):
    fetch(planned(), client)
    (weights / ENCODER).write_bytes(b"short")
    (weights / FLOW).unlink()
    findings = look_through(weights, WANTED)
    text = check_text(weights, findings)
    assert "damaged: model.safetensors has 5 bytes instead of 300,000" in text
    assert "missing: ckpts/flow.safetensors\n" in text
    assert text.endswith("complete for: nothing")
    document = check_document(weights, findings)
    assert document["ok"] is False
    assert [file["file"] for file in document["files"] if file["state"] != "intact"] == [FLOW, ENCODER]


def test_the_files_of_one_resolution_make_that_one(planned, client, weights):
    fetch(planned(file for file in WANTED if "512" in file.resolutions), client)
    assert check_text(weights, look_through(weights, WANTED)).endswith("complete for: 512")


def test_another_encoder_that_was_chosen_is_no_damage(weights, tmp_path):
    encoder = tmp_path / "tuned"
    write(encoder, "config.json", b"{}")
    write(encoder, "model.safetensors", b"mine")
    files = [file for file in WANTED if file.repository == ENCODER_REPOSITORY]
    findings = look_through(weights, files, encoder=encoder)
    assert [found.state for found in findings] == ["other", "other"]
    assert not any(found.is_faulty for found in findings)
    (encoder / "model.safetensors").unlink()
    assert look_through(weights, files, encoder=encoder)[1].state == "missing"
