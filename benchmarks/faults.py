"""Never pay twice: how often it was tried, and how often it failed. Every number but the first three is 0.

Real processes buy from real servers over loopback and die: at every crash point that was promised, by hand at
one await after the other, and in random scenarios with several deaths, several processes at once and a server
that has bad days. Afterwards the work is finished by others, and what is there is compared with the servers'
own billing logs, task by task.

    python benchmarks/faults.py [--count 2000] [--seed 0] [--seeds 25] [--awaits 240]
        [--lanes 4] [--play NAME]

A scenario that breaks a promise is printed with its name; `--play NAME` plays it again, alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "support")]
from buying_scenarios import (  # noqa: E402
    MATRIX_SEEDS,
    Arena,
    Outcome,
    Scenario,
    awaits_scenario,
    matrix,
    random_scenario,
    scenario_of,
)

COLUMNS = ("scenarios", "processes", "killed", "models", "paid twice", "lost", "books differ", "other")


@dataclass
class Count:
    """What was seen, by line of the table."""

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    broken: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more scenario."""
        kind, *rest = outcome.scenario.name.split("/")
        row = self.rows.setdefault(f"{rest[0]}, {rest[1]}" if kind == "matrix" else kind, Counter())
        row["scenarios"] += 1
        row["processes"] += outcome.processes
        row["killed"] += outcome.died
        row["models"] += outcome.models
        row["paid twice"] += bool(outcome.double)
        row["lost"] += bool(outcome.lost)
        row["books differ"] += bool(outcome.books)
        row["other"] += bool(outcome.other)
        if outcome.breaches:
            self.broken.append(outcome)
            print(f"\n{outcome.scenario.name}: " + "\n  ".join(outcome.breaches), file=sys.stderr, flush=True)

    def table(self) -> str:
        """All lines and their sum."""
        total: Counter[str] = sum(self.rows.values(), Counter())
        lines = [f"{'':32}" + "".join(f"{name:>14}" for name in COLUMNS)]
        for name, row in [*self.rows.items(), ("all", total)]:
            lines.append(f"{name:32}" + "".join(f"{row[column]:>14,}" for column in COLUMNS))
        return "\n".join(lines)


def play(arena: Arena, scenarios: Sequence[Scenario], count: Count) -> None:
    """Play them, one epoch after the other, so that few servers run at a time."""
    began, done = time.monotonic(), 0
    for _, group in groupby(scenarios, key=lambda scenario: scenario.epoch):
        played: Iterable[Outcome] = arena.play_all(list(group))
        for outcome in played:
            count.add(outcome)
            done += 1
            if done % 50 == 0:
                spent = time.monotonic() - began
                print(f"  {done:,} of {len(scenarios):,} in {spent:,.0f} s", file=sys.stderr, flush=True)
        arena.close_servers()


def main() -> int:
    """Play and print; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="random scenarios")
    parser.add_argument("--seed", type=int, default=0, help="of the first random scenario")
    parser.add_argument("--seeds", type=int, default=MATRIX_SEEDS, help="for each crash point and signal")
    parser.add_argument("--awaits", type=int, default=240, help="so many awaits at which one is stopped")
    parser.add_argument("--lanes", type=int, default=4, help="scenarios at a time")
    parser.add_argument("--play", metavar="NAME", action="append", default=[], help="only this scenario")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    count, began = Count(), time.monotonic()
    with Arena(folder, given.lanes) as arena:
        if given.play:
            play(arena, [scenario_of(name) for name in given.play], count)
        else:
            by_moment = sorted(
                matrix(range(given.seeds)), key=lambda scenario: scenario.name.rpartition("/")[0]
            )
            play(arena, by_moment, count)
            play(arena, [awaits_scenario(number) for number in range(1, given.awaits + 1)], count)
            play(arena, [random_scenario(given.seed + number) for number in range(given.count)], count)
    print(count.table())
    print(f"{time.monotonic() - began:,.0f} s, {given.lanes} at a time")
    for outcome in count.broken:
        print(f"broken: python benchmarks/faults.py --play '{outcome.scenario.name}'")
    if count.broken:
        print(f"their folders are kept in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
