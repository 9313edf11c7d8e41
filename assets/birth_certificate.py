"""The birth certificate of a GLB: where it came from, what it cost, how good it is, how to make it again.

The part that is known when the file is finished travels inside it (`asset.extras`). The whole one, with the
quality record that can only be taken afterwards, stands beside it as `birth_certificate.json`.
"""

from __future__ import annotations

import json
from typing import Any

from assets.paths import product_path
from assets.records import LineItem, ModelQuality, ProductCrop, ProductModel, SourceImage
from assets.tools import LineTools
from trellis_pipeline import __version__

NAME = "birth_certificate.json"


def birth_certificate(item: LineItem, quality: ModelQuality) -> dict[str, Any]:
    """Everything that is known of a product's model, as JSON-able data."""
    photo, crop, model = item.need(SourceImage), item.need(ProductCrop), item.need(ProductModel)
    return {
        **model.certificate,
        "made_with": f"trellis-pipeline {__version__}",
        "source": {
            "location": photo.location,
            "sha256": photo.photo.sha256,
            "width": photo.width,
            "height": photo.height,
        },
        "crop": {
            "sha256": crop.crop.sha256,
            "width": crop.width,
            "height": crop.height,
            "matte_method": crop.matte_method,
            "flags": [flag.code for flag in crop.flags],
        },
        "model": {
            "sha256": model.model.sha256,
            "generation_sha256": model.generation.sha256,
            "file_bytes": model.model.size,
            "triangles": model.triangles,
            "vertices": model.vertices,
            "max_texture_px": model.max_texture_px,
        },
        "quality": {
            "verdict": quality.verdict,
            "profile": quality.profile,
            "checks": {check.name: check.passed for check in quality.checks},
            "silhouette_iou": quality.report.get("silhouette_iou"),
            "watertight": quality.report.get("watertight"),
        },
    }


def keep_birth_certificate(item: LineItem, tools: LineTools, quality: ModelQuality) -> None:
    """Write it beside the model."""
    text = json.dumps(birth_certificate(item, quality), indent=1, sort_keys=True)
    tools.store.write(product_path(tools.catalog, item.product.sku, NAME), text.encode())
