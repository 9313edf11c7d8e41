"""`trellis-pipeline costs`: what was spent, on what, the kill switch, the account against the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trellis_pipeline.cli_common import (
    BaseUrlOption,
    ConfigOption,
    JsonOption,
    OutputOption,
    guarded,
    settings_for,
    settings_for_run,
)
from trellis_pipeline.errors import ConfigError, LedgerError

if TYPE_CHECKING:
    from decimal import Decimal

    from trellis_pipeline.config import Settings
    from trellis_pipeline.costs.ledger import Ledger
    from trellis_pipeline.costs.reconcile import FetchBalance
    from trellis_pipeline.storage.store import ArtifactStore

costs_app = typer.Typer(pretty_exceptions_enable=False)


@costs_app.callback(invoke_without_command=True)
def costs(
    context: typer.Context,
    by: Annotated[str, typer.Option(help="catalog, day, generator, product or run.")] = "catalog",
    catalog: Annotated[str | None, typer.Option(help="Only this catalog.")] = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """What was spent, from the ledger."""
    if context.invoked_subcommand:
        # `costs --output DIR pause` must not pause another ledger than the one that was named.
        if (by, catalog, output, as_json, config) != ("catalog", None, None, False, None):
            raise typer.BadParameter(
                f"options stand behind the command: costs {context.invoked_subcommand} ..."
            )
        return

    def work() -> int:
        from trellis_pipeline.costs.reports import report
        from trellis_pipeline.costs.stage_seconds import stage_totals
        from trellis_pipeline.review.terminal import cost_document, print_costs

        with _ledger(config, output) as ledger:
            lines = report(ledger, by=by, catalog=catalog)
            stages = stage_totals(ledger, catalog)
            paused = ledger.paused()
        if as_json:
            typer.echo(cost_document(by, lines, stages))
        else:
            print_costs(by, lines, stages)
        if paused:
            typer.echo(f"{paused}; `trellis-pipeline costs resume` lifts it", err=True)
        return 0

    guarded(work)


@costs_app.command()
def pause(
    reason: Annotated[str, typer.Option(help="Why; whoever finds spending paused will read it.")],
    output: OutputOption = None,
    config: ConfigOption = None,
) -> None:
    """Stop all spending at once, in every process on this ledger."""

    def work() -> int:
        from trellis_pipeline.costs.money import ZERO, format_usd

        with _ledger(config, output) as ledger:
            typer.echo(str(ledger.pause(reason)))
            left = ledger.open_reservations()
        if left:
            usd = format_usd(sum((reservation.amount for reservation in left), ZERO))
            typer.echo(
                f"{len(left)} purchases ({usd} set aside) were under way; their bills are still booked"
            )
        typer.echo("trellis-pipeline costs resume lifts it")
        return 0

    guarded(work)


@costs_app.command()
def resume(output: OutputOption = None, config: ConfigOption = None) -> None:
    """Allow spending again."""

    def work() -> int:
        with _ledger(config, output) as ledger:
            lifted = ledger.resume()
        if lifted is None:
            typer.echo("spending was not paused")
        else:
            typer.echo(
                f"spending goes on; it was paused at {lifted.since:%Y-%m-%d %H:%M} UTC: {lifted.reason}"
            )
        return 0

    guarded(work)


@costs_app.command()
def waste(
    catalog: Annotated[str | None, typer.Option(help="Only this catalog.")] = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Dollars for each accepted model, and what was spent on models that are not in use, by cause."""

    def work() -> int:
        import json

        from assets.verdicts import models_of
        from trellis_pipeline.costs.accepted import by_fate, spend_by_request
        from trellis_pipeline.costs.reconcile import UNATTRIBUTED
        from trellis_pipeline.costs.reports import report
        from trellis_pipeline.review.cost_text import print_waste, waste_document

        settings = settings_for(config, output)
        store = _store(settings)
        with _ledger(config, output) as ledger:
            names = [line.key for line in report(ledger, catalog=catalog)]
            found = {
                name: by_fate(
                    spend_by_request(ledger, name),
                    {} if name == UNATTRIBUTED else models_of(store, name),
                )
                for name in names
            }
        if as_json:
            typer.echo(json.dumps(waste_document(found), indent=1))
        else:
            print_waste(found)
        return 0

    guarded(work)


@costs_app.command()
def reconcile(
    balance: Annotated[
        str | None,
        typer.Option(metavar="USD", help="What is left in the account; default: ask the provider."),
    ] = None,
    topped_up: Annotated[
        str, typer.Option(metavar="USD", help="Paid in since the last time; negative takes a mistake back.")
    ] = "0",
    book: Annotated[
        str,
        typer.Option(metavar="CAUSE", help="Book what stays unexplained as a correction, with this cause."),
    ] = "",
    generator: Annotated[str | None, typer.Option(help="Whose account; default: the configured one.")] = None,
    base_url: BaseUrlOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare the account at the provider with the ledger. Exit code 1 if more than 5 % is unexplained."""

    def work() -> int:
        import asyncio
        import json
        from datetime import UTC, datetime

        from resources.generator import generator_of
        from trellis_pipeline.costs.reconcile import reconcile as compare_with_account
        from trellis_pipeline.costs.reconcile import summary
        from trellis_pipeline.review.cost_text import reconciliation_document

        settings = settings_for_run(config, output, None, generator, base_url)
        fetch = _told(balance) if balance is not None else _asked(settings)
        paid_in = _signed(topped_up, "--topped-up")
        account = generator_of(settings).seller
        with _ledger(config, output) as ledger:
            found = asyncio.run(
                compare_with_account(
                    ledger,
                    account,
                    fetch,
                    now=datetime.now(UTC),
                    topped_up=paid_in,
                    book_cause=book,
                )
            )
        booked = bool(book and found.rest)
        if as_json:
            typer.echo(json.dumps(reconciliation_document(found) | {"booked": booked}, indent=1))
        else:
            typer.echo(summary(found))
            if booked:
                typer.echo("  The rest is booked as a correction.")
        return 1 if found.verdict == "fail" and not booked else 0

    guarded(work)


@costs_app.command("open")
def open_(
    finish: Annotated[bool, typer.Option("--finish", help="Ask the provider about each of them.")] = False,
    generator: Annotated[str | None, typer.Option(help="Whose; default: the configured one.")] = None,
    base_url: BaseUrlOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Purchases whose outcome is not known. Exit code 1 if, after --finish, some are still open."""

    def work() -> int:
        import json

        from trellis_pipeline.automation.open_purchases import open_document
        from trellis_pipeline.review.open_text import print_open

        settings = settings_for_run(config, output, None, generator, base_url)
        found = open_document(settings, finish=finish)
        if as_json:
            typer.echo(json.dumps(found, indent=1))
        else:
            print_open(found)
        return 1 if any(one["end"] == "still open" for one in found["purchases"]) else 0

    guarded(work)


def _ledger(config: Path | None, output: str | None) -> Ledger:
    from trellis_pipeline.costs.ledger import Ledger

    return Ledger.open(settings_for(config, output).ledger_url)


def _store(settings: Settings) -> ArtifactStore:
    if settings.storage_url.startswith("file://"):
        from trellis_pipeline.storage.store import open_store

        return open_store(settings.storage_url)
    from resources.store import ArtifactStoreResource

    return ArtifactStoreResource(
        url=settings.storage_url,
        s3_endpoint=settings.storage.s3_endpoint,
        s3_region=settings.storage.s3_region,
    ).open()


def _told(text: str) -> FetchBalance:
    """The balance as the user reads it off the provider's page."""
    amount = _signed(text, "--balance")

    async def balance() -> tuple[Decimal, str]:
        return amount, text

    return balance


def _asked(settings: Settings) -> FetchBalance:
    """The balance as the provider says it. Raises ConfigError for a generator that has no account."""
    name = settings.generation.generator
    if name != "runware":
        raise ConfigError(
            f"generator {name!r} has no account that can be asked; say what is left in it: --balance USD"
        )
    from resources.generator import runware_options
    from trellis_pipeline.generation.runware.client import RunwareClient

    options = runware_options(settings.runware.client_options())

    async def balance() -> tuple[Decimal, str]:
        async with RunwareClient(options) as client:
            held = await client.balance()
        if held.currency != "USD":
            raise LedgerError(f"the account is in {held.currency[:10]}, the ledger in USD; not compared")
        return held.amount, str(held.amount)

    return balance


def _signed(text: str, option: str) -> Decimal:
    from trellis_pipeline.costs.reconcile import parse_signed_usd

    try:
        return parse_signed_usd(text)
    except LedgerError as error:
        raise ConfigError(f"{option}: {error}") from None
