"""Settings of what goes down the line: the catalogs, their photos, the limits that models must keep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

RESERVED_NAMES = frozenset({"blobs", "generations", "doctor", "incoming"})
"""Names in the store that no catalog may have."""

_STRICT = ConfigDict(frozen=True, extra="forbid")
_CATALOG_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class CatalogSettings(BaseModel):
    """One product catalog, which becomes one line of assets.

    name: group and asset prefix. source: a CSV, Parquet or JSON Lines file, a directory or an s3:// prefix.
    generation: settings that differ from `[generation.settings]` for this catalog.
    """

    model_config = _STRICT
    name: str
    source: str
    profile: str | None = None
    generation: dict[str, Any] = {}

    @pydantic.field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        if not _CATALOG_NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise ValueError(
                f"{name!r} cannot name a catalog: use lower-case letters, digits and _, starting with a "
                f"letter, and none of {', '.join(sorted(RESERVED_NAMES))}"
            )
        return name


class CatalogByPath(CatalogSettings):
    """A catalog that was given by its path alone. Its name is made from that, so two may come to the same."""


class PreviewSettings(BaseModel):
    """The picture that is drawn of each finished model. px: its side."""

    model_config = _STRICT
    px: Annotated[int, Field(ge=32, le=2048)] = 512


class TriageSettings(BaseModel):
    """hold: which products with a triage flag wait for a person: only those that would cost money,
    all of them, or none."""

    model_config = _STRICT
    hold: Literal["paid", "always", "never"] = "paid"


class ImagerySettings(BaseModel):
    """Limits on source images, and how the object is cut out.

    matte: `auto`, `alpha`, `u2netp`, `classical`, `birefnet` or `rembg:<model>`.
    """

    model_config = _STRICT
    max_pixels: Annotated[int, Field(ge=1_000)] = 64_000_000
    max_bytes: Annotated[int, Field(ge=1_000)] = 50_000_000
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    allow_private_addresses: bool = False
    allowed_hosts: tuple[str, ...] = ()
    matte: str = "auto"


class ProfileSettings(BaseModel):
    """What a target accepts; each limit becomes an asset check."""

    model_config = _STRICT
    max_triangles: Annotated[int, Field(gt=0)] = 150_000
    max_texture_px: Annotated[int, Field(gt=0)] = 2048
    max_file_mb: Annotated[float, Field(gt=0)] = 15.0
    require_watertight: bool = False
    min_silhouette_iou: Annotated[float, Field(ge=0, le=1)] | None = 0.8


class QualitySettings(BaseModel):
    """Named profiles and the one that catalogs use unless they name another."""

    model_config = _STRICT
    profile: str = "web"
    profiles: dict[str, ProfileSettings] = {"web": ProfileSettings()}


def catalog_name_for(source: str, taken: set[str]) -> str:
    """A valid, free catalog name made from a path: its stem, or its folder's name for a `catalog.*`."""
    path = Path(source.rstrip("/"))
    stem = path.parent.name if path.stem.lower() == "catalog" else path.stem
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:48] or "catalog"
    if not name[0].isalpha() or name in RESERVED_NAMES:
        name = f"catalog_{name}"
    unique = (name if n == 1 else f"{name}_{n}" for n in range(1, len(taken) + 2))
    return next(candidate for candidate in unique if candidate not in taken)
