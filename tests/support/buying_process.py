"""Buying in processes that die: a small shop, the moments at which it can be made to die, and its nursery.

The whole line takes seconds to start; the guarantees it gives about money are those of `purchasing.buy`. So
hundreds of deaths are tried on a program that does nothing else: it opens ledger, journal and store, buys a
few orders from a server through the real client, and writes down what it got. `MOMENTS` names where it can
die. As a program this module is the nursery: it has imported everything and forks one shop after the other,
which takes milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from runware_parts import SENTINEL, crop, options

from trellis_pipeline.costs.budgets import Budgets
from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import BudgetExceeded, GenerationError, OutOfCredit
from trellis_pipeline.generation.request import build_request, request_key
from trellis_pipeline.generation.runware.generator import RunwareGenerator, identity_at
from trellis_pipeline.purchasing import buy as buying
from trellis_pipeline.purchasing import errand
from trellis_pipeline.purchasing.generations import Order, Purchase
from trellis_pipeline.purchasing.journal import Journal
from trellis_pipeline.purchasing.till import Till
from trellis_pipeline.storage.local import LocalStore
from trellis_pipeline.storage.store import open_store

Result = TypeVar("Result")

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]
LONGEST_SECONDS = 120
"""After so long a shop is ended by SIGALRM and counts as hung."""

MOMENTS = (
    "before intent",
    "after intent",
    "after submit",
    "after ack",
    "during poll",
    "during download",
    "after store",
    "before settle",
    "before materialization",
)
"""The crash points that were promised. `after submit`: the request is sent and its answer was not read."""

FURTHER_MOMENTS = (
    "inside intent",  # its transaction is not committed
    "before submit",  # the journal says that the provider is about to be told
    "answer arrives",  # the status line of the submit's answer is here, its body was not read
    "after blob",
    "inside settle",
    "after settle",
)

AT_AN_AWAIT = "at an await"
"""Each time that the work for an order lets others go on, counted over all orders."""

DONE, NOT_ALL, INTERRUPTED, BROKEN, HUNG = 0, 3, 130, 70, -signal.SIGALRM
"""Exit statuses: all is bought; some could not be bought now; SIGTERM; an error nobody expects; too long."""


@dataclass(frozen=True)
class Life:
    """How one shop process ends. moment: one of the moments, "" for its natural end.

    number: dies when the moment is reached for the number-th time. after_seconds: dies at that age instead,
    wherever it is, 0 for never.
    """

    moment: str = ""
    number: int = 1
    signal: str = "SIGKILL"
    after_seconds: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """One product. seed: of its request, which makes it a purchase of its own."""

    sku: str
    seed: int
    results: int = 1


@dataclass(frozen=True)
class Shop:
    """Everything a shop process needs to know. folder: for the store and what it writes down.

    cap: USD in all. concurrency: orders at once. client: more of `RunwareOptions`.
    """

    folder: str
    ledger_url: str
    base_url: str
    orders: tuple[Wanted, ...]
    cap: str = "100"
    concurrency: int = 4
    retries: int = 1
    client: dict[str, Any] = field(default_factory=dict)
    api_key: str = SENTINEL

    @property
    def store_url(self) -> str:
        """Where the models are."""
        return (Path(self.folder) / "store").as_uri()

    @property
    def diary(self) -> Path:
        """One line of JSON for each order that `buy` returned, and one for each process that ended."""
        return Path(self.folder) / "diary.jsonl"

    @property
    def errors(self) -> Path:
        """What all processes wrote to stderr."""
        return Path(self.folder) / "stderr.log"

    @classmethod
    def of(cls, plan: dict[str, Any]) -> Shop:
        """Back from JSON."""
        return cls(**{**plan, "orders": tuple(Wanted(**order) for order in plan["orders"])})


def order_of(shop: Shop, wanted: Wanted, run_id: str = "run") -> Order:
    """The order as `buy` takes it."""
    request = build_request({"seed": wanted.seed, "numberResults": wanted.results})
    key = request_key(request, crop().sha256, str(identity_at(shop.base_url)))
    return Order(Path(shop.folder).name, wanted.sku, run_id, request, crop(), key)


# -- the shop ------------------------------------------------------------------------------------------------


class Fate:
    """Waits for the moment of a life and ends the process there."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._reached = 0
        self._lock = threading.Lock()
        if life.after_seconds:
            timer = threading.Timer(life.after_seconds, self._end)
            timer.daemon = True
            timer.start()

    def reach(self, moment: str) -> None:
        """Die here if this is the time that is meant."""
        if moment and moment == self._life.moment:
            with self._lock:
                self._reached += 1
                now = self._reached == self._life.number
            if now:
                self._end()

    def _end(self) -> None:
        number = signal.Signals[self._life.signal]
        os.kill(os.getpid(), number)
        if number == signal.SIGKILL:
            time.sleep(60)

    @types.coroutine
    def at_awaits(self, work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """Do this work; each time that it waits for something is a moment."""
        steps = work.__await__()
        try:
            waits_for = next(steps)
            while True:
                self.reach(AT_AN_AWAIT)
                try:
                    got = yield waits_for
                except BaseException as error:  # noqa: BLE001 - it is meant for the work
                    waits_for = steps.throw(error)
                else:
                    waits_for = steps.send(got)
        except StopIteration as end:
            return end.value

    def around(self, owner: type, name: str, before: str = "", after: str = "") -> None:
        """Make a method a moment. The method itself is the real one."""
        real = getattr(owner, name)
        if asyncio.iscoroutinefunction(real):

            async def call(*args: Any, **more: Any) -> Any:
                self.reach(before)
                result = await real(*args, **more)
                self.reach(after)
                return result

        else:

            def call(*args: Any, **more: Any) -> Any:
                self.reach(before)
                result = real(*args, **more)
                self.reach(after)
                return result

        setattr(owner, name, call)

    def inside(self, owner: type, name: str, moment: str) -> None:
        """Make the last step of a ledger's transaction a moment: everything is written, nothing committed."""
        real = getattr(owner, name)

        def call(*args: Any, also: Callable[..., None] | None = None, **more: Any) -> Any:
            def last(connection: Any) -> None:
                if also is not None:
                    also(connection)
                self.reach(moment)

            return real(*args, also=last, **more)

        setattr(owner, name, call)

    def on_the_wire(
        self, client: Any, moments: dict[tuple[str, str], str], count: Callable[[str], None]
    ) -> None:
        """Make events of an HTTP client moments: (task type or GET, event of httpcore) to its name."""

        async def prepare(request: Any) -> None:
            kind = "GET" if request.method == "GET" else json.loads(request.content)[0]["taskType"]
            count(kind)

            async def trace(event: str, _info: Any) -> None:
                moment = moments.get((kind, event.partition(".")[2]))
                if moment:
                    self.reach(moment)

            request.extensions["trace"] = trace

        client.event_hooks = {"request": [prepare]}


def tend(shop: Shop, life: Life) -> int:
    """Be one shop process from beginning to end; gives the exit status."""
    fate = Fate(life)
    errand.VISIBLE_AFTER_SECONDS = 0.5
    buying._LONGEST_PAUSE = 0.2
    fate.around(Journal, "begin", "before intent", "after intent")
    fate.around(Journal, "submitting", after="before submit")
    fate.around(RunwareGenerator, "submit", after="after ack")
    fate.around(LocalStore, "put_blob", after="after blob")
    fate.around(LocalStore, "create", after="after store")
    fate.inside(Ledger, "reserve", "inside intent")
    fate.inside(Ledger, "settle", "inside settle")
    fate.around(Ledger, "settle", "before settle", "after settle")
    with Ledger.open(shop.ledger_url) as ledger:
        return asyncio.run(_serve(shop, ledger, fate))


async def _serve(shop: Shop, ledger: Ledger, fate: Fate) -> int:
    calls: dict[str, int] = {}

    def count(kind: str) -> None:
        calls[kind] = calls.get(kind, 0) + 1

    work = asyncio.ensure_future(_buy_all(shop, ledger, fate, count))
    # As the line does it: SIGTERM cancels what is under way and lets it tidy up.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    failed: dict[str, str] = {}
    try:
        failed = await work
        status = NOT_ALL if failed else DONE
    except asyncio.CancelledError:
        status = INTERRUPTED
    _write(shop, {"ended": status, "calls": calls, "failed": failed})
    return status


async def _buy_all(shop: Shop, ledger: Ledger, fate: Fate, count: Callable[[str], None]) -> dict[str, str]:
    """Buy every order; gives what could not be bought this time, by SKU."""
    failed: dict[str, str] = {}
    room = asyncio.Semaphore(shop.concurrency)
    own = {"api_key": _key(shop.api_key), **shop.client}
    async with RunwareGenerator(options(shop.base_url, **own)) as generator:
        sent, arrives = "send_request_body.complete", "receive_response_headers.complete"
        moments = {
            ("3dInference", sent): "after submit",
            ("3dInference", arrives): "answer arrives",
            ("getResponse", sent): "during poll",
        }
        fate.on_the_wire(generator.client.transport._http, moments, count)
        files = {("GET", arrives): "during download"}
        fate.on_the_wire(generator._fetching._downloads._http, files, count)
        store = open_store(shop.store_url)
        till = Till(generator, Journal(ledger), store, Budgets(total_usd=Decimal(shop.cap)), shop.retries)

        async def one(wanted: Wanted) -> None:
            async with room:
                try:
                    order = order_of(shop, wanted, f"run-{os.getpid()}")
                    purchase = await fate.at_awaits(buying.buy(order, till))
                except (GenerationError, BudgetExceeded, OutOfCredit) as error:
                    failed[wanted.sku] = f"{type(error).__name__}: {error}"
                else:
                    fate.reach("before materialization")
                    _write(shop, _told(wanted, purchase))

        async with asyncio.TaskGroup() as group:
            for wanted in shop.orders:
                group.create_task(one(wanted))
    return failed


def _key(text: str) -> Any:
    from trellis_pipeline.generation.runware.options import ApiKey

    return ApiKey(text)


def _told(wanted: Wanted, purchase: Purchase) -> dict[str, Any]:
    return {
        "sku": wanted.sku,
        "glb": purchase.glb.sha256,
        "task_uuid": purchase.task_uuid,
        "reused": purchase.reused,
        "cost_usd": str(purchase.cost_usd),
    }


def _write(shop: Shop, line: dict[str, Any]) -> None:
    with shop.diary.open("a") as diary:
        diary.write(json.dumps(line) + "\n")


def diary_of(shop: Shop) -> list[dict[str, Any]]:
    """What the shop's processes have written down; a line that a death cut short is left out."""
    lines = shop.diary.read_text().splitlines() if shop.diary.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


# -- the nursery ---------------------------------------------------------------------------------------------


class Nursery:
    """A process that has everything imported and brings shop processes into the world. One thread uses it."""

    def __init__(self) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRELLIS_", "DAGSTER_"))}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)])},
            start_new_session=True,
        )

    def live(self, shop: Shop, *lives: Life) -> list[int]:
        """Run these processes at the same time until all have ended; gives their statuses, -9 for SIGKILL."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        plan = {"shop": asdict(shop), "lives": [asdict(life) for life in lives or (Life(),)]}
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the nursery has died")
        return json.loads(answer)

    def close(self) -> None:
        """End it; between two lives it holds nothing that it would have to put down."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def prepared_ledger() -> bytes:
    """An empty SQLite ledger. Copying it takes less time than making one."""
    with tempfile.TemporaryDirectory(prefix="ledger-") as folder:
        path = Path(folder) / "ledger.sqlite"
        Ledger.open(f"sqlite:///{path}").close()
        return path.read_bytes()


def _born(plan: dict[str, Any], life: Life) -> int:
    """The number of a new process that lives this life."""
    pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        signal.alarm(LONGEST_SECONDS)
        shop = Shop.of(plan)
        errors = os.open(shop.errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        status = tend(shop, life)
    except BaseException:  # noqa: BLE001 - the parent's code must not run on in this process
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def main() -> None:
    """Bear processes as the lines on stdin say, until there are no more."""
    _warm()
    for line in sys.stdin:
        plan = json.loads(line)
        order = [_born(plan["shop"], Life(**life)) for life in plan["lives"]]
        # Whoever dies is buried at once: the others may be waiting for its number to be gone.
        ended = dict(os.wait() for _ in order)
        print(json.dumps([os.waitstatus_to_exitcode(ended[pid]) for pid in order]), flush=True)


def _warm() -> None:
    """Import what is imported late, by an attempt to buy from a port where nobody listens."""
    with tempfile.TemporaryDirectory(prefix="nursery-") as folder:
        url = f"sqlite:///{folder}/ledger.sqlite"
        shop = Shop(folder, url, "http://127.0.0.1:9/v1", (Wanted("A", 1),), client={"attempts": 1})
        with Ledger.open(url) as ledger:
            asyncio.run(_buy_all(shop, ledger, Fate(Life()), lambda _kind: None))


def statuses_text(statuses: Sequence[int]) -> str:
    """For messages."""
    names = {DONE: "done", NOT_ALL: "not all", INTERRUPTED: "interrupted", BROKEN: "broken", HUNG: "hung"}
    return ", ".join(names.get(status, str(status)) for status in statuses)


if __name__ == "__main__":
    main()
