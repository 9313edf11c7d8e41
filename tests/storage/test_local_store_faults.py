"""A folder as store when things go wrong: killed writers, full disks, read-only disks, odd file systems."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trellis_pipeline
from trellis_pipeline.errors import BlobMissing, StorageError, StorageUnavailable
from trellis_pipeline.storage.local import INCOMING, clear_stale
from trellis_pipeline.storage.store import BlobRef, open_store

PACKAGE_PARENT = str(Path(trellis_pipeline.__file__).parents[1])

# Works for ever on a few names; everything it writes says of itself whether it is whole.
WRITER = """
import hashlib, json, os, signal, sys
from trellis_pipeline.storage.store import open_store

store = open_store(sys.argv[1])
die_at = int(sys.argv[2])
seen = 0

def count(event, args):
    global seen
    if event in ("open", "os.link", "os.rename", "os.remove", "os.mkdir"):
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

if die_at:
    sys.addaudithook(count)
number = 0
while True:
    number += 1
    data = hashlib.sha256(b"%d %d" % (os.getpid(), number)).digest() * (1 + number % 4000)
    ref = store.put_blob(data, ".glb")
    store.publish("demo/A/model.glb", ref)
    body = json.dumps({"sha256": ref.sha256, "size": ref.size, "filler": "x" * (number % 9000)}).encode()
    store.write("demo/A/record.json", body)
    store.create(f"generations/{number % 50}/certificate.json", body)
    if die_at and number == 3:
        print("finished", flush=True)
        break
    print(number, flush=True)
"""


def start_writer(url, die_at=0):
    environment = os.environ | {"PYTHONPATH": PACKAGE_PARENT}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(die_at)], stdout=subprocess.PIPE, env=environment, text=True
    )


def check_everything_visible_is_whole(url):
    """Every blob hashes to its name, every record parses and names a blob that is there. Returns how many."""
    store = open_store(url)
    root = Path(store.location("x")).parent
    blobs = [path for path in (root / "blobs").rglob("*") if path.is_file()]
    for path in blobs:
        store.get_blob(BlobRef(path.name[:64], path.stat().st_size, path.name[64:]))
    for path in store.list():
        data = store.read(path)
        if path.endswith(".glb"):
            assert store.has_blob(BlobRef.of(data, ".glb"))
        else:
            record = json.loads(data)
            assert store.has_blob(BlobRef(record["sha256"], record["size"], ".glb"))
    return len(blobs)


def test_a_writer_killed_at_any_file_operation_leaves_nothing_half_written(tmp_path):
    url = (tmp_path / "store").as_uri()
    died = 0
    # Prime numbers reach operations of every kind in the first round and in later ones.
    for operation in [*range(1, 21), 23, 29, 31, 37, 41]:
        writer = start_writer(url, die_at=operation)
        output, _ = writer.communicate(timeout=120)
        assert writer.returncode == -signal.SIGKILL or "finished" in output
        died += writer.returncode == -signal.SIGKILL
        check_everything_visible_is_whole(url)
    assert died >= 20


def test_writers_killed_at_random_instants_leave_nothing_half_written(tmp_path):
    url = (tmp_path / "store").as_uri()
    chance = random.Random(20)
    for _ in range(6):
        writers = [start_writer(url), start_writer(url)]
        for writer in writers:
            assert writer.stdout.readline()  # it has begun
        time.sleep(chance.uniform(0.0, 0.15))
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=120)
    assert check_everything_visible_is_whole(url) > 10


def test_what_killed_writers_left_is_cleared_but_work_in_progress_is_not(tmp_path):
    store = open_store(tmp_path.as_uri())
    store.write("kept.json", b"{}")
    left = tmp_path / INCOMING / "0123456789abcdef"
    left.write_bytes(b"half a mod")
    open_store(tmp_path.as_uri())
    assert left.exists()  # fresh: another process may be writing it
    clear_stale(tmp_path / INCOMING, time.time() + 3700)
    assert not left.exists()
    assert store.read("kept.json") == b"{}"


def test_nothing_stays_in_the_incoming_folder_after_ordinary_work(local_store, tmp_path):
    for _ in range(2):
        ref = local_store.put_blob(b"x", ".bin")
        local_store.publish("a/x.bin", ref)
        local_store.publish("a/x.bin", ref)
        local_store.write("a/record.json", b"{}")
        local_store.create("a/once.json", b"{}")
    assert list((tmp_path / "store" / INCOMING).iterdir()) == []


def test_publishing_costs_no_space_and_the_published_file_cannot_be_edited_by_accident(local_store):
    ref = local_store.put_blob(b"x" * 1000, ".bin")
    published = Path(local_store.publish("a/x.bin", ref))
    assert published.stat().st_nlink == 2
    assert published.stat().st_mode & 0o222 == 0


def no_links(error_number):
    def refuse(*args, **kwargs):
        raise OSError(error_number, os.strerror(error_number))

    return refuse


@pytest.mark.parametrize("error_number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_works_by_copies(local_store, monkeypatch, error_number):
    # FAT answers EPERM, a file with 65,000 links EMLINK, some network mounts EOPNOTSUPP.
    monkeypatch.setattr(os, "link", no_links(error_number))
    ref = local_store.put_blob(b"model", ".glb")
    published = Path(local_store.publish("demo/A/model.glb", ref))
    assert published.read_bytes() == b"model"
    assert published.stat().st_nlink == 1
    assert local_store.create("once.json", b"first")
    assert not local_store.create("once.json", b"second")
    assert local_store.read("once.json") == b"first"


def test_a_symbolic_link_cannot_lead_a_write_or_a_read_out_of_the_store(local_store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    root = Path(local_store.location("x")).parent
    (root / "demo").symlink_to(outside)
    (root / "link.txt").symlink_to(outside / "secret.txt")
    ref = local_store.put_blob(b"x", ".bin")
    for operation in [
        lambda: local_store.write("demo/new.txt", b"x"),
        lambda: local_store.create("demo/new.txt", b"x"),
        lambda: local_store.publish("demo/new.txt", ref),
        lambda: local_store.read("demo/secret.txt"),
        lambda: local_store.delete("demo/secret.txt"),
        lambda: local_store.read("link.txt"),
    ]:
        with pytest.raises(StorageError, match="symbolic link"):
            operation()
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]
    local_store.write("link.txt", b"replaced")  # the link gives way to a file; what it showed is untouched
    assert (outside / "secret.txt").read_text() == "secret"


def test_a_store_behind_a_symbolic_link_is_fine(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk")
    store = open_store((tmp_path / "output").as_uri())
    store.write("a/b.json", b"{}")
    assert (tmp_path / "disk" / "a" / "b.json").read_bytes() == b"{}"


@contextlib.contextmanager
def file_size_limit(size):
    """The kernel refuses larger files with EFBIG, as a full disk does with ENOSPC: in mid-write."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def check_failed_writes_change_nothing(store, big, words):
    """Every way to write `big` fails with `words`, nothing new is visible, what was there stays."""
    before = list(store.list())
    for operation in [
        lambda: store.put_blob(big, ".glb"),
        lambda: store.write("kept.json", big),
        lambda: store.create("new.json", big),
    ]:
        with pytest.raises(StorageUnavailable, match=words) as caught:
            operation()
        assert Path(store.location("x")).parent.name in str(caught.value)
        assert caught.value.retryable
    assert list(store.list()) == before
    assert not store.has_blob(BlobRef.of(big, ".glb"))
    assert store.read("kept.json") == b"{}"


def test_a_file_too_large_for_the_system_fails_cleanly_and_small_work_goes_on(local_store, tmp_path):
    local_store.write("kept.json", b"{}")
    with file_size_limit(50_000):
        check_failed_writes_change_nothing(local_store, os.urandom(200_000), "larger than")
        local_store.write("small.json", b"{}")
    assert list((tmp_path / "store" / INCOMING).iterdir()) == []


@contextlib.contextmanager
def mounted(folder, *arguments):
    """A mount for the test, where this process may mount at all; else the test is skipped, and says why."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a tmpfs mount")
def test_a_full_disk_fails_cleanly_and_work_goes_on_when_space_is_free_again(tmp_path):
    folder = tmp_path / "disk"
    with mounted(folder, "-t", "tmpfs", "-o", "size=256k", "tmpfs"):
        store = open_store(folder.as_uri())
        store.write("kept.json", b"{}")
        check_failed_writes_change_nothing(store, os.urandom(400_000), "disk is full")
        assert list((folder / INCOMING).iterdir()) == []
        ref = store.put_blob(os.urandom(50_000), ".glb")
        store.publish("demo/A/model.glb", ref)
        assert BlobRef.of(store.read("demo/A/model.glb"), ".glb") == ref


@contextlib.contextmanager
def read_only(folder):
    """Root may write anywhere, so for root the folder is mounted read-only; others lose the permission."""
    if os.geteuid() == 0:
        with mounted(folder, "--bind", str(folder)):
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
            yield "read-only"
    else:
        for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            path.chmod(0o555)
        try:
            yield "permission denied"
        finally:
            for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
                path.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a bind mount when run as root")
def test_a_read_only_store_can_be_read_and_refuses_writes_with_the_way_out(tmp_path):
    folder = tmp_path / "disk"
    store = open_store(folder.as_uri())
    store.write("kept.json", b"{}")
    ref = store.put_blob(b"model", ".glb")
    with read_only(folder) as words:
        store = open_store(folder.as_uri())
        assert store.get_blob(ref) == b"model"
        assert store.put_blob(b"model", ".glb") == ref  # nothing to write
        check_failed_writes_change_nothing(store, b"new", words)
        with pytest.raises(StorageUnavailable, match=words):
            store.publish("demo/A/model.glb", ref)
        with pytest.raises(StorageUnavailable, match=words):
            store.delete("kept.json")
        with pytest.raises(StorageUnavailable, match=words):
            open_store((folder / "below").as_uri())


def test_a_file_in_place_of_the_output_folder_is_named(tmp_path):
    (tmp_path / "output").write_text("I am a file")
    for url in [(tmp_path / "output").as_uri(), (tmp_path / "output" / "models").as_uri()]:
        with pytest.raises(StorageUnavailable, match="output"):
            open_store(url)


def test_a_file_in_place_of_a_product_folder_is_named(local_store):
    local_store.write("demo", b"a file")
    with pytest.raises(StorageUnavailable, match="a file stands where a folder is needed"):
        local_store.write("demo/A/record.json", b"{}")
    local_store.write("folder/x", b"")
    with pytest.raises(StorageUnavailable, match="a folder stands where a file is needed"):
        local_store.write("folder", b"{}")


def test_an_output_folder_removed_during_a_run_is_reported_as_unavailable(local_store, tmp_path):
    import shutil

    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StorageUnavailable):
        local_store.write("demo/A/record.json", b"{}")
    with pytest.raises(BlobMissing):
        local_store.read("demo/A/record.json")
    assert list(local_store.list()) == []
