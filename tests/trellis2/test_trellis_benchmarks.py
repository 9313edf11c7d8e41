"""The benchmark that needs a GPU does not rot on machines without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_whole_way_is_timed_stage_by_stage(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/trellis2_gpu.py"), "--folder", str(tmp_path)]
    command += ["--device", "cpu", "--tiny", "--modes", "1024_cascade", "--plans", "host", "disk"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for plan in ("host", "disk"):
        page = done.stdout.partition(f"mode 1024_cascade, plan {plan}:")[2]
        assert "416 tokens, 166,400 fine voxels" in page
        for stage in ("image_encoder", "shape_slat_flow_model_1024", "tex_slat_decoder", "photo to latents"):
            assert stage in page
