"""Scenarios of buying on bad days, drawn from seeds; played against real servers; judged by their bills.

A scenario is a few orders, some processes that die, and a server that misbehaves. Whatever happens, in the
end every model is there, each was billed once, and the books say what the server's billing log says. A name
is enough to play one again: `matrix/MOMENT/SIGNAL/SEED`, `rivals/MOMENT/SIGNAL`, `awaits/NUMBER` and
`random/SEED` mean the same everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from buying_process import (
    AT_AN_AWAIT,
    BROKEN,
    DONE,
    FURTHER_MOMENTS,
    HUNG,
    MOMENTS,
    NOT_ALL,
    Life,
    Nursery,
    Shop,
    Wanted,
    diary_of,
    order_of,
    prepared_ledger,
    statuses_text,
)
from runware_parts import SENTINEL
from service_process import ServiceProcess, start_service
from sqlalchemy import select

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.costs.schema import intents, spend_events
from trellis_pipeline.errors import StorageError
from trellis_pipeline.generation.task_uuid import task_uuid
from trellis_pipeline.purchasing.generations import find_generation
from trellis_pipeline.service.faults import SURVIVABLE, FaultPlan
from trellis_pipeline.service.testing import accepted_of, billing_of
from trellis_pipeline.storage.store import open_store

SIGNALS = ("SIGKILL", "SIGTERM")
MATRIX_SEEDS = 25
EPOCH = 250
"""So many random scenarios share the fault plans of their servers."""

RESERVED = Decimal("0.064")
"""What is set aside for one result before there is a history: 2.5 times the list price."""

PATIENCE = 20
"""How many processes may try to finish what the dead have left; each fault strikes only so often."""

FAULTS = (*SURVIVABLE, "task_fails", "one_result_fails", "inline_model", "slow_body", "slow_file")


@dataclass(frozen=True)
class ServerKind:
    """A server's temper. rate: share of tasks that each fault strikes. seconds: of a generation."""

    rate: float
    seconds: float
    price: str


KINDS = (
    ServerKind(0.0, 0.06, "0.0256"),
    ServerKind(0.08, 0.1, "0.027183281"),
    ServerKind(0.25, 0.03, "0.0198"),
    ServerKind(0.1, 0.4, "0.0314"),
)


@dataclass(frozen=True)
class Scenario:
    """One story. lives: one generation of processes after the other; those of one run at the same time.

    server: index of its kind. epoch: which fault plans the servers have. cap: USD, while there are deaths.
    """

    name: str
    orders: tuple[Wanted, ...]
    lives: tuple[tuple[Life, ...], ...]
    server: int = 0
    epoch: int = 0
    concurrency: int = 4
    cap: str = "100"
    client: dict[str, Any] = field(default_factory=dict)
    postgres: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario. died: processes that a signal ended. breaches: promises that were broken."""

    scenario: Scenario
    died: int
    processes: int
    models: int
    double: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    books: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def breaches(self) -> tuple[str, ...]:
        """All of them."""
        return self.double + self.lost + self.books + self.other


# -- drawing -------------------------------------------------------------------------------------------------


def matrix_scenario(moment: str, signal: str, seed: int) -> Scenario:
    """One death at one moment. The seed draws which order dies, how many there are, and the server."""
    name = f"matrix/{moment}/{signal}/{seed}"
    drawn = random.Random(name)
    count = drawn.randint(1, 4)
    orders = _orders(name, [drawn.choice((1, 1, 1, 2)) for _ in range(count)])
    number = drawn.randint(1, 2 if moment == "during poll" else count)
    server = drawn.randrange(len(KINDS))
    if moment == "after ack" and KINDS[server].rate:
        number = 1  # there are fewer of them than orders where acknowledgements get lost
    return Scenario(
        name,
        orders,
        lives=((Life(moment, number, signal),),),
        server=server,
        concurrency=drawn.randint(1, 4),
    )


def matrix(seeds: Iterable[int] = range(MATRIX_SEEDS)) -> list[Scenario]:
    """Every crash point with every signal."""
    return [matrix_scenario(moment, name, seed) for seed in seeds for moment in MOMENTS for name in SIGNALS]


def random_scenario(seed: int) -> Scenario:
    """One to three generations of processes that die anywhere, on a server that has bad days of any kind."""
    name = f"random/{seed}"
    drawn = random.Random(name)
    results = [drawn.choice((1, 1, 1, 1, 2, 4)) for _ in range(drawn.randint(1, 6))]
    orders = list(_orders(name, results))
    if drawn.random() < 0.2:  # two products of one photo
        orders.append(replace(orders[0], sku="TWIN"))
    client: dict[str, Any] = {}
    if drawn.random() < 0.15:
        client["delivery"] = "sync"
    if drawn.random() < 0.15:
        client["image_input"] = "upload"
    if drawn.random() < 0.2:
        client["tasks_per_request"] = 5
    room = RESERVED * sum(results)
    least = RESERVED * max(results)
    tight = drawn.random() < 0.3
    lives = tuple(
        tuple(_life(drawn) for _ in range(drawn.choice((1, 1, 1, 2, 2, 3))))
        for _ in range(drawn.randint(1, 3))
    )
    return Scenario(
        name,
        tuple(orders),
        lives,
        server=drawn.randrange(len(KINDS)),
        epoch=1 + seed // EPOCH,
        concurrency=drawn.randint(1, 6),
        cap=str(max(least, room * Decimal("0.7"))) if tight else "100",
        client=client,
    )


def rivals_scenario(moment: str, signal: str) -> Scenario:
    """Two processes want the same at the same time, and one of them dies."""
    name = f"rivals/{moment}/{signal}"
    lives = ((Life(moment, 1, signal), Life()),)
    return Scenario(name, _orders(name, (1, 1, 2, 1)), lives, server=3, concurrency=2)


def awaits_scenario(number: int) -> Scenario:
    """Stopped by hand at the number-th await. What is interrupted there must not break anything else."""
    name = f"awaits/{number}"
    drawn = random.Random(name)
    client = {"image_input": drawn.choice(("data_uri", "upload")), "tasks_per_request": drawn.choice((1, 5))}
    return Scenario(
        name,
        _orders(name, (1, 1, 2, 1, 1, 1, 1, 1)),
        lives=((Life(AT_AN_AWAIT, number, "SIGTERM"),),),
        server=drawn.randrange(len(KINDS)),
        concurrency=8,  # more than a new client sends at once, so that some wait for a place
        client=client,
    )


def scenario_of(name: str) -> Scenario:
    """The scenario of that name. Raises ValueError where it names none."""
    kind, *rest = name.split("/")
    if kind == "random" and len(rest) == 1:
        return random_scenario(int(rest[0]))
    if kind == "matrix" and len(rest) == 3 and rest[0] in (*MOMENTS, *FURTHER_MOMENTS) and rest[1] in SIGNALS:
        return matrix_scenario(rest[0], rest[1], int(rest[2]))
    if kind == "rivals" and len(rest) == 2 and rest[0] in MOMENTS and rest[1] in SIGNALS:
        return rivals_scenario(*rest)
    if kind == "awaits" and len(rest) == 1:
        return awaits_scenario(int(rest[0]))
    raise ValueError(f"no scenario is called {name!r}; see `matrix_scenario` and `random_scenario`")


def _life(drawn: random.Random) -> Life:
    kind, number = drawn.random(), drawn.choice(SIGNALS)
    if kind < 0.15:
        return Life()
    if kind < 0.45:
        return Life(signal=number, after_seconds=round(drawn.uniform(0.01, 0.8), 3))
    return Life(drawn.choice(MOMENTS + FURTHER_MOMENTS), drawn.randint(1, 3), number)


def _orders(name: str, results: Sequence[int]) -> tuple[Wanted, ...]:
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) << 8
    return tuple(Wanted(f"SKU-{n}", first + n, count) for n, count in enumerate(results))


def fault_plan(scenario: Scenario) -> FaultPlan:
    """What goes wrong at the scenario's server."""
    kind = KINDS[scenario.server]
    if not kind.rate:
        return FaultPlan()
    return FaultPlan.random(1000 * scenario.epoch + scenario.server, kind.rate, FAULTS, seconds=0.3)


# -- playing -------------------------------------------------------------------------------------------------


class Arena:
    """Servers and nurseries for many scenarios. folder: for everything; what ends well leaves nothing in it.

    postgres_url: makes the URL of an empty database for scenarios that want one.
    """

    def __init__(self, folder: Path, lanes: int = 4, postgres_url: Callable[[], str] | None = None) -> None:
        self.folder = folder
        self._lanes = lanes
        self._postgres_url = postgres_url
        self._servers: dict[tuple[int, int], ServiceProcess] = {}
        self._nurseries: queue.SimpleQueue[Nursery] = queue.SimpleQueue()
        self._all = contextlib.ExitStack()

    def __enter__(self) -> Arena:
        for _ in range(self._lanes):
            self._nurseries.put(self._all.enter_context(Nursery()))
        return self

    def __exit__(self, *_: object) -> None:
        self.close_servers()
        self._all.close()

    def close_servers(self, but: frozenset[tuple[int, int]] = frozenset()) -> None:
        """End all servers except those of these kinds and epochs."""
        for key in [key for key in self._servers if key not in but]:
            self._servers.pop(key).kill()

    def server(self, scenario: Scenario) -> ServiceProcess:
        """The scenario's server; started if it does not run."""
        key = (scenario.server, scenario.epoch)
        if key not in self._servers:
            kind = KINDS[scenario.server]
            self._servers[key] = start_service(
                self.folder / f"server-{scenario.server}-{scenario.epoch}",
                *("--faults", fault_plan(scenario).to_json()),
                *("--seconds", str(kind.seconds), "--price", kind.price),
            )
        return self._servers[key]

    def play_all(self, scenarios: Sequence[Scenario]) -> Iterator[Outcome]:
        """Play them, some at a time, and give the outcomes as they come, in order."""
        # Not started before they are needed, so that few servers run at a time; here, since it is one thread.
        for scenario in scenarios:
            self.server(scenario)
        with ThreadPoolExecutor(self._lanes, thread_name_prefix="lane") as pool:
            yield from pool.map(self.play, scenarios)

    def play(self, scenario: Scenario) -> Outcome:
        """Let the processes live and die, let others finish their work, and judge."""
        server, shop = self.server(scenario), self.shop(scenario)
        told: list[str] = []
        ends: list[int] = []
        for generation in scenario.lives:
            ends += self.live(shop, *generation)
        died = sum(status not in (DONE, NOT_ALL, BROKEN) for status in ends)
        with Ledger.open(shop.ledger_url) as ledger:
            told += overruns(ledger, Decimal(shop.cap))
        shop = replace(shop, cap="100")
        for _ in range(PATIENCE):
            ends += self.live(shop)
            if ends[-1] != NOT_ALL:
                break
        if ends[-1] != DONE or BROKEN in ends or HUNG in ends:
            told.append(f"its processes ended as: {statuses_text(ends)} {_last_words(shop)}")
        ends += self.live(shop)
        calls = {key: n for line in diary_of(shop)[-1:] for key, n in line.get("calls", {}).items()}
        if ends[-1] != DONE or calls:
            told.append(f"a run after the last one ends with {ends[-1]} after {calls} calls")
        outcome = judge(scenario, shop, server.folder, died, len(ends), told)
        if not outcome.breaches:
            shutil.rmtree(shop.folder)
        return outcome

    def live(self, shop: Shop, *lives: Life) -> list[int]:
        """Run processes of a shop at the same time; one with a natural end if none is given."""
        nursery = self._nurseries.get()
        try:
            return nursery.live(shop, *lives)
        finally:
            self._nurseries.put(nursery)

    def shop(self, scenario: Scenario) -> Shop:
        """A new shop for the scenario's orders at its server, with an empty ledger and an empty store."""
        folder = self.folder / hashlib.sha256(scenario.name.encode()).hexdigest()[:12]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if scenario.postgres:
            assert self._postgres_url is not None, "this scenario needs a database"
            ledger_url = self._postgres_url()
            Ledger.open(ledger_url).close()
        else:
            (folder / "ledger.sqlite").write_bytes(prepared_ledger())
            ledger_url = f"sqlite:///{folder / 'ledger.sqlite'}"
        return Shop(
            str(folder),
            ledger_url,
            self.server(scenario).base_url,
            scenario.orders,
            scenario.cap,
            scenario.concurrency,
            client=scenario.client,
        )


def _last_words(shop: Shop) -> str:
    failed = [line["failed"] for line in diary_of(shop) if line.get("failed")][-1:]
    errors = shop.errors.read_text()[-3000:] if shop.errors.exists() else ""
    return f"{failed} {errors}"


# -- judging -------------------------------------------------------------------------------------------------


def judge(
    scenario: Scenario, shop: Shop, server_folder: Path, died: int, processes: int, told: Sequence[str] = ()
) -> Outcome:
    """Compare what is there with what the server has billed."""
    orders = [order_of(shop, wanted) for wanted in shop.orders]
    keys = {order.request_key for order in orders}
    possible = {task_uuid(key, number): key for key in keys for number in range(1, 2 * PATIENCE)}
    accepted = Counter(uuid for uuid in accepted_of(server_folder) if uuid in possible)
    billed: Counter[str] = Counter()
    bills: dict[str, Decimal] = {}
    for line in billing_of(server_folder):
        if line.task_uuid in possible:
            billed[line.task_uuid] += 1
            bills[line.task_uuid] = bills.get(line.task_uuid, Decimal(0)) + line.cost
    double, lost, books, other = [], [], [], list(told)

    paid = Counter(possible[uuid] for uuid in billed)
    double += [f"{uuid} was accepted {count} times" for uuid, count in accepted.items() if count > 1]
    double += [f"request {key} was paid {count} times" for key, count in paid.items() if count > 1]
    results = {order.request_key: order.request.numberResults for order in orders}
    double += [
        f"{uuid}: {count} results billed" for uuid, count in billed.items() if count > results[possible[uuid]]
    ]
    double += [f"{uuid} was billed and never accepted" for uuid in set(billed) - set(accepted)]

    store = open_store(shop.store_url)
    for order in orders:
        try:
            found = find_generation(store, order)
            if found is None:
                lost.append(f"{order.sku} has no model")
                continue
            for result in found.results:
                store.get_blob(result.glb)
            if len(found.results) != billed[found.task_uuid]:
                lost.append(f"{order.sku}: {len(found.results)} models, {billed[found.task_uuid]} billed")
        except StorageError as error:
            lost.append(f"{order.sku}: {error}")
    materialized = {line["sku"] for line in diary_of(shop) if "sku" in line}
    lost += [f"{sku} was never given to the caller" for sku in {o.sku for o in orders} - materialized]

    with Ledger.open(shop.ledger_url) as ledger:
        books += _books(ledger, bills, accepted)
        books += overruns(ledger, Decimal(shop.cap))
    other += secrets_in(Path(shop.folder))
    return Outcome(
        scenario, died, processes, len(orders), tuple(double), tuple(lost), tuple(books), tuple(other)
    )


def _books(ledger: Ledger, bills: dict[str, Decimal], accepted: Iterable[str]) -> Iterator[str]:
    """Where the books differ from the bills, task by task, to the last nano-dollar."""
    yield from ledger.verify()
    yield from (f"{one.id} is still reserved" for one in ledger.open_reservations())
    with ledger.reading() as connection:
        rows = connection.execute(select(intents.c.task_uuid, intents.c.state)).all()
        events = connection.execute(select(spend_events).order_by(spend_events.c.seq)).all()
    states = {row.task_uuid: row.state for row in rows}
    yield from (f"{uuid} is still open" for uuid, state in states.items() if state == "open")
    yield from (f"{uuid} was accepted and is not in the journal" for uuid in set(accepted) - set(states))
    booked = {event.reservation_id: event for event in events if event.kind == "settle"}
    exact = Decimal(0)
    for uuid in states:
        bill, event = bills.get(uuid, Decimal(0)), booked.get(uuid)
        if event is None:
            if bill:
                yield f"{uuid} was billed {bill} and nothing is booked"
        elif event.source == "estimate":
            # Only where the server named no price that can be believed: then never less than the truth.
            if event.amount < bill:
                yield f"{uuid} was billed {bill}, and {event.amount} is estimated"
        elif event.amount != bill:
            yield f"{uuid} was billed {bill}, and {event.amount} is booked"
        exact += event.amount if event is not None else 0
    settled = sum((event.settled_change for event in events), Decimal(0))
    if settled != exact:
        yield f"{settled} is settled in all, and {exact} for tasks"


def overruns(ledger: Ledger, cap: Decimal) -> list[str]:
    """The moments in the history of the books at which more than the cap was spent or set aside."""
    with ledger.reading() as connection:
        events = connection.execute(select(spend_events).order_by(spend_events.c.seq)).all()
    found, total = [], Decimal(0)
    for event in events:
        total += event.settled_change + event.reserved_change
        if total > cap:
            found.append(f"{total} of {cap} after event {event.seq}")
    return found


def secrets_in(folder: Path, secret: str = SENTINEL) -> list[str]:
    """Files that hold the API key."""
    return [
        f"the API key is in {path.relative_to(folder)}"
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
