"""`trellis-pipeline reproduce SKU`: the certificate replayed, and the outcome held against the first."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_catalogs import (
    InstantGenerator,
    InstantGeneratorResource,
    WaitingGenerator,
    box_glb,
    settings_for,
    write_catalog,
)
from typer.testing import CliRunner

from trellis_pipeline.automation.in_process import run_catalog
from trellis_pipeline.automation.reproduce import reproduce_model
from trellis_pipeline.cli import app
from trellis_pipeline.config import load_settings
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.reports import report
from trellis_pipeline.generation.generator import GeneratedModel
from trellis_pipeline.mesh.glb_write import write_glb
from trellis_pipeline.mesh.types import EncodedImage, Material, TexturedMesh
from trellis_pipeline.service.testing import running_service

KEY = "s3ntinelKeyThatMustNeverShow0001"
PRICE = Decimal("0.0256")


class Shop:
    """One bought product, its service, and the command line in front of both."""

    def __init__(self, folder, service):
        self.folder, self.service = folder, service
        self.bought_from = ("--generator", "runware", "--base-url", service.base_url, "--output", "out")

    def invoke(self, *arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--catalog", "shop/catalog.csv"])
        assert KEY not in done.output
        assert "Traceback" not in done.output
        return done

    def reproduce(self, *more, sku="A"):
        return self.invoke("reproduce", sku, *self.bought_from, *more)

    def record(self, name="product_models.json"):
        return self.folder / "out" / "shop" / "products" / "A" / name

    def ledger_usd(self):
        settings = load_settings(None, {"home": self.folder / "out" / ".trellis"})
        with Ledger.open(settings.ledger_url) as ledger:
            assert ledger.verify() == ()
            return sum((line.settled_usd for line in report(ledger)), Decimal(0))


@pytest.fixture(scope="module")
def bought(tmp_path_factory):
    """A folder in which product A was bought, with the service that sold it; each test works on a copy."""
    folder = tmp_path_factory.mktemp("bought")
    write_catalog(folder / "shop", ["A"])
    (folder / "trellis.toml").write_text("[run]\nworkers = 1\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("RUNWARE_API_KEY", KEY)
        with running_service(InstantGenerator(), folder=folder / "service") as service:
            shop = Shop(folder, service)
            done = shop.invoke("run", *shop.bought_from, "--budget", "1")
            assert done.exit_code == 0, done.output
    return folder, service.port


@pytest.fixture
def opened(bought, tmp_path, monkeypatch):
    """Opens the shop, with the generator of its service."""
    original, port = bought  # at another port it would be another seller
    folder = tmp_path / "copy"
    shutil.copytree(original, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)
    with contextlib.ExitStack() as stack:

        def begin(generator):
            service = running_service(generator, folder=folder / "service", port=port)
            return Shop(folder, stack.enter_context(service))

        yield begin


@pytest.fixture
def shop(opened):
    return opened(InstantGenerator())


def test_a_bought_model_is_bought_again_within_a_budget_and_nothing_else_changes(shop):
    before = shop.record().read_bytes()

    refused = shop.reproduce()
    assert refused.exit_code == 2
    assert "no budget is set" in refused.stderr
    assert "about $0.0256; $0.064 is set aside" in refused.stderr  # said first, whatever comes then

    narrow = shop.reproduce("--budget", "0.01")
    assert narrow.exit_code == 1
    assert "budget of run" in narrow.stderr
    assert len(shop.service.billing()) == 1

    done = shop.reproduce("--budget", "1", "--json", "--save", "again.glb")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["verdict"] == "same"
    assert document["identical_bytes"] is True
    assert document["first_sha256"] == document["second_sha256"]
    assert Decimal(document["cost_usd"]) == PRICE
    assert Path("again.glb").read_bytes() == box_glb()

    assert [bill.cost for bill in shop.service.billing()] == [PRICE, PRICE]
    assert shop.ledger_usd() == 2 * PRICE
    assert shop.record().read_bytes() == before
    kept = json.loads(shop.record("reproduction.json").read_text())
    assert kept == document


def test_one_that_was_bought_and_not_compared_is_compared_and_not_bought_again(shop):
    assert shop.reproduce("--budget", "1").exit_code == 0
    shop.record("reproduction.json").unlink()  # as if the process had died just before
    done = shop.reproduce("--budget", "1")
    assert done.exit_code == 0
    assert "bought by an earlier call that was interrupted" in done.stdout
    assert len(shop.service.billing()) == 2
    assert shop.reproduce("--budget", "1").exit_code == 0  # and this one is a new one
    assert len(shop.service.billing()) == 3


def test_one_that_was_killed_in_the_middle_goes_on_where_it_was(opened):
    generator = WaitingGenerator()
    shop = opened(generator)
    command = [Path(sys.executable).parent / "trellis-pipeline", "reproduce", "A", "--budget", "1"]
    command += [*shop.bought_from, "--catalog", "shop/catalog.csv"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(shop.service.accepted()) < 2:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    generator.go_on.set()
    done = shop.reproduce("--budget", "1")
    assert done.exit_code == 0, done.output
    assert len(shop.service.accepted()) == len(shop.service.billing()) == 2
    assert shop.ledger_usd() == 2 * PRICE


def test_what_cannot_be_reproduced_is_refused_with_its_reason(shop):
    assert "has no model of this product" in shop.reproduce(sku="NOBODY").stderr
    assert shop.reproduce(sku="NOBODY").exit_code == 2
    assert shop.reproduce(sku="../A").exit_code == 2

    draft = shop.invoke("reproduce", "A", "--output", "out")
    assert draft.exit_code == 2
    assert f"generator was runware@127.0.0.1:{shop.service.port}, is draft" in draft.stderr
    assert f"give --generator runware --base-url {shop.service.base_url}" in draft.stderr

    whole = shop.record().read_text()
    shop.record().write_text(whole.replace('"seed": 42', '"seed": 43'))
    assert "the record was changed" in shop.reproduce("--budget", "1").stderr
    shop.record().write_text(whole.replace("@4b/1", "@4b/0"))
    other = shop.reproduce("--budget", "1")
    assert other.exit_code == 2
    assert "build was 0, is 1" in other.stderr
    shop.record().write_text(whole)

    crop = shop.record("product_crops.json")
    sha256 = json.loads(crop.read_text())["crop"]["sha256"]
    crop.write_text(crop.read_text().replace(sha256, "0" * 64))
    moved = shop.reproduce("--budget", "1")
    assert moved.exit_code == 2
    assert "is not the product's crop any more" in moved.stderr
    assert len(shop.service.billing()) == 1


def box(colour="orange", size=1.0):
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32) - 0.5
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]]
    faces += [[0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    normals = (corners / np.linalg.norm(corners, axis=1, keepdims=True)).astype(np.float32)
    png = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(png, "PNG")
    material = Material(base_color=EncodedImage(png.getvalue(), "image/png", 8, 8))
    uvs = np.full((8, 2), 0.5, np.float32)
    return write_glb(
        TexturedMesh(corners * np.float32(size), normals, uvs, np.array(faces, np.int32), material)
    )


class Moody(InstantGenerator):
    """Gives another file each time."""

    def __init__(self, *glbs):
        super().__init__()
        self.glbs = list(glbs)

    async def generate(self, request, image, progress=None):
        return [GeneratedModel(self.glbs.pop(0), request.seed, Decimal(0), 0.001)]


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """A folder in which product A has the model `box()`."""
    folder = tmp_path_factory.mktemp("boxed")
    settings = settings_for(folder, write_catalog(folder / "shop", ["A"]))
    generator = InstantGeneratorResource.around(Moody(box()))
    run_catalog(settings, settings.catalogs[0], generator=generator)
    return folder


@pytest.mark.parametrize(
    ("again", "verdict"),
    [(box(size=1.002), "equivalent"), (box("navy"), "different"), (box(size=1.2), "different")],
    ids=["hardly larger", "another colour", "much larger"],
)
def test_other_bytes_are_judged_by_what_somebody_would_notice(boxed, tmp_path, again, verdict):
    shutil.copytree(boxed, tmp_path / "copy")
    settings = settings_for(tmp_path / "copy", tmp_path / "copy" / "shop" / "catalog.csv")
    generator = InstantGeneratorResource.around(Moody(again))
    said = []
    document, glb = reproduce_model(settings, settings.catalogs[0], "A", said.append, generator=generator)
    assert document["verdict"] == verdict
    assert glb == again
    assert said[0]["paid"] is False


def test_the_draft_generator_gives_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trellis.toml").write_text("[run]\nworkers = 1\n")
    write_catalog(tmp_path / "shop", ["A"])
    cli = CliRunner()
    where = ["--catalog", "shop/catalog.csv", "--output", "out"]
    assert cli.invoke(app, ["run", *where]).exit_code == 0
    done = cli.invoke(app, ["reproduce", "A", *where])
    assert done.exit_code == 0, done.output
    assert "same: the same bytes came again" in done.stdout
    assert "which is free" in done.stderr
