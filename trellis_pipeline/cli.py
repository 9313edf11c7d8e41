"""The `trellis-pipeline` command: arguments in, exit codes out. The work is done below.

Results go to stdout, progress and problems to stderr, so `--json` can be piped. Exit codes: 0 done, 1 some
products failed, 2 unusable arguments or configuration, 3 a quote that the budgets have no room for.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trellis_pipeline import __version__
from trellis_pipeline.cli_care import doctor, reproduce
from trellis_pipeline.cli_common import (
    OUTPUT_HELP,
    BaseUrlOption,
    BudgetOption,
    ConfigOption,
    GeneratorOption,
    JsonOption,
    OutputOption,
    exit_code_of,
    guarded,
    settings_for_run,
    with_catalog,
)
from trellis_pipeline.cli_costs import costs_app
from trellis_pipeline.cli_generate import generate
from trellis_pipeline.cli_serve import serve, webhooks
from trellis_pipeline.cli_weights import weights_app
from trellis_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from trellis_pipeline.automation.summary import RunSummary
    from trellis_pipeline.config import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Product photos to shop-ready GLB models, with lineage, QA and an exact cost for each.",
)
app.add_typer(costs_app, name="costs")
app.add_typer(weights_app, name="weights")
app.command()(generate)
app.command()(serve)
app.command()(webhooks)
app.command()(doctor)
app.command()(reproduce)


def main() -> None:
    """Entry point."""
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(
    catalog: Annotated[
        str, typer.Option("--catalog", help="A catalog file, a folder or bucket of photos, or a name.")
    ],
    generator: GeneratorOption = None,
    base_url: BaseUrlOption = None,
    output: Annotated[str | None, typer.Option(metavar="DIR|URL", help=OUTPUT_HELP)] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these SKUs: --only A B, or repeated.")] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="SKU...", hidden=True)] = None,
    budget: BudgetOption = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if a model fails a quality gate.")] = False,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Dagster's log.")] = False,
    config: ConfigOption = None,
) -> None:
    """Take a catalog through the whole line: photos, crops, models, quality, report."""
    skus = _skus(only, more)

    def work() -> int:
        settings = settings_for_run(config, output, budget, generator, base_url)
        return _run(settings, catalog, skus, strict=strict, as_json=as_json, verbose=verbose)

    guarded(work)


@app.command()
def plan(
    catalog: Annotated[
        str, typer.Option("--catalog", help="A catalog file, a folder or bucket of photos, or a name.")
    ],
    generator: GeneratorOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOption = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these SKUs: --only A B, or repeated.")] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="SKU...", hidden=True)] = None,
    budget: BudgetOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Quote a run without buying anything. Exit code 3 if the budgets have no room for it."""
    skus = _skus(only, more)

    def work() -> int:
        from trellis_pipeline.review.terminal import Progress

        wanted = settings_for_run(config, output, budget, generator, base_url)
        settings, chosen = with_catalog(wanted, catalog)
        with Progress(enabled=not as_json and sys.stderr.isatty()) as progress:
            progress.say("loading")
            from trellis_pipeline.automation.plan import plan_catalog
            from trellis_pipeline.automation.plan_document import plan_document

            done = plan_catalog(settings, chosen, skus, progress.start, progress.event)
        document = plan_document(done)
        if as_json:
            import json

            typer.echo(json.dumps(document, indent=1))
        else:
            from trellis_pipeline.review.quote_text import print_quote

            print_quote(document)
        return done.exit_code

    guarded(work)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A GLB file, ours or not.")],
    as_json: JsonOption = False,
) -> None:
    """The quality record of one GLB: geometry, textures, topology, findings."""

    def work() -> int:
        import json

        from trellis_pipeline.quality.inspect import inspect_glb
        from trellis_pipeline.quality.text import record_text

        if not file.is_file():
            raise ConfigError(f"{file}: " + ("is not a regular file" if file.exists() else "no such file"))
        record = inspect_glb(file)
        typer.echo(json.dumps(record.to_json_dict(), indent=1) if as_json else record_text(record))
        return 0

    guarded(work)


def _run(
    wanted: Settings, catalog: str, only: list[str], *, strict: bool, as_json: bool, verbose: bool
) -> int:
    from trellis_pipeline.review.terminal import Progress

    settings, chosen = with_catalog(wanted, catalog)
    started = time.perf_counter()
    with Progress(enabled=not as_json and sys.stderr.isatty()) as progress:
        progress.say("loading Dagster")
        from trellis_pipeline.automation.in_process import run_catalog
        from trellis_pipeline.automation.summary import summarise

        done = run_catalog(settings, chosen, only, progress.start, progress.event, verbose=verbose)
    summary = summarise(done, time.perf_counter() - started)
    _show(summary, _lineage(settings, known=chosen in wanted.catalogs), as_json=as_json)
    if isinstance(done.stopped, ConfigError):
        return exit_code_of(done.stopped)  # a key that is refused, for one: only the first purchase tells
    return summary.exit_code(strict=strict)


def _lineage(settings: Settings, *, known: bool) -> str:
    """How to see the run in Dagster's UI. known: whether the settings name the catalog."""
    from trellis_pipeline.config import load_settings

    if not known:
        return "the UI shows catalogs that trellis.toml names: add this one under [[catalogs]]"
    home = settings.dagster_home
    there = (settings.root / "Makefile").is_file()
    command = "make ui" if there else "python -m trellis_pipeline.automation.ui"
    with suppress(ConfigError):  # the file that lies here; this run may have been given another one
        if home == load_settings().dagster_home:
            return f"{command} (Dagster home: {home})"
    return f"DAGSTER_HOME={home} {command}"


def _show(summary: RunSummary, lineage: str, *, as_json: bool) -> None:
    from trellis_pipeline.review.terminal import print_run

    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
    else:
        print_run(summary, lineage)


def _skus(only: list[str] | None, more: list[str] | None) -> list[str]:
    """SKUs may follow --only without repeating it; nothing else may stand alone."""
    if more and not only:
        raise typer.BadParameter(f"{' '.join(more)}: what are these? SKUs follow --only")
    return [*(only or []), *(more or [])]
