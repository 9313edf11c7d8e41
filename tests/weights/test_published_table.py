"""The table of published files: whole, plausible, and the same as what the documents say."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from trellis_pipeline.trellis2.published import (
    ENCODER_REPOSITORY,
    FILES,
    MAIN_REPOSITORY,
    MATTE_REPOSITORY,
    REPOSITORIES,
    wanted_files,
)

PAGE = Path(__file__).parents[2] / "docs/how-to/local-weights.md"


def gigabytes(files):
    return f"{sum(file.file_bytes for file in files) / 1e9:.1f} GB"


def test_every_file_has_a_whole_hash_a_known_repository_and_a_place_of_its_own():
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in FILES)
    assert {file.repository for file in FILES} == set(REPOSITORIES)
    assert all(re.fullmatch("[0-9a-f]{40}", repository.revision) for repository in REPOSITORIES.values())
    assert len({file.place for file in FILES}) == len({file.sha256 for file in FILES}) == len(FILES)


def test_every_network_has_a_description_and_weights():
    stems = {Path(file.place).with_suffix("") for file in FILES if "ckpts/" in file.path}
    assert {file.place for file in FILES if "ckpts/" in file.path} == {
        f"{stem}{suffix}" for stem in stems for suffix in (".json", ".safetensors")
    }
    assert len(stems) == 8


@pytest.mark.parametrize(
    ("name", "class_name", "sizes"),
    [
        ("ss_flow_img_dit_1_3B_64_bf16", "SparseStructureFlowModel", (16, 8, 8)),
        ("slat_flow_img2shape_dit_1_3B_512_bf16", "SLatFlowModel", (32, 32, 32)),
        ("slat_flow_img2shape_dit_1_3B_1024_bf16", "SLatFlowModel", (64, 32, 32)),
        ("slat_flow_imgshape2tex_dit_1_3B_512_bf16", "SLatFlowModel", (32, 64, 32)),
        ("slat_flow_imgshape2tex_dit_1_3B_1024_bf16", "SLatFlowModel", (64, 64, 32)),
    ],
)
def test_the_hash_of_a_flows_description_is_that_of_its_known_arguments(name, class_name, sizes):
    resolution, channels_in, channels_out = sizes
    args = {
        "resolution": resolution,
        "in_channels": channels_in,
        "out_channels": channels_out,
        "model_channels": 1536,
        "cond_channels": 1024,
        "num_blocks": 30,
        "num_heads": 12,
        "mlp_ratio": 5.3334,
        "pe_mode": "rope",
        "share_mod": True,
        "initialization": "scaled",
        "qk_rms_norm": True,
        "qk_rms_norm_cross": True,
        "dtype": "bfloat16",
    }
    text = json.dumps({"name": class_name, "args": args}, indent=4).encode()
    (file,) = [file for file in FILES if file.path == f"ckpts/{name}.json"]
    assert (len(text), hashlib.sha256(text).hexdigest()) == (file.file_bytes, file.sha256)


def test_a_resolution_leaves_out_what_only_others_run():
    names = {
        resolution: {file.path for file in wanted_files(FILES, resolution=resolution)}
        for resolution in ("512", "1024", "1536")
    }
    assert names["1024"] == names["1536"]
    assert names["512"] ^ names["1024"] == {
        "ckpts/slat_flow_img2shape_dit_1_3B_1024_bf16.safetensors",
        "ckpts/slat_flow_imgshape2tex_dit_1_3B_512_bf16.safetensors",
        "ckpts/slat_flow_imgshape2tex_dit_1_3B_1024_bf16.safetensors",
    }
    # Descriptions are a few bytes, and the loader reads all of them.
    assert all(
        {path for path in paths if path.endswith(".json")}
        == {file.path for file in FILES if file.path.endswith(".json")}
        for paths in names.values()
    )


def test_the_encoder_can_be_left_out_and_the_matte_is_extra():
    assert not any(file.repository == MATTE_REPOSITORY for file in wanted_files(FILES))
    with_matte = wanted_files(FILES, encoder=False, matte=True)
    assert any(file.repository == MATTE_REPOSITORY for file in with_matte)
    assert not any(file.repository == ENCODER_REPOSITORY for file in with_matte)


def test_the_page_says_the_sizes_and_licences_of_the_table():
    page = PAGE.read_text(encoding="utf-8")
    assert f"needs {gigabytes(wanted_files(FILES))} of weights" in page
    assert f"`--only-mode 512` {gigabytes(wanted_files(FILES, resolution='512'))}" in page
    assert f"the same networks, {gigabytes(wanted_files(FILES, resolution='1024'))}" in page
    for repository in REPOSITORIES.values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{repository.name}`")]
        assert repository.licence in row
        assert ("**yes**" in row) == repository.gated
    assert gigabytes(file for file in FILES if file.repository == MAIN_REPOSITORY) in page
