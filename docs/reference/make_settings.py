"""Writes settings.md from the models that validate the settings: `python docs/reference/make_settings.py`.

A reference kept by hand is wrong within a month. Types, ranges and defaults come from `config.py` and
`generation/request.py`; only what a key means is written here, and a key without a meaning is an error.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from trellis_pipeline.config import Settings
from trellis_pipeline.generation.request import GenerationRequest

TARGET = Path(__file__).with_name("settings.md")

MEANINGS = {
    "home": "Folder for Dagster's files and the SQLite ledger. Relative paths count from the settings file.",
    "storage.url": "Where artifacts go: `file://folder` (relative: from the settings file) or "
    "`s3://bucket/prefix`.",
    "storage.s3_endpoint": "URL of an S3-compatible server other than AWS.",
    "storage.s3_region": "Region, where the AWS environment does not say.",
    "ledger.url": "SQLAlchemy URL of the spend ledger: `sqlite:////absolute/file.db` or "
    "`postgresql://user:password@host/database`. Left out: `ledger.sqlite` in `home`. Never logged.",
    "run.products_per_run": "Products of a backfill, a schedule or a sensor that share one Dagster run.",
    "run.in_flight": "Products on the line of one run at the same time.",
    "run.workers": "Processes for CPU work; 0 is one for each core.",
    "imagery.max_pixels": "Width × height above which a photo is refused before it is decoded. Pillow's own "
    "limit of 89,478,485 applies on top.",
    "imagery.max_bytes": "Size above which a fetched photo is refused.",
    "imagery.timeout_seconds": "Time for fetching one photo over https, redirects included.",
    "imagery.allow_private_addresses": "Also fetch from private and loopback addresses, and over plain "
    "http. Cloud metadata addresses stay refused.",
    "imagery.allowed_hosts": "If not empty, the only hosts to fetch from; `.example.com` stands for every "
    "subdomain.",
    "imagery.matte": "How the object is cut out: `auto`, `alpha`, `u2netp`, `classical`, `birefnet` (after "
    "`weights fetch --matte`) or `rembg:<model>`. See [matting](../design/matting.md).",
    "triage.hold": "Which products with a triage flag wait for a person: those that would be bought "
    "(`paid`), all (`always`), none (`never`).",
    "generation.generator": "Which generator makes the models: `draft` (a blockout on the CPU, free) or "
    "`runware` (bought; needs RUNWARE_API_KEY and a budget).",
    "generation.results": "Models to buy for each product (1 to 4); the best by QA is kept, all are paid.",
    "generation.retries": "Further purchases after the provider accepted a task and failed it.",
    "alerts.percents": "Shares of a budget at which an alert is given, once each.",
    "alerts.slack_url": "Slack incoming-webhook address for alerts. A secret: set it as "
    "`TRELLIS_ALERTS__SLACK_URL`.",
    "runware.base_url": "Endpoint of the API, or of a server with the same one (`trellis-pipeline serve`).",
    "runware.delivery": "`async` hands a task in and polls; `sync` holds the connection open.",
    "runware.image_input": "`data_uri` sends the crop with each task; `upload` sends it once and names it; "
    "`url` sends a link to it in the `s3://` storage, good for an hour.",
    "runware.ttl_seconds": "How long result URLs live; left out, the provider decides. Files are fetched at "
    "once.",
    "runware.max_concurrency": "Most tasks handed in at once; the client begins with 4 and finds out how "
    "many go well.",
    "runware.tasks_per_request": "Tasks in one request. No limit is documented, and one lost answer then "
    "leaves one outcome open.",
    "runware.polls_per_request": "Tasks that one poll asks about.",
    "runware.attempts": "How often a call, or a download, is tried before it is given up for this run.",
    "runware.download_seconds": "Time for one file, from first to last byte.",
    "runware.max_downloads": "Files under way at once; each is held in memory.",
    "runware.max_model_bytes": "Size above which a file is refused.",
    "runware.task_seconds": "How long a task is waited for; afterwards the next run asks for it again.",
    "runware.allowed_hosts": "Where files may come from, besides the host of `base_url`; `.example.com` "
    "stands for every subdomain.",
    "runware.upload_to_store": "Let the provider upload each model to the `s3://` storage by itself, where "
    "it is verified; its URL is used where the upload does not come.",
    "local.weights": "The folder that `trellis-pipeline weights fetch` fills.",
    "local.image_encoder": "Folder of the DINOv3 checkpoint, where it is elsewhere.",
    "local.device": "`auto` (CUDA, else MPS, else the CPU), `cpu`, `mps`, `cuda` or `cuda:1`. A run's tag "
    "`trellis/device` wins.",
    "local.precision": "Of the flow networks. `auto`: bfloat16 where the device computes it well.",
    "local.plan": "Where networks wait for their next use: on the `device`, in the `host`'s memory, or on "
    "`disk`. `auto`: the first that fits.",
    "local.compile": "Run the networks through torch.compile: slower to begin, faster afterwards.",
    "local.retry_smaller": "Where the device's memory does not suffice, try once more with a smaller plan.",
    "local.max_tokens": "Voxels that a flow may attend over; 1536 gives way down to 1024 before that.",
    "local.usd_per_gpu_second": "What the machine costs while it makes a model. Needed; 0 counts it as free.",
    "local.expected_seconds": "Of one model, for the first reservations. Unset: ten times what is published "
    "for an H100.",
    "local.original_remesh": "Remesh as the original exporter does: a double-walled skin.",
    "local.normal_map": "Bake a normal map from the surface before simplification.",
    "local.occlusion_rays": "Bake ambient occlusion with so many rays a vertex; 0 leaves it out.",
    "service.host": "Address that `trellis-pipeline serve` listens on.",
    "service.port": "Its port.",
    "service.api_key_hashes": "sha256 (hex) of each key that is let in. None: this machine only, any key.",
    "service.price_usd": "Price of each result; left out, what the generator says it cost.",
    "service.credit_usd": "What clients may spend together; left out, no limit.",
    "service.concurrency": "Generations at the same time.",
    "service.public_url": "Where clients reach the server, for links in answers.",
    "webhooks.public_url": "Where the provider reaches `trellis-pipeline webhooks`, by https from the "
    "internet; left out, polling alone.",
    "webhooks.host": "Address that the webhook endpoint listens on.",
    "webhooks.port": "Its port.",
    "generation.seed": "Seed of the first attempt; each further attempt takes the next one.",
    "generation.settings": "Fields of the request's `settings`, for all catalogs; see below.",
    "previews.px": "Pixels of the side of `preview.png`. Changing it finishes every model again, without "
    "generating.",
    "quality.profile": "Name of the profile that catalogs use unless they name another.",
    "quality.profiles.<name>.max_triangles": "Check `polycount`: no more triangles than this.",
    "quality.profiles.<name>.max_texture_px": "Check `texture_size`: longest side of any texture.",
    "quality.profiles.<name>.max_file_mb": "Check `file_size`: megabytes of 1,000,000 bytes.",
    "quality.profiles.<name>.require_watertight": "Whether an open surface fails the check `watertight` "
    "instead of warning.",
    "quality.profiles.<name>.min_silhouette_iou": "Check `silhouette`: overlap with the outline in the crop, "
    "below which it warns. TOML has no null: to leave the outline unjudged, set 0.",
    "budget.total_usd": "Cap on everything the ledger has ever booked.",
    "budget.day_usd": "Cap for each UTC day.",
    "budget.catalog_usd": "Cap for each catalog.",
    "budget.run_usd": "Cap for each Dagster run.",
    "budget.product_usd": "Cap for each product.",
    "automation.nightly.enabled": "Whether the nightly schedule is on from the start.",
    "automation.nightly.cron": "When it ticks, as a cron expression.",
    "automation.nightly.timezone": "Time zone of the cron expression.",
    "automation.catalog_sensor.enabled": "Whether the catalog sensor is on from the start.",
    "automation.catalog_sensor.every_seconds": "Least time between two looks at the catalog.",
    "automation.failed_quality_sensor.enabled": "Whether rejected models are generated again by themselves.",
    "automation.failed_quality_sensor.every_seconds": "Least time between two looks at new verdicts.",
    "automation.failed_quality_sensor.max_attempts": "Attempts for each product, the first one counted.",
    "automation.report_sensor.enabled": "Whether the reports are renewed after the last run by themselves.",
    "automation.report_sensor.every_seconds": "Least time between two looks at waiting runs.",
    "automation.webhook_sensor.enabled": "Whether purchases that nobody waits for any more are taken up "
    "again by themselves: called back, or left by a run that died.",
    "automation.webhook_sensor.every_seconds": "Least time between two looks at open purchases.",
    "automation.webhook_sensor.left_after_seconds": "Age at which an open purchase is taken up although "
    "nothing was heard of it; then again at twice that age, four times, and so on. At most 30 days.",
    "catalogs[].name": "Asset group and key prefix: lower-case letters, digits and `_`, beginning with a "
    "letter, at most 63 characters; not `blobs`, `generations`, `doctor` or `incoming`.",
    "catalogs[].source": "A CSV, Parquet or JSON Lines file, a folder, or `s3://bucket/prefix`.",
    "catalogs[].profile": "Quality profile of this catalog, if not `quality.profile`.",
    "catalogs[].generation": "Request fields that differ for this catalog, for example "
    "`{ seed = 7, settings = { resolution = 512 } }`.",
}

REQUEST_MEANINGS = {
    "model": "The model the request is written for.",
    "seed": "Same seed, same request: same model.",
    "numberResults": "Results of one request. The line uses one.",
    "settings.resolution": "Voxel grid.",
    "settings.decimationTarget": "Triangles after simplification. The draft generator takes it as an upper "
    "limit and stays far below it.",
    "settings.remesh": "Whether the surface is rebuilt before simplification.",
    "settings.textureSize": "Pixels of the texture's side. The draft generator takes it as an upper limit.",
    "steps": "Sampler steps.",
    "guidanceStrength": "Guidance strength.",
    "guidanceRescale": "Guidance rescale.",
    "rescaleT": "rescale_t.",
}

HEAD = """# Settings

<!-- Written by docs/reference/make_settings.py from the models that validate the settings. Do not edit. -->

Settings are read from one file and from the environment, once, when a command or Dagster starts.

- **File.** `--config FILE`; else the file named by `TRELLIS_CONFIG`; else the nearest `trellis.toml` in the
  current folder or above; else defaults. An unknown key is an error that suggests the right one.
- **Environment.** `TRELLIS_<SECTION>__<KEY>`, two underscores between levels: `TRELLIS_STORAGE__URL`,
  `TRELLIS_BUDGET__DAY_USD`. Lists and tables are written as JSON:
  `TRELLIS_CATALOGS='[{"name": "shop", "source": "shop.csv"}]'`,
  `TRELLIS_GENERATION__SETTINGS='{"textureSize": 1024}'`. The environment wins over the file, and options on
  the command line (`--output`, `--generator`) over both. An unknown key inside a section is an error, and so
  is a variable that looks like a misspelt setting (`TRELLIS_BUDGET_TOTAL_USD`); others are left alone.
- **`.env`.** `trellis-pipeline` does not read it: `set -a; . ./.env; set +a` does. Dagster's own processes
  load the one in their working directory.

Other variables: `DAGSTER_HOME` (Dagster's files; wins over `home`), `TRELLIS_UI_PORT` (`make ui`, default
3000), the usual `AWS_…` variables for S3.

## Keys of trellis.toml

| key | type | default | meaning |
|---|---|---|---|
"""

REQUEST_HEAD = """
## Fields of a request

What a generator is asked for, in the names of the `3dInference` document for `microsoft:trellis-2@4b`. They
may stand in three places, of which later ones win: `[generation]` (`seed`, `settings`), `generation` of a
catalog, and columns of the catalog for single products (`seed`, `settings.resolution`, …).

What is left out of a sampler keeps the model's own default. The draft generator uses `seed`,
`decimationTarget` and `textureSize`; the samplers, `resolution` and `remesh` do not apply to it, but are part
of the request's identity: changing them makes the draft again.

| field | type | default | meaning |
|---|---|---|---|
"""


def settings_page() -> str:
    """The whole page. Raises KeyError for a key without a meaning and for a meaning without a key."""
    rows = list(_rows(Settings, ""))
    unused = MEANINGS.keys() - {key for key, _, _ in rows}
    if unused:
        raise KeyError(f"not settings any more: {', '.join(sorted(unused))}")
    table = [f"| `{key}` | {kind} | {default} | {MEANINGS[key]} |" for key, kind, default in rows]
    request = [
        f"| `{key}` | {kind} | {default} | {_request_meaning(key)} |"
        for key, kind, default in _rows(GenerationRequest, "")
    ]
    return HEAD + "\n".join(table) + "\n" + REQUEST_HEAD + "\n".join(request) + "\n"


def setting_keys() -> list[str]:
    """Every key of trellis.toml, as the page names it."""
    return [key for key, _, _ in _rows(Settings, "")]


def _request_meaning(key: str) -> str:
    return REQUEST_MEANINGS[key if key in REQUEST_MEANINGS else key.rsplit(".", 1)[-1]]


def _rows(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        if model is Settings and name == "root":  # where the file was found; nobody sets it
            continue
        key = f"{prefix}{name}"
        inner = [part for part in _parts(field.annotation) if _is_model(part)]
        if not inner:
            yield key, _type_text(field), _default_text(field)
            continue
        origin = typing.get_origin(field.annotation)
        between = ".<name>." if origin is dict else "[]." if origin is tuple else "."
        yield from _rows(inner[0], key + between)


def _parts(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) or (annotation,)


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)


_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true / false",
    Decimal: "US dollars",
    Path: "path",
    SecretStr: "text, secret",
}


def _type_text(field: FieldInfo) -> str:
    """The type in words, with its range."""
    annotation, bounds = field.annotation, list(field.metadata)
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, *more = typing.get_args(annotation)
        bounds += [bound for info in more for bound in getattr(info, "metadata", [info])]
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return "list of text"
    if typing.get_origin(annotation) is dict:
        return "table"
    return _NAMES[annotation] + _range_text(bounds)


def _range_text(bounds: list[Any]) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below", "multiple_of": "in steps of"}
    texts = [
        f"{word} {_figure(value)}"
        for name, word in words.items()
        for bound in bounds
        if (value := getattr(bound, name, None)) is not None
    ]
    return f", {' '.join(texts)}" if texts else ""


def _figure(value: Any) -> str:
    return "2^63 - 1" if value == 2**63 - 1 else f"{value:,}"


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | dict) and not value:
        return "empty"
    return f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(settings_page(), encoding="utf-8")
