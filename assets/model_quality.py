"""`model_quality`: what each GLB is like, measured, and whether its profile accepts it.

The measurements are the same as `trellis-pipeline inspect`; the silhouette is compared with the crop the
model was made from. Every limit of the profile becomes an asset check of the product.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from assets.birth_certificate import keep_birth_certificate
from assets.records import Check, LineItem, ModelQuality, ProductCrop, ProductModel, fingerprint
from assets.stage import Stage
from assets.tools import LineTools


def identity(item: LineItem, tools: LineTools) -> tuple[object, ...]:
    """The model, the crop it is compared with, and the limits."""
    model = item.need(ProductModel)
    return (model.data_version, item.need(ProductCrop).data_version, asdict(tools.profile))


async def make(item: LineItem, tools: LineTools, inputs_key: str) -> ModelQuality:
    """Measure in a worker, judge, publish the record beside the model."""
    from trellis_pipeline.quality.assess import assess
    from trellis_pipeline.quality.profiles import judge, verdict

    glb = await asyncio.to_thread(tools.store.get_blob, item.need(ProductModel).model)
    crop = await asyncio.to_thread(tools.store.get_blob, item.need(ProductCrop).crop)
    assessed = await tools.workers.run(assess, glb, crop)
    record = assessed.value
    results = judge(record, tools.profile)
    report = record.to_json_dict()
    quality = ModelQuality(
        inputs_key=inputs_key,
        data_version=fingerprint(report, asdict(tools.profile)),
        seconds=assessed.seconds,
        report=report,
        attempt=item.need(ProductModel).attempt,
        profile=tools.profile.name,
        checks=tuple(
            Check(
                name=result.name,
                passed=result.passed,
                severity=result.severity,
                value=result.value,
                limit=result.limit,
                message=result.message,
            )
            for result in results
        ),
        verdict=verdict(results),
    )
    await asyncio.to_thread(keep_birth_certificate, item, tools, quality)
    return quality


def metadata(record: ModelQuality) -> Mapping[str, Any]:
    """What the UI shows for one verdict; numbers plot over partitions."""
    report = record.report
    silhouette = report.get("silhouette_iou")
    return {
        "verdict": record.verdict,
        "profile": record.profile,
        "attempt": record.attempt,
        "triangles": report["triangles"],
        "texture_px": report["max_texture_px"],
        "file_mb": report["file_bytes"] / 1e6,
        "boundary_edges": report["boundary_edges"],
        "non_manifold_edges": report["non_manifold_edges"],
        "components": report["components"],
        "failed_checks": sum(not check.passed for check in record.checks),
        "seconds": record.seconds,
        **({"silhouette_iou": silhouette} if silhouette is not None else {}),
    }


STAGE = Stage(
    record=ModelQuality,
    version="2",
    after=ProductModel.stage,
    description="Geometry, textures, file and fidelity of the GLB, judged against the catalog's profile.",
    identity=identity,
    make=make,
    metadata=metadata,
    kinds=frozenset({"gltf"}),
)
