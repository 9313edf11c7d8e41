"""A disk that is full or read-only, for real: a small tmpfs, where the test may mount one."""

import subprocess

import pytest
from line_process import (
    Plan,
    assert_books_are_right,
    assert_consistent,
    assert_whole,
    finish,
    run,
    start,
    statuses,
    wait_until,
)
from small_catalogs import write_catalog

SKUS = ("A", "B", "C")
ONE_BY_ONE = {"workers": 1, "in_flight": 1}


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, 20 MB large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"this user may not mount a tmpfs: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk):
    """Take every byte that is left."""
    filler = disk / "filler"
    size = 1 << 20
    with filler.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    return filler


def plan_on(disk, tmp_path, *, everything, **more):
    catalog = str(write_catalog(tmp_path / "shop", SKUS))
    sections = {"run": ONE_BY_ONE, "storage": {"url": f"file://{disk / 'output'}"}}
    if everything:
        sections["home"] = str(disk / ".trellis")
    return Plan(str(tmp_path / "home"), catalog, sections=sections, **more)


@pytest.mark.parametrize(
    "everything",
    [pytest.param(False, id="output"), pytest.param(True, id="output and records", marks=pytest.mark.slow)],
)
def test_a_full_disk_stops_the_run_with_one_clear_error_and_loses_nothing(disk, tmp_path, everything):
    gate = tmp_path / "go on"
    plan = plan_on(disk, tmp_path, everything=everything, wait_for=str(gate), wait_from=2)
    process = start(plan)
    asked = tmp_path / "home" / "asked.log"
    wait_until(lambda: asked.exists() and len(asked.read_text().split()) == 2, "the second generation")
    filler = fill(disk)
    gate.touch()
    summary = finish(process)
    reason = summary.get("stopped") or summary["message"]
    assert str(disk) in reason
    # SQLite calls a full disk an I/O error where its write-ahead log cannot grow.
    assert "full" in reason or "disk I/O error" in reason
    assert "free some space" in reason
    if not everything:
        assert statuses(summary) == {"A": "generated", "B": "failed"}
    assert_whole(disk / "output")
    assert_consistent(disk / "output", "A")

    filler.unlink()
    again = run(plan)
    assert statuses(again) == {"A": "cached", "B": "generated", "C": "generated"}
    assert_whole(disk / "output")
    for sku in SKUS:
        assert_consistent(disk / "output", sku)
    assert_books_are_right(disk if everything else tmp_path / "home")


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True], ids=["output", "output and records"])
def test_a_read_only_output_is_named_with_the_way_out(disk, tmp_path, everything):
    plan = plan_on(disk, tmp_path, everything=everything)
    assert set(statuses(run(plan)).values()) == {"generated"}
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused = run(plan)
    assert refused["error"] == "StorageUnavailable", refused
    assert str(disk) in refused["message"]
    assert "writable" in refused["message"]
    assert_whole(disk / "output")
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert set(statuses(run(plan)).values()) == {"cached"}
