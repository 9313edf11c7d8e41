"""`trellis-pipeline generate` with the draft generator: the photo and the place for the model come first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_catalogs import draw_photo

COMMAND = [sys.executable, "-c", "from trellis_pipeline.cli import main; main()"]


def generate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "generate", *arguments, "--generator", "draft"]
    return subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_a_draft_of_one_photo_needs_no_catalog_and_no_weights(tmp_path):
    draw_photo(tmp_path / "bottle.png")
    done = generate("bottle.png", "-o", "models/bottle.glb", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["cost_usd"] == "0"
    assert 0 < facts["triangles"] <= 100_000
    assert (tmp_path / "models/bottle.glb").read_bytes()[:4] == b"glTF"


@pytest.mark.parametrize("name", ["missing.png", "/dev/zero", "pipe.png", "."])
def test_what_is_no_file_is_refused_by_name_and_not_read_or_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.png")
    done = generate(name, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert name in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["pipe.png"]


@pytest.mark.parametrize("option", ["-o", "--preview"])
@pytest.mark.parametrize("place", ["folder", "bottle.png/model.glb", "/dev/null"])
def test_a_place_where_no_file_can_be_is_refused_before_the_photo_is_looked_at(tmp_path, option, place):
    draw_photo(tmp_path / "bottle.png")
    (tmp_path / "folder").mkdir()
    done = generate("no-such-photo.png", option, place, cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {place}: " in done.stderr
    assert not Path("/dev/null").is_file()
