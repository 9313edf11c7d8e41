"""The whole line in a process of its own, buying from a server, so that it can be killed where it pays.

As a program it is `line_process` with the generator that the settings name. The plan's `die` takes moments of
the store, and of the purchase: `before:settle:.:2` is before the second settlement is booked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from line_process import SUPPORT, Plan, carry_out, deadly, environment, moment
from runware_parts import SENTINEL


def buying_plan(home: Path, catalog: Path, base_url: str, die: str = "", **sections: Any) -> Plan:
    """A plan to buy every product of the catalog at this server, within $5."""
    chosen: dict[str, Any] = {
        "generation": {"generator": "runware"},
        "runware": {"base_url": base_url},
        "budget": {"total_usd": "5.00"},
        "triage": {"hold": "never"},
        "run": {"workers": 1, "in_flight": 2},
        **sections,
    }
    return Plan(str(home), str(catalog), die=die, sections=chosen, verbose=True)


def start(plan: Plan) -> subprocess.Popen[str]:
    """Start a process on this plan, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "buying_line.py"), json.dumps(asdict(plan))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(RUNWARE_API_KEY=SENTINEL),
        start_new_session=True,
        cwd=Path(plan.catalog).parent,
    )


def _deadly_purchases(plan: Plan) -> None:
    """Put a moment before and after each step of a purchase that changes the books or asks the provider."""
    import asyncio

    from trellis_pipeline.costs.ledger import Ledger
    from trellis_pipeline.generation.runware.generator import RunwareGenerator
    from trellis_pipeline.purchasing.journal import Journal

    def around(owner: type, name: str) -> None:
        real = getattr(owner, name)
        if asyncio.iscoroutinefunction(real):

            async def call(*args: Any, **more: Any) -> Any:
                moment(plan, "before", name, "-")
                result = await real(*args, **more)
                moment(plan, "after", name, "-")
                return result

        else:

            def call(*args: Any, **more: Any) -> Any:
                moment(plan, "before", name, "-")
                result = real(*args, **more)
                moment(plan, "after", name, "-")
                return result

        setattr(owner, name, call)

    around(Journal, "begin")
    around(RunwareGenerator, "submit")
    around(RunwareGenerator, "collect")
    around(Ledger, "settle")


def main() -> None:
    """What the plan says, with the generator that the settings name."""
    plan = Plan(**json.loads(sys.argv[1]))
    deadly(plan)
    _deadly_purchases(plan)
    carry_out(plan)


if __name__ == "__main__":
    main()
