"""A service in a thread of this process, for tests: a real server on a real port, with a billing log to ask.

What it says about itself (`billing`, `accepted`) is read from its database through a connection of its own,
so it is what is on the disk and not what somebody remembers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from trellis_pipeline.generation.generator import (
    GeneratedModel,
    Generator,
    GeneratorIdentity,
    InputImage,
    Progress,
    no_progress,
)
from trellis_pipeline.generation.request import GenerationRequest
from trellis_pipeline.service.app import Service
from trellis_pipeline.service.backend import Backend
from trellis_pipeline.service.disk import open_database
from trellis_pipeline.service.faults import FaultPlan
from trellis_pipeline.service.options import ServiceOptions, hash_api_key
from trellis_pipeline.service.records import BilledResult
from trellis_pipeline.service.serve import Server, bind, make_server
from trellis_pipeline.service.store import read_accepted, read_billing

LIST_PRICE = Decimal("0.0256")
START_SECONDS = 120.0


class SlowGenerator:
    """A generator that takes its time: any other one, and `seconds` of sleep with progress on the way."""

    def __init__(self, inner: Generator, seconds: float) -> None:
        self._inner = inner
        self._seconds = seconds

    @property
    def identity(self) -> GeneratorIdentity:
        """The inner one's."""
        return self._inner.identity

    @property
    def paid(self) -> bool:
        """The inner one's."""
        return self._inner.paid

    @property
    def builds_to_size(self) -> bool:
        """The inner one's."""
        return self._inner.builds_to_size

    @property
    def at_once(self) -> int | None:
        """The inner one's."""
        return self._inner.at_once

    async def generate(
        self, request: GenerationRequest, image: InputImage, progress: Progress = no_progress
    ) -> Sequence[GeneratedModel]:
        """Sleep in four parts, then let the inner one work."""
        import asyncio

        for quarter in range(4):
            progress(quarter / 4)
            await asyncio.sleep(self._seconds / 4)
        return await self._inner.generate(request, image, progress)


class RunningService:
    """What a test may ask a running service. base_url: of the API, `http://127.0.0.1:PORT/v1`."""

    def __init__(
        self, options: ServiceOptions, server: Server, thread: threading.Thread, origin: str
    ) -> None:
        self._options = options
        self._server = server
        self._thread = thread
        self.origin = origin
        self.base_url = f"{origin}/v1"

    @property
    def folder(self) -> Path:
        """Where it keeps everything; start another service there to see a restart."""
        return self._options.folder

    @property
    def port(self) -> int:
        """Where it listens. Started again at another port, it is another seller to its clients."""
        return int(self.origin.rpartition(":")[2])

    def billing(self) -> list[BilledResult]:
        """Its billing log: one entry for each result that was paid for."""
        return billing_of(self.folder)

    def accepted(self) -> list[str]:
        """UUIDs of the tasks it accepted, in their order."""
        return accepted_of(self.folder)

    def sweep(self) -> None:
        """Delete what has had its time now, not at the next full minute."""
        self._backend.store.expire_files(time.time())

    def pending_deliveries(self, *, settled: bool = False) -> int:
        """Webhook calls and uploads that are still to be made. settled: wait until there are none."""
        outbox = self._backend.outbox
        end = time.monotonic() + START_SECONDS
        while settled and outbox.next_at() is not None and time.monotonic() < end:
            time.sleep(0.02)
        return outbox.count()

    def stop(self) -> None:
        """End the service now, as SIGTERM would; another one may be started in its folder."""
        self._server.should_exit = True
        self._thread.join(START_SECONDS)

    @property
    def struck(self) -> Counter[str]:
        """How often each injected fault did strike."""
        return self._service.faults.struck

    def requests(self) -> Counter[str]:
        """Tasks that reached the application, by type."""
        found: Counter[str] = Counter()
        for family in self._backend.metrics.requests.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    found[sample.labels["task_type"]] += int(sample.value)
        return found

    @property
    def _backend(self) -> Backend:
        assert self._service.backend is not None
        return self._service.backend

    @property
    def _service(self) -> Service:
        return self._server.service


def billing_of(folder: Path) -> list[BilledResult]:
    """The billing log of a service's folder, whether or not a service runs there."""
    with _looking_into(folder) as connection:
        return read_billing(connection)


def accepted_of(folder: Path) -> list[str]:
    """UUIDs of the tasks accepted by a service's folder, likewise."""
    with _looking_into(folder) as connection:
        return read_accepted(connection)


@contextlib.contextmanager
def _looking_into(folder: Path) -> Iterator[Connection]:
    engine = open_database(folder)
    try:
        with engine.connect().execution_options(read_only=True) as connection:
            yield connection
    finally:
        engine.dispose()


@contextlib.contextmanager
def running_service(
    generator: Generator,
    *,
    folder: Path,
    faults: FaultPlan | None = None,
    api_keys: Sequence[str] = (),
    seconds: float = 0.0,
    port: int = 0,
    **options: Any,
) -> Iterator[RunningService]:
    """A service over `generator` in a thread, on 127.0.0.1, until the block ends.

    api_keys: in clear. seconds: simulated generation time. options: more of `ServiceOptions`; here a result
    costs `LIST_PRICE` and private addresses are allowed unless said otherwise.
    """
    chosen: dict[str, Any] = {
        "price": LIST_PRICE,
        "allow_private_addresses": True,
        "concurrency": 64,
        "api_key_hashes": tuple(hash_api_key(key) for key in api_keys),
        **options,
    }
    settings = ServiceOptions(folder=Path(folder), **chosen)
    addresses: list[str] = []
    server = make_server(
        settings,
        SlowGenerator(generator, seconds) if seconds else generator,
        faults,
        announce=addresses.append,
        grace_seconds=1,
    )
    listener = bind("127.0.0.1", port)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that asked
            failed.append(error)

    thread = threading.Thread(target=run, name="service", daemon=True)
    thread.start()
    try:
        end = time.monotonic() + START_SECONDS
        while not addresses:
            if not thread.is_alive():
                raise failed[0] if failed else RuntimeError("the service ended before it began")
            if time.monotonic() > end:
                raise RuntimeError("the service did not start in time")
            time.sleep(0.005)
        yield RunningService(settings, server, thread, addresses[0])
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        listener.close()
