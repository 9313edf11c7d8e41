"""What a run says that it has spent."""

from decimal import Decimal

from small_catalogs import InstantGenerator, InstantGeneratorResource, settings_for, write_catalog

from assets.line import STAGES
from assets.opening import LineSettings, open_tools
from assets.records import LineItem
from assets.stream import ProductDone, stream
from trellis_pipeline.automation.summary import product_summary
from trellis_pipeline.catalog.product import Product
from trellis_pipeline.definitions import build_definitions
from trellis_pipeline.generation.generator import GeneratorIdentity


class LosesTheCrop(InstantGenerator):
    """While it works, somebody cleans up in the store."""

    def __init__(self, output):
        super().__init__(paid=True, cost="0.05")
        self.identity = GeneratorIdentity("runware", "microsoft:trellis-2@4b", "1")
        self.output = output

    async def generate(self, request, image, *rest):
        (crop,) = self.output.rglob(f"{image.sha256}*")
        crop.unlink()
        return await super().generate(request, image, *rest)


def test_a_model_that_was_bought_and_could_not_be_judged_still_counts_as_spent(tmp_path):
    catalog = write_catalog(tmp_path / "shop", ["A"])
    settings = settings_for(tmp_path, catalog, budget={"total_usd": 5}, triage={"hold": "never"})
    generator = InstantGeneratorResource.around(LosesTheCrop(tmp_path / "output"))
    resources = build_definitions(settings, generator=generator).resources
    line = LineSettings(settings, settings.catalogs[0])
    names = ("store", "generator", "catalogs", "ledger")
    item = LineItem(Product("A", str(tmp_path / "shop" / "A.png")))
    with open_tools(line, "run-1", *(resources[name] for name in names)) as tools:
        (done,) = (e for e in stream([item], STAGES, [], tools, in_flight=1) if isinstance(e, ProductDone))
        said = product_summary(done, "shop", tools.store)
    assert (said.status, said.failed_stage) == ("failed", "model_quality"), said.error
    assert said.cost_usd == Decimal("0.05")
