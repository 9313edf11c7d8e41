"""`trellis-pipeline doctor` and `reproduce`: is everything well, and does a model come out the same again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trellis_pipeline.cli_common import (
    BaseUrlOption,
    BudgetOption,
    ConfigOption,
    GeneratorOption,
    JsonOption,
    OutputOption,
    guarded,
    settings_for_run,
    with_catalog,
)
from trellis_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from trellis_pipeline.config import Settings

# Without these a live check cannot be paid or written down; a catalog that is broken does not disturb it.
_NEEDED = frozenset({"settings", "home", "storage", "ledger", "spending", "api key"})


def doctor(
    live: Annotated[
        bool, typer.Option("--live", help="Ask the provider too, and buy one small model for a few cents.")
    ] = False,
    spend: Annotated[str, typer.Option(metavar="USD", help="The most that --live may spend.")] = "0.15",
    generator: GeneratorOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check what a run would trip over. Exit code 1 if there is a problem."""

    def work() -> int:
        from trellis_pipeline.automation.doctor import checks_document, examine
        from trellis_pipeline.review.doctor_text import print_checks

        chosen = generator
        if live:
            if generator not in (None, "runware"):
                raise ConfigError(f"--live asks a provider, and generator {generator!r} has none")
            chosen = "runware"

        def load() -> Settings:
            return settings_for_run(config, output, spend if live else None, chosen, base_url)

        checks = examine(load)
        document = checks_document(checks)
        if not as_json:
            print_checks(document)
        blocked = [check.name for check in checks if check.status == "problem" and check.name in _NEEDED]
        healthy = bool(document["healthy"])
        if live and blocked:
            typer.echo(f"--live was not begun; first solve: {', '.join(blocked)}", err=True)
        elif live:
            document["live"] = _live(load(), show=not as_json)
            healthy = healthy and all(one["status"] != "failed" for one in document["live"]["findings"])
        if as_json:
            _print_json(document)
        return 0 if healthy else 1

    guarded(work)


def reproduce(
    sku: Annotated[str, typer.Argument(metavar="SKU", help="The product whose model is made again.")],
    catalog: Annotated[
        str, typer.Option("--catalog", help="A catalog file, a folder or bucket of photos, or a name.")
    ],
    generator: GeneratorOption = None,
    base_url: BaseUrlOption = None,
    output: OutputOption = None,
    budget: BudgetOption = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE.glb", help="Keep the reproduced model here too.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a product's model once more from its birth certificate and compare. Exit code 1 if different."""

    def work() -> int:
        from trellis_pipeline.automation.reproduce import reproduce_model
        from trellis_pipeline.review.reproduce_text import estimate_text, print_reproduction
        from trellis_pipeline.storage.whole_file import check_writable, write_whole

        if save is not None:
            check_writable(save)
        wanted = settings_for_run(config, output, budget, generator, base_url)
        settings, chosen = with_catalog(wanted, catalog)
        document, glb = reproduce_model(
            settings, chosen, sku, lambda said: typer.echo(estimate_text(said), err=True)
        )
        if save is not None:
            write_whole(save, glb)
        if as_json:
            _print_json(document)
        else:
            print_reproduction(document)
        return 1 if document["verdict"] == "different" else 0

    guarded(work)


def _live(settings: Settings, *, show: bool) -> dict[str, Any]:
    import asyncio
    from dataclasses import asdict

    from trellis_pipeline.automation.doctor_live import Finding, examine_live
    from trellis_pipeline.definitions import build_definitions
    from trellis_pipeline.review.doctor_text import print_finding, print_visit

    def tell(finding: Finding) -> None:
        if show:
            print_finding(asdict(finding))

    resources = dict(build_definitions(settings).resources or {})
    with resources["ledger"].open() as ledger:
        document = asyncio.run(examine_live(settings, ledger, resources["store"].open(), tell))
    if show:
        print_visit(document)
    return document


def _print_json(document: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(document, indent=1))
