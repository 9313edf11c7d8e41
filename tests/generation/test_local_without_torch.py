"""A machine without PyTorch: the local generator says what to install, everything else goes on."""

import importlib.util

import pytest
from small_catalogs import settings_for, write_catalog

from resources.generator import generator_of
from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.summary import summarise
from trellis_pipeline.errors import ConfigError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None, reason="PyTorch is installed here"
)
LOCAL = {"usd_per_gpu_second": "0.001"}


async def nowhere(*_):
    raise AssertionError("no work is handed out")


def test_the_local_generator_names_the_package_to_install(tmp_path):
    settings = settings_for(tmp_path, generation={"generator": "local"}, local=LOCAL)
    with pytest.raises(ConfigError, match=r"pip install 'trellis-pipeline\[local\]'"):
        generator_of(settings).open(nowhere)


def test_other_generators_do_not_mind(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["CAN-1"])
    settings = settings_for(tmp_path, catalog, generation={"generator": "draft"}, local=LOCAL)
    done = run_catalog(settings, settings.catalogs[0])
    assert [product.status for product in summarise(done, 1.0).products] == ["generated"]
