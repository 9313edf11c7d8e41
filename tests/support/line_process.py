"""The line in a process of its own, so that the process can be killed; and what must hold whatever happened.

Run as a program it reads a JSON plan (see `Plan`), runs the catalog with a generator that keeps a billing log
on disk, and prints the summary. `die` in the plan lets the process send itself SIGKILL right before or after
one call of the artifact store or the generator, which hits a moment that no timing from outside would.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from small_catalogs import InstantGenerator, InstantGeneratorResource, box_glb, settings_for

from trellis_pipeline.costs.ledger import Ledger
from trellis_pipeline.errors import TrellisError
from trellis_pipeline.generation.generator import GeneratedModel, GeneratorIdentity
from trellis_pipeline.mesh.glb_read import parse_glb

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parent.parent
SAFETY_SECONDS = 240


@dataclass
class Plan:
    """What a process shall do. folder: home of settings, output and Dagster.

    die: when:operation:pattern:number, as in `after:write:product_models.json:2`, after the second record
    of a model.

    sections: settings. crash_seeds: seeds whose generation kills its worker. wait_for: a file without which
    no generation comes back, from the `wait_from`th on. identity: name and model of the generator.
    cost: per generation; makes it paid.
    """

    folder: str
    catalog: str
    die: str = ""
    sections: dict[str, Any] = field(default_factory=dict)
    crash_seeds: list[int] = field(default_factory=list)
    wait_for: str = ""
    wait_from: int = 1
    identity: tuple[str, str] = ("instant", "box")
    cost: str = ""
    verbose: bool = False


def environment(**more: str) -> dict[str, str]:
    """This environment without our own settings, with the checkout importable."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRELLIS_", "DAGSTER_"))}
    path = os.pathsep.join([str(ROOT), str(SUPPORT)])
    return {**kept, "PYTHONPATH": path, **more}


def start(plan: Plan, **env: str) -> subprocess.Popen[str]:
    """Start a process on this plan, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "line_process.py"), json.dumps(asdict(plan))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**env),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a process that is to end well and leave no worker behind, and give its summary."""
    out, err = process.communicate(timeout=SAFETY_SECONDS)
    assert process.returncode == 0, err[-4000:]
    assert_nobody_stays(process.pid)
    return json.loads(out)


def run(plan: Plan, **env: str) -> dict[str, Any]:
    """Start and finish."""
    return finish(start(plan, **env))


def statuses(summary: dict[str, Any]) -> dict[str, str]:
    """SKU to status."""
    return {product["sku"]: product["status"] for product in summary["products"]}


def billed(folder: Path) -> list[str]:
    """The generator's own billing log: one line for each generation it has made."""
    log = folder / "billing.log"
    return log.read_text().split() if log.exists() else []


def wait_until(condition: Any, what: str) -> None:
    """Poll; the time limit is for tests that hang, not a promise."""
    end = time.monotonic() + SAFETY_SECONDS
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.02)


def session_members(leader: int) -> list[int]:
    """Living processes of the session that `start` opened: the leader, its workers and their helpers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def assert_nobody_stays(leader: int) -> None:
    """The workers of a dead process end too."""
    wait_until(lambda: not session_members(leader), f"the end of the processes of {leader}")


def assert_whole(output: Path) -> int:
    """Nothing half-written stands under any name; gives the number of files looked at."""
    seen = 0
    for path in output.rglob("*"):
        if not path.is_file() or {".incoming", ".trellis"} & set(path.parts):
            continue
        seen += 1
        data = path.read_bytes()
        if "blobs" in path.relative_to(output).parts:
            assert hashlib.sha256(data).hexdigest() == path.name.partition(".")[0], path
        elif path.suffix == ".json":
            json.loads(data)
        elif path.suffix == ".glb":
            parse_glb(data)
        elif path.suffix == ".parquet":
            assert data[:4] == data[-4:] == b"PAR1", path
        elif path.suffix == ".png":
            assert data[-8:-4] == b"IEND", path
        elif path.suffix == ".html":
            assert data.rstrip().endswith(b"</html>"), path
    return seen


def assert_consistent(output: Path, sku: str) -> None:
    """What stands under a product's name is what its records speak of, and each record follows the last."""
    folder = output / "shop" / "products" / sku
    records = {
        stage: json.loads((folder / f"{stage}.json").read_text())
        for stage in ("source_images", "product_crops", "product_models", "model_quality")
    }
    model = records["product_models"]
    for name, blob in (
        ("model.glb", model["model"]),
        ("preview.png", model["preview"]),
        ("crop.png", records["product_crops"]["crop"]),
        ("photo.png", records["source_images"]["photo"]),
    ):
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == blob["sha256"], name
    extras = parse_glb((folder / "model.glb").read_bytes()).document["asset"]["extras"]["trellis_pipeline"]
    assert extras["sku"] == sku
    assert extras["crop_sha256"] == records["product_crops"]["data_version"]
    assert extras["source_sha256"] == records["source_images"]["data_version"]
    assert extras == model["certificate"]
    assert not (folder / "problem.json").exists()


def assert_books_are_right(folder: Path) -> None:
    """Totals and events of the ledger agree."""
    with Ledger.open(f"sqlite:///{folder / '.trellis' / 'ledger.sqlite'}") as ledger:
        assert ledger.verify() == ()


# -- the program ---------------------------------------------------------------------------------------------


_matches: list[str] = []


def kill_this_process() -> None:
    """As the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def end_this_worker() -> None:
    """What a crashing decoder does to its process."""
    os._exit(11)


class BilledGenerator(InstantGenerator):
    """An instant generator in another process: its billing log is a file."""

    def __init__(self, plan: Plan, run_cpu: Any = None) -> None:
        super().__init__(paid=bool(plan.cost), cost=plan.cost or "0")
        self.identity = GeneratorIdentity(*plan.identity, "1")
        self.plan = plan
        self.run_cpu = run_cpu
        self.asked = 0

    async def generate(self, request, image, progress=None):  # type: ignore[no-untyped-def]
        """Wait where the plan says so, crash a worker where it says so, else bill and answer."""
        with Path(self.plan.folder, "asked.log").open("a") as asked:
            asked.write(f"{image.sha256}\n")
        self.asked += 1
        waits = bool(self.plan.wait_for) and self.asked >= self.plan.wait_from
        while waits and not Path(self.plan.wait_for).exists():
            await asyncio.sleep(0.02)
        if request.seed in self.plan.crash_seeds:
            await self.run_cpu(end_this_worker)
        moment(self.plan, "before", "generate", image.sha256)
        log = os.open(Path(self.plan.folder, "billing.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{image.sha256}\n".encode())
        os.fsync(log)
        os.close(log)
        moment(self.plan, "after", "generate", image.sha256)
        return [GeneratedModel(box_glb(), request.seed, Decimal(self.cost), 0.001, raw_cost_text=self.cost)]


class BilledGeneratorResource(InstantGeneratorResource):
    """Gives the generator the run's own workers."""

    def open(self, run_cpu: Any, *_: Any, **__: Any) -> InstantGenerator:
        generator = super().open(run_cpu)
        generator.run_cpu = run_cpu  # type: ignore[attr-defined]
        return generator


def moment(plan: Plan, when: str, operation: str, name: str) -> None:
    """Die here, if the plan says so and this is the time it means."""
    if plan.die:
        wanted_when, wanted_operation, pattern, number = plan.die.split(":")
        if (when, operation) == (wanted_when, wanted_operation) and re.search(pattern, name):
            _matches.append(name)
            if len(_matches) == int(number):
                kill_this_process()


def deadly(plan: Plan) -> None:
    """Put a moment before and after each call of the local store that writes."""
    from trellis_pipeline.storage.local import LocalStore

    def around(operation: str) -> None:
        real = getattr(LocalStore, operation)

        def call(self: LocalStore, name: Any, *rest: Any) -> Any:
            label = name if isinstance(name, str) else str(rest[0])
            moment(plan, "before", operation, label)
            result = real(self, name, *rest)
            moment(plan, "after", operation, label)
            return result

        setattr(LocalStore, operation, call)

    for operation in ("put_blob", "publish", "write", "create"):
        around(operation)


def carry_out(plan: Plan, generator: Any = None) -> None:
    """Do what the plan says. An error of ours is a result too; any other is a traceback.

    generator: in place of the one that the settings name.
    """
    from trellis_pipeline.automation.in_process import run_catalog
    from trellis_pipeline.automation.summary import summarise

    settings = settings_for(Path(plan.folder), plan.catalog, **plan.sections)  # type: ignore[arg-type]
    try:
        done = run_catalog(settings, settings.catalogs[0], generator=generator, verbose=plan.verbose)
    except TrellisError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return
    print(summarise(done, 0.0).model_dump_json())


def main() -> None:
    """What the plan says, with the billed generator."""
    plan = Plan(**json.loads(sys.argv[1]))
    deadly(plan)
    carry_out(plan, BilledGeneratorResource.around(BilledGenerator(plan)))


if __name__ == "__main__":
    main()
