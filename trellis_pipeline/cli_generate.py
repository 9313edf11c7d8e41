"""`trellis-pipeline generate`: one photo to one GLB, to see what a generator makes of it."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trellis_pipeline.cli_common import ConfigOption, JsonOption, guarded, settings_for
from trellis_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from trellis_pipeline.automation.generate_one import OneModel


def generate(
    image: Annotated[Path, typer.Argument(help="A photo: PNG, JPEG or WebP, with or without background.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The GLB to write.")] = Path("model.glb"),
    generator: Annotated[str, typer.Option(help="What makes the model: local or draft.")] = "local",
    resolution: Annotated[int | None, typer.Option(help="Voxels along an edge: 512, 1024 or 1536.")] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed, another model.")] = None,
    triangles: Annotated[int | None, typer.Option(help="At most so many, 100000 to 1000000.")] = None,
    texture_size: Annotated[int | None, typer.Option(help="Pixels, 1024 to 4096.")] = None,
    remesh: Annotated[bool | None, typer.Option(help="Draw a closed skin around the surface.")] = None,
    height: Annotated[float | None, typer.Option(metavar="METRES", help="Real height.")] = None,
    preview: Annotated[Path | None, typer.Option(help="A PNG of the model to write beside it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, mps, cuda, cuda:1.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of the weights.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make one model of one photo on this machine. Nothing is recorded; catalogs go through `run`."""
    asked = {
        "seed": seed,
        "settings.resolution": resolution,
        "settings.decimationTarget": triangles,
        "settings.textureSize": texture_size,
        "settings.remesh": remesh,
    }

    def work() -> int:
        from trellis_pipeline.automation.generate_one import generate_one
        from trellis_pipeline.storage.whole_file import check_writable, write_whole

        if generator == "runware":
            raise ConfigError("generate makes models on this machine; runware is bought: use `run` for that")
        for file in (output, preview):
            if file is not None:
                check_writable(file)
        settings = settings_for(
            config,
            generation={"generator": generator},
            local={"device": device, "weights": weights and str(weights)},
        )
        if settings.local.usd_per_gpu_second is None:  # nothing is booked here
            free = settings.local.model_copy(update={"usd_per_gpu_second": Decimal(0)})
            settings = settings.model_copy(update={"local": free})
        with _Bar(enabled=not as_json and sys.stderr.isatty()) as bar:
            given = {path: value for path, value in asked.items() if value is not None}
            one = generate_one(settings, image, given, height_m=height, progress=bar.show)
        write_whole(output, one.model.glb)
        if preview is not None:
            write_whole(preview, one.model.preview_png)
        _tell(one, output, as_json=as_json)
        return 0

    guarded(work)


def _tell(one: OneModel, output: Path, *, as_json: bool) -> None:
    made, model = one.made, one.model
    facts: dict[str, Any] = {
        "file": str(output),
        "generator": one.generator,
        "seed": made.seed,
        "triangles": model.triangles,
        "vertices": model.vertices,
        "texture_px": model.max_texture_px,
        "megabytes": round(len(model.glb) / 1e6, 3),
        "matte": one.crop.matte_method,
        "flags": [flag.code for flag in one.crop.flags],
        "seconds": {name: round(spent, 3) for name, spent in made.stage_seconds.items()}
        or {"generate": round(made.seconds, 3)},
        "cost_usd": f"{made.cost_usd:f}",
        "provenance": dict(made.provenance),
    }
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=1))
        return
    for flag in one.crop.flags:
        typer.echo(f"triage: {flag.message}", err=True)
    times = ", ".join(f"{name} {spent:.1f} s" for name, spent in facts["seconds"].items())
    typer.echo(
        f"{output}: {model.triangles:,} triangles, {model.max_texture_px} px, {facts['megabytes']:.1f} MB, "
        f"seed {made.seed}, by {one.generator} ({times})"
    )


class _Bar:
    """How far the model is, on stderr; nothing where nobody looks."""

    def __init__(self, *, enabled: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not enabled,
            transient=True,
        )
        self._task = self._bar.add_task("model", total=1.0)

    def show(self, share: float) -> None:
        """From 0 to 1; called from other threads."""
        self._bar.update(self._task, completed=share)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
