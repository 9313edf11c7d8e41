"""What all commands share: common options, settings from them, and errors turned into exit codes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from urllib.parse import unquote

import typer

from trellis_pipeline.errors import CatalogError, ConfigError, LedgerError, TrellisError
from trellis_pipeline.stopping import stopped_by_signals

if TYPE_CHECKING:
    from trellis_pipeline.config import Settings
    from trellis_pipeline.config_products import CatalogSettings

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file; default: trellis.toml.")]
BudgetOption = Annotated[
    str | None, typer.Option(metavar="USD", help="The most that this run may spend, in dollars.")
]
OUTPUT_HELP = (
    "Folder for everything this run makes, or s3://bucket/prefix for its files; the ledger and Dagster's own "
    "files then stay where the settings have them."
)
OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="DIR|URL",
        help="What `run --output` was given, or will be: a folder or an s3:// URL.",
    ),
]
GeneratorOption = Annotated[str | None, typer.Option(help="Generator to use: draft, runware or local.")]
BaseUrlOption = Annotated[
    str | None, typer.Option("--base-url", help="API to buy from, e.g. http://127.0.0.1:8765/v1.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

# Of the pools that Dagster's files and the ledger have.
_POOLS = ("NullPool", "QueuePool", "SingletonThreadPool")


def settings_for(
    config: Path | None = None,
    output: str | None = None,
    budget: str | None = None,
    **sections: dict[str, Any],
) -> Settings:
    """Settings of the file, the environment and the command line, the last winning.

    output: a folder for everything, or a URL for the artifacts alone. budget: dollars that this run may
    spend. sections: further values of the command line by section and key, None where they were not given.
    """
    from trellis_pipeline.config import load_settings

    overrides: dict[str, Any] = {}
    if output is not None:
        overrides = _output_overrides(output)
    if budget is not None:
        overrides["budget"] = {"run_usd": dollars_from(budget, "--budget")}
    for section, values in sections.items():
        overrides[section] = {key: value for key, value in values.items() if value is not None}
    return load_settings(config, overrides)


def _output_overrides(output: str) -> dict[str, Any]:
    """A folder takes the ledger and Dagster's files too; a bucket cannot, so they stay at home."""
    if "://" in output and not output.startswith("file://"):
        return {"storage": {"url": output}}
    path = unquote(output.removeprefix("file://")) if output.startswith("file://") else output
    folder = Path(path).expanduser().absolute()
    return {"storage": {"url": f"file://{folder}"}, "home": folder / ".trellis"}


def settings_for_run(
    config: Path | None,
    output: str | None,
    budget: str | None,
    generator: str | None,
    base_url: str | None,
) -> Settings:
    """Settings of a command that runs a catalog, or says what a run would do."""
    chosen: dict[str, dict[str, Any]] = {
        "generation": {"generator": generator},
        "runware": {"base_url": base_url},
    }
    return settings_for(config, output, budget, **chosen)


def with_catalog(settings: Settings, wanted: str) -> tuple[Settings, CatalogSettings]:
    """The configured catalog of that name or source, or a new one for an unconfigured path."""
    from trellis_pipeline.config_products import CatalogByPath, catalog_name_for

    source = wanted if "://" in wanted else str(Path(wanted).expanduser().absolute())
    for catalog in settings.catalogs:
        if wanted == catalog.name or source == settings.catalog_source(catalog):
            return settings, catalog
    name = catalog_name_for(source, {catalog.name for catalog in settings.catalogs})
    added = CatalogByPath(name=name, source=source)
    return settings.model_copy(update={"catalogs": (*settings.catalogs, added)}), added


def dollars_from(text: str, option: str) -> Decimal:
    """An amount on the command line, exactly. Raises ConfigError naming the option."""
    from trellis_pipeline.costs.money import parse_usd

    try:
        return parse_usd(text)
    except LedgerError as error:
        raise ConfigError(f"{option}: {error}") from None


def exit_code_of(error: TrellisError) -> int:
    """2 for what the user gave and can correct (arguments, settings, API key, catalog), 1 otherwise."""
    return 2 if isinstance(error, ConfigError | CatalogError) else 1


def guarded(work: Callable[[], int]) -> NoReturn:
    """Run a command; every error of ours becomes one clear message and an exit code, never a traceback."""
    for pool in _POOLS:
        logging.getLogger(f"sqlalchemy.pool.impl.{pool}").addFilter(_is_an_error)
    try:
        with stopped_by_signals():
            code = work()
    except TrellisError as error:
        typer.echo(f"error: {error}", err=True)
        code = exit_code_of(error)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept, run the same command again to go on", err=True)
        code = 130
    raise typer.Exit(code)


def _is_an_error(record: logging.LogRecord) -> bool:
    """False for a stop request that came while a connection was closed: SQLAlchemy shows its traceback, and
    raises it on to where it is answered.
    """
    raised = record.exc_info[1] if record.exc_info else None
    return raised is None or isinstance(raised, Exception)
