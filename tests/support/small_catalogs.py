"""Small real catalogs for tests of the line: photos drawn on the spot, and a generator that costs no time.

The generator is a full implementation of the protocol with a billing log of its own, so tests can ask what
was really bought. It is passed in like any user's own generator would be.
"""

from __future__ import annotations

import asyncio
import csv
import io
import threading
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from resources.generator import GeneratorResource
from trellis_pipeline.config import Settings, load_settings
from trellis_pipeline.config_products import CatalogSettings
from trellis_pipeline.errors import ProviderRejected
from trellis_pipeline.generation.generator import (
    GeneratedModel,
    GeneratorIdentity,
    InputImage,
    Progress,
    no_progress,
)
from trellis_pipeline.generation.request import GenerationRequest

COLOURS = ("firebrick", "seagreen", "royalblue", "darkorange", "purple", "teal")


def draw_photo(path: Path, number: int = 0, px: int = 160) -> Path:
    """A bottle on a transparent ground; each number gives another one."""
    image = Image.new("RGBA", (px, px), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    body = (px * 0.3, px * 0.35, px * 0.7, px * 0.9)
    draw.rounded_rectangle(body, px * 0.08, fill=COLOURS[number % len(COLOURS)])
    draw.rectangle((px * 0.44, px * 0.1 + number % 7, px * 0.56, px * 0.4), fill="dimgray")
    draw.text((px * 0.35, px * 0.6), str(number), fill="white")
    image.save(path)
    return path


def write_catalog(folder: Path, skus: Iterable[str], rows: Iterable[Mapping[str, Any]] = ()) -> Path:
    """A catalog.csv with a photo for each SKU; `rows` are added as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[Mapping[str, Any]] = []
    for number, sku in enumerate(skus):
        draw_photo(folder / f"{sku}.png", number)
        listed.append({"sku": sku, "image": f"{sku}.png", "title": f"Bottle {number}", "height_m": "0.3"})
    listed += list(rows)
    columns = sorted({column for row in listed for column in row} | {"sku", "image"})
    path = folder / "catalog.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(listed)
    return path


def settings_for(tmp: Path, catalog: Path | None = None, **sections: Any) -> Settings:
    """Settings that keep everything in `tmp`; the catalog, if given, is called `shop`."""
    config = tmp / "trellis.toml"
    tmp.mkdir(parents=True, exist_ok=True)
    config.touch()
    settings = load_settings(
        config,
        {
            "storage": {"url": f"file://{tmp / 'output'}"},
            "home": tmp / ".trellis",
            "run": {"workers": 1},
            **sections,
        },
    )
    if catalog is None:
        return settings
    return settings.model_copy(update={"catalogs": (CatalogSettings(name="shop", source=str(catalog)),)})


@cache
def box_glb(height: float = 1.0) -> bytes:
    """A textured box, 1 wide and 1 deep."""
    from trellis_pipeline.mesh.glb_write import write_glb
    from trellis_pipeline.mesh.types import EncodedImage, Material, TexturedMesh

    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (0, 1) for z in (-0.5, 0.5)], np.float32)
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]]
    faces += [[0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    corners[:, 1] *= height
    centred = corners - np.array([0, height / 2, 0], np.float32)
    normals = (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32)
    png = io.BytesIO()
    Image.new("RGB", (8, 8), "orange").save(png, "PNG")
    material = Material(base_color=EncodedImage(png.getvalue(), "image/png", 8, 8))
    uvs = np.random.default_rng(0).random((8, 2), dtype=np.float32)
    return write_glb(TexturedMesh(corners, normals, uvs, np.array(faces, np.int32), material))


class InstantGenerator:
    """Returns a box at once. `billed` is its billing log: one entry for each generation it made."""

    builds_to_size = False
    at_once = None

    def __init__(self, *, paid: bool = False, cost: str = "0", refuse: frozenset[int] = frozenset()) -> None:
        self.identity = GeneratorIdentity("instant", "box", "1")
        self.paid = paid
        self.cost = cost
        self.refuse = refuse
        self.billed: list[tuple[str, int]] = []

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        if request.seed in self.refuse:
            raise ProviderRejected(f"seed {request.seed} is refused")
        self.billed.append((image.sha256, request.seed))
        progress(1.0)
        return [GeneratedModel(box_glb(), request.seed, Decimal(self.cost), 0.001, raw_cost_text=self.cost)]


class WaitingGenerator(InstantGenerator):
    """Makes `free` generations at once; the others wait until `go_on` is set."""

    def __init__(self, free: int = 0) -> None:
        super().__init__()
        self.free = free
        self.go_on = threading.Event()

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        self.free -= 1
        waits = self.free < 0
        while waits and not self.go_on.is_set():
            await asyncio.sleep(0.02)
        return await super().generate(request, image, progress)


class InstantGeneratorResource(GeneratorResource):
    """Plugs a generator object into the line."""

    name: str = "instant"
    _instances: ClassVar[dict[int, InstantGenerator]] = {}
    key: int = 0

    @classmethod
    def around(cls, generator: InstantGenerator, **settings: Any) -> InstantGeneratorResource:
        cls._instances[id(generator)] = generator
        return cls(key=id(generator), **settings)

    def open(self, run_cpu: Any, *_: Any, **__: Any) -> InstantGenerator:
        return self._instances[self.key]
