"""torch.compile changes the speed and not the model, with every memory plan; or it is refused at once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="TRELLIS.2 needs PyTorch")

from PIL import Image  # noqa: E402

from trellis_pipeline.errors import ConfigError  # noqa: E402
from trellis_pipeline.trellis2.compiling import check_compiler  # noqa: E402
from trellis_pipeline.trellis2.pipeline import generate  # noqa: E402
from trellis_pipeline.trellis2.repository import open_repository  # noqa: E402
from trellis_pipeline.trellis2.resident import ResidentNetworks  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_networks_make_the_same_model_with_every_memory_plan(checkpoint):
    from torch._dynamo.utils import counters

    repository = open_repository(checkpoint)
    disc = Image.fromarray(np.full((64, 64, 4), 200, np.uint8))
    disc.putalpha(Image.radial_gradient("L").resize((64, 64)).point(lambda v: 255 * (v < 160)))

    def made(**how):
        networks = ResidentNetworks(repository, CPU, **how)
        runs = [
            generate(networks, disc, mode="1024_cascade", seed=5, settings=repository.settings)
            for _ in range(2)
        ]
        return runs[-1]

    plain = made(plan="disk")
    made(plan="device", compiled=True)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    for plan in ("device", "host", "disk"):
        model = made(plan=plan, compiled=True)
        assert np.array_equal(model.coords, plain.coords)
        np.testing.assert_allclose(model.vertices, plain.vertices, atol=1e-5)
        np.testing.assert_allclose(model.attributes, plain.attributes, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == graphs  # none was compiled again


@pytest.mark.slow
def test_without_a_compiler_it_is_refused_before_anything_is_loaded(tmp_path):
    code = (
        "import torch\n"
        "from trellis_pipeline.errors import ConfigError\n"
        "from trellis_pipeline.trellis2.compiling import check_compiler\n"
        "try:\n"
        "    check_compiler(torch.device('cpu'))\n"
        "except ConfigError as error:\n"
        "    print('refused:', error)\n"
    )
    here = Path(__file__).parents[2]
    environment = os.environ | {
        "CXX": str(tmp_path / "no-such-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(here),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("refused: torch.compile does not work here")
    assert "set [local] compile = false" in done.stdout


def test_on_mps_it_is_refused():
    with pytest.raises(ConfigError, match=r"not used on MPS: set \[local\] compile = false"):
        check_compiler(torch.device("mps"))
