"""Files that a user named: whole or untouched, and refused before the work."""

import errno
import os
from pathlib import Path

import pytest

from trellis_pipeline.errors import ConfigError, StorageUnavailable
from trellis_pipeline.storage.whole_file import check_writable, write_whole


def test_a_file_is_replaced_and_missing_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "model.glb"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_file_is_written(tmp_path):
    (tmp_path / "real.glb").write_bytes(b"old")
    (tmp_path / "link.glb").symlink_to("real.glb")
    write_whole(tmp_path / "link.glb", b"new")
    assert (tmp_path / "link.glb").is_symlink()
    assert (tmp_path / "real.glb").read_bytes() == b"new"


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.glb"
    write_whole(path, b"old")

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageUnavailable, match=r"model\.glb: the disk is full; free some space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_will_do_is_not_made_yet(tmp_path):
    check_writable(tmp_path / "to" / "come" / "model.glb")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "why"), [("", "no regular file"), ("file/model.glb", "not a folder")])
def test_a_place_that_will_not_do_is_named(tmp_path, name, why):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=why):
        check_writable(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_may_not_be_written_to_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="may not be written to"):
        check_writable(tmp_path / "model.glb")
