"""A service in a process of its own, for tests in which clients or the service itself are killed.

As a program: `python service_process.py --folder F --port-file P [--port N] [--faults JSON] [--seconds 0.2]
[--concurrency N] [--credit USD] [--price USD] [--api-key KEY]`. The port file appears when it serves. It
makes an instant box for every task, after the simulated generation time. What it did is read from its folder
with `trellis_pipeline.service.testing.billing_of` and `accepted_of`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]
SAFETY_SECONDS = 120


@dataclass
class ServiceProcess:
    """A started process. base_url: as in `running_service`."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def kill(self) -> None:
        """As the kernel's out-of-memory killer would."""
        self.process.kill()
        self.process.wait(SAFETY_SECONDS)

    def terminate(self) -> int:
        """As an init system would; gives the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SAFETY_SECONDS)


def start_service(folder: Path, *arguments: str, port: int = 0) -> ServiceProcess:
    """Start a service process and wait until it serves. port: 0 for a free one, or that of one that died."""
    folder.mkdir(parents=True, exist_ok=True)
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRELLIS_", "DAGSTER_"))}
    command = [sys.executable, str(Path(__file__).resolve()), "--folder", str(folder), "--port", str(port)]
    log = folder / "stderr.log"
    # Into a file: a pipe that nobody reads is full one day, and the server stands still.
    with log.open("a") as errors:
        process = subprocess.Popen(
            [*command, "--port-file", str(port_file), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)])},
            start_new_session=True,
        )
    end = time.monotonic() + SAFETY_SECONDS
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise RuntimeError(f"the service did not start: {log.read_text()[-4000:]}")
        time.sleep(0.01)
    return ServiceProcess(process, folder, int(port_file.read_text()))


@contextmanager
def service_process(folder: Path, *arguments: str, port: int = 0) -> Iterator[ServiceProcess]:
    """The same for a block; killed at its end if it still lives."""
    service = start_service(folder, *arguments, port=port)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.kill()


def main() -> None:
    """Serve until SIGTERM."""
    from small_catalogs import InstantGenerator, box_glb

    from trellis_pipeline.service.faults import FaultPlan
    from trellis_pipeline.service.options import ServiceOptions, hash_api_key
    from trellis_pipeline.service.serve import serve
    from trellis_pipeline.service.testing import SlowGenerator

    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", default="{}")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--credit", type=Decimal)
    parser.add_argument("--price", type=Decimal, default=Decimal("0.0256"))
    parser.add_argument("--api-key", action="append", default=[])
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    box_glb()  # made once, before the first request has to wait for it
    options = ServiceOptions(
        folder=given.folder,
        port=given.port,
        price=given.price,
        credit_usd=given.credit,
        concurrency=given.concurrency,
        allow_private_addresses=True,
        api_key_hashes=tuple(hash_api_key(key) for key in given.api_key),
    )
    generator = SlowGenerator(InstantGenerator(), given.seconds)

    def tell(address: str) -> None:
        temporary = given.port_file.with_suffix(".part")
        temporary.write_text(address.rpartition(":")[2])
        temporary.replace(given.port_file)

    serve(options, generator, faults=FaultPlan.from_json(given.faults), announce=tell, grace_seconds=1)


if __name__ == "__main__":
    main()
