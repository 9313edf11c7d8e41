"""`trellis-pipeline serve` and `webhooks`: the two servers, around what stands in trellis.toml."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from trellis_pipeline.cli_common import ConfigOption, guarded, settings_for


def serve(
    generator: Annotated[str, typer.Option(help="What makes the models: draft or local.")] = "draft",
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 for any free one.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder for its queue, files and billing log.")] = None,
    config: ConfigOption = None,
) -> None:
    """Serve the 3dInference API from this machine: for our own runs, or for any client of that API."""

    def work() -> int:
        from assets.workers import WorkerPool
        from resources.generator import generator_of
        from trellis_pipeline.errors import ConfigError
        from trellis_pipeline.service.options import ServiceOptions
        from trellis_pipeline.service.serve import serve as serve_forever

        settings = settings_for(
            config, service={"host": host, "port": port}, generation={"generator": generator}
        )
        if generator == "runware":
            raise ConfigError("serve sells what this machine makes; runware is bought: use `run` for that")
        chosen = settings.service
        options = ServiceOptions(
            folder=folder or settings.home_dir / "service",
            api_key_hashes=chosen.api_key_hashes,
            price=chosen.price_usd,
            credit_usd=chosen.credit_usd,
            concurrency=chosen.concurrency,
            public_url=chosen.public_url,
            allow_private_addresses=settings.imagery.allow_private_addresses,
            host=chosen.host,
            port=chosen.port,
        )
        _log_to_stderr()
        workers = WorkerPool(settings.run.workers)
        try:
            maker = generator_of(settings).open(workers.run)
            serve_forever(
                options,
                maker,
                announce=lambda address: typer.echo(
                    f"3dInference API on {address}/v1, made by {generator}", err=True
                ),
            )
        finally:
            workers.close()
        return 0

    guarded(work)


def webhooks(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    config: ConfigOption = None,
) -> None:
    """Listen for the provider's calls, so that models are fetched as soon as they are there."""

    def work() -> int:
        from trellis_pipeline.purchasing.webhook_app import serve_webhooks

        settings = settings_for(config, webhooks={"host": host, "port": port})
        _log_to_stderr()
        with suppress(KeyboardInterrupt):  # to be stopped is how it ends; uvicorn has ended it in good order
            serve_webhooks(
                settings.ledger_url,
                settings.webhooks.host,
                settings.webhooks.port,
                ready=lambda address: typer.echo(f"webhooks are taken at {address}", err=True),
            )
        return 0

    guarded(work)


def _log_to_stderr() -> None:
    """Say what is done and not only what goes wrong; a server's log is all that is seen of it."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    # Ours alone: other libraries log addresses, and the query of an address may hold a secret.
    logging.getLogger("trellis_pipeline").setLevel(logging.INFO)
