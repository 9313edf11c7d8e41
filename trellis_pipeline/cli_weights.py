"""`trellis-pipeline weights`: what the local generator needs on this machine, fetched and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from trellis_pipeline.cli_common import ConfigOption, JsonOption, guarded, settings_for
from trellis_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from trellis_pipeline.config_local import LocalSettings
    from trellis_pipeline.trellis2.published import Resolution
    from trellis_pipeline.weights.sources import Sources

weights_app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The weights of the local generator: fetch and check them.",
)

WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="Folder of the weights; default: local.weights.")
]
ModeOption = Annotated[
    str | None,
    typer.Option("--only-mode", metavar="512|1024|1536", help="Only what this resolution needs."),
]


@weights_app.command()
def fetch(
    source: Annotated[
        str | None,
        typer.Option(
            metavar="HUB_ID_OR_PATH",
            help="Where TRELLIS.2 comes from: a mirror on the hub (owner/name, owner/name@revision), a "
            "clone, or a folder of repositories.",
        ),
    ] = None,
    image_encoder: Annotated[
        str | None,
        typer.Option(
            metavar="HUB_ID_OR_PATH",
            help="Where the DINOv3 image encoder comes from, if not from its own, gated repository.",
        ),
    ] = None,
    without_image_encoder: Annotated[
        bool, typer.Option("--without-image-encoder", help="Leave the gated image encoder out for now.")
    ] = False,
    matte: Annotated[
        bool, typer.Option("--matte", help='Also BiRefNet, for imagery.matte = "birefnet".')
    ] = False,
    only_mode: ModeOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
    weights: WeightsOption = None,
    config: ConfigOption = None,
) -> None:
    """Fetch what is missing, after saying how much it is, under which licences and what is gated.

    Interrupt it when you like: the same command goes on where it stopped. Every file is compared with its
    published SHA-256 before it gets its name.
    """
    resolution = _resolution(only_mode)

    def work() -> int:
        from trellis_pipeline.trellis2 import published
        from trellis_pipeline.weights.describe import plan_text
        from trellis_pipeline.weights.fetch import check_access
        from trellis_pipeline.weights.fetch import fetch as carry_out
        from trellis_pipeline.weights.hub import Hub
        from trellis_pipeline.weights.plan import check_room, plan_fetch

        local = settings_for(config).local
        folder = _folder(weights, local)
        sources = _sources(source, image_encoder)
        with_encoder = not without_image_encoder and (
            image_encoder is not None or local.image_encoder is None
        )
        files = published.wanted_files(
            published.FILES, resolution=resolution, encoder=with_encoder, matte=matte
        )
        hub = Hub()
        with _Shown() as shown:
            plan = plan_fetch(folder, files, sources, hub.in_cache, shown)
        typer.echo(plan_text(plan))
        if local.image_encoder is not None and image_encoder is None:
            typer.echo(f"the image encoder is taken from {local.image_encoder} (local.image_encoder)")
        if not plan.steps:
            typer.echo("nothing to fetch: every file is there and intact")
            return 0
        if dry_run:
            return 0
        check_room(plan)
        check_access(plan, hub)
        _ask(yes=yes)
        with _Shown() as shown:
            carry_out(
                plan,
                hub,
                shown,
                waiting=lambda: typer.echo("another fetch is filling this folder; waiting for it", err=True),
            )
        typer.echo(f"fetched and checked: {len(plan.steps)} of {len(plan.findings)} files")
        return 0

    guarded(work)


@weights_app.command()
def check(
    matte: Annotated[bool, typer.Option("--matte", help="BiRefNet as well.")] = False,
    only_mode: ModeOption = None,
    as_json: JsonOption = False,
    weights: WeightsOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare every file with its published size and SHA-256. Exit code 1 if one is missing or damaged."""
    resolution = _resolution(only_mode)

    def work() -> int:
        import json

        from trellis_pipeline.trellis2 import published
        from trellis_pipeline.weights.describe import check_document, check_text
        from trellis_pipeline.weights.look import look_through

        local = settings_for(config).local
        folder = _folder(weights, local)
        files = published.wanted_files(published.FILES, resolution=resolution, matte=matte)
        encoder = local.image_encoder.expanduser() if local.image_encoder else None
        with _Shown(quiet=as_json) as shown:
            findings = look_through(folder, files, shown, encoder=encoder)
        faulty = any(found.is_faulty for found in findings)
        if as_json:
            typer.echo(json.dumps(check_document(folder, findings), indent=1))
        else:
            typer.echo(check_text(folder, findings))
            if faulty:
                typer.echo("trellis-pipeline weights fetch brings what is missing or damaged", err=True)
        return 1 if faulty else 0

    guarded(work)


def _folder(weights: Path | None, local: LocalSettings) -> Path:
    return (weights or local.weights).expanduser().absolute()


def _resolution(text: str | None) -> Resolution | None:
    from trellis_pipeline.trellis2.published import RESOLUTIONS

    for resolution in RESOLUTIONS:
        if text == resolution:
            return resolution
    if text is not None:
        raise typer.BadParameter(f"--only-mode is one of {', '.join(RESOLUTIONS)}, not {text!r}")
    return None


def _sources(source: str | None, image_encoder: str | None) -> Sources:
    from trellis_pipeline.weights.sources import Sources, parse_source

    return Sources(
        model=parse_source(source, "--source") if source else None,
        encoder=parse_source(image_encoder, "--image-encoder") if image_encoder else None,
    )


def _ask(*, yes: bool) -> None:
    """Raises ConfigError where nobody can be asked, typer.Exit where the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nothing was fetched: there is no terminal to ask on; --yes fetches without asking")
    if not typer.confirm("Fetch this?"):
        typer.echo("nothing was fetched", err=True)
        raise typer.Exit(1)


class _Shown:
    """Progress on stderr: a bar on a terminal, else a line for each file that takes its time."""

    _SLOW_BYTES = 50_000_000

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        self._lines = not quiet and not console.is_terminal
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or self._lines,
            transient=True,
        )
        self._now: tuple[str, str] | None = None
        self._task = self._bar.add_task("", total=None, visible=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, doing: str, place: str, done: int, of: int) -> None:
        """A `weights.look.Watch`."""
        if self._now != (doing, place):
            self._now = (doing, place)
            self._bar.remove_task(self._task)
            # A download that goes on has a beginning which is no speed of today's.
            name = place.rsplit("/", 1)[-1]
            self._task = self._bar.add_task(f"{doing} {name}"[:48], total=of, completed=done)
            if self._lines and of >= self._SLOW_BYTES:
                typer.echo(f"{doing} {place}, {of / 1e9:.1f} GB", err=True)
        self._bar.update(self._task, completed=done)
