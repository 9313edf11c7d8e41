"""Why a product has no model: kept beside its files until it has one, for the report and for the next run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import pydantic
from pydantic import BaseModel, ConfigDict

from assets.paths import product_path
from trellis_pipeline.errors import BlobMissing
from trellis_pipeline.storage.store import ArtifactStore

_FILE = "problem.json"


class Problem(BaseModel):
    """status: `held` by triage or `failed`; stage and reason say where and why. run_id: as in the ledger."""

    model_config = ConfigDict(frozen=True)
    status: Literal["held", "failed"]
    stage: str
    reason: str
    seconds: float
    run_id: str


def save_problem(store: ArtifactStore, catalog: str, sku: str, problem: Problem) -> None:
    """Write it down, replacing an older one."""
    store.write(product_path(catalog, sku, _FILE), problem.model_dump_json(indent=1).encode())


def clear_problem(store: ArtifactStore, catalog: str, sku: str, stages: Collection[str]) -> None:
    """The product made it through these stages. A problem at another stage is none of their business."""
    problem = load_problem(store, catalog, sku)
    if problem is not None and problem.stage in stages:
        store.delete(product_path(catalog, sku, _FILE))


def load_problem(store: ArtifactStore, catalog: str, sku: str) -> Problem | None:
    """The problem of the last run, or None."""
    try:
        return Problem.model_validate_json(store.read(product_path(catalog, sku, _FILE)))
    except (BlobMissing, pydantic.ValidationError):
        return None
