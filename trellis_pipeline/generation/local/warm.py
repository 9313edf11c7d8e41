"""One checkpoint on one device, loaded once and kept warm for as long as the process lives.

Loading takes longer than making a model, so whoever needs the same networks in this process shares them: the
products of a chunk, the runs of a service. A device makes one model at a time, also for several processes:
two that share its memory would both be slower, or both fail.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trellis_pipeline.generation.local.options import LocalOptions

if TYPE_CHECKING:
    from PIL import Image

    from trellis_pipeline.trellis2.machine import Machine
    from trellis_pipeline.trellis2.pipeline import GenerationSettings, Watch
    from trellis_pipeline.trellis2.repository import Repository
    from trellis_pipeline.trellis2.resident import ResidentNetworks
    from trellis_pipeline.trellis2.voxel_model import VoxelModel

_TURN_LOOK_SECONDS = 0.25


class Stopped(Exception):
    """The caller lost interest, and the work ended between two steps."""


@dataclass(slots=True)
class Busy:
    """Seconds that the device has been busy for one generation, also if it failed.

    load_seconds: bringing networks to the device. generate_seconds: everything else.
    """

    load_seconds: float = 0.0
    generate_seconds: float = 0.0

    def __iadd__(self, other: Busy) -> Busy:
        self.load_seconds += other.load_seconds
        self.generate_seconds += other.generate_seconds
        return self

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.load_seconds + self.generate_seconds

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Both by the names that the books know them under."""
        return {"load": self.load_seconds, "generate": self.generate_seconds}


class WarmModel:
    """Makes one model after the other. Safe for many threads: each waits for its turn."""

    def __init__(self, repository: Repository, machine: Machine, options: LocalOptions) -> None:
        self.repository = repository
        self.machine = machine
        self._options = options
        self._networks: ResidentNetworks | None = None

    @property
    def usual(self) -> GenerationSettings:
        """How to sample, as the checkpoint's description says."""
        return self.repository.settings

    @property
    def plan(self) -> str:
        """The memory plan in force; "" before the first model."""
        return "" if self._networks is None else self._networks.plan

    def generate(
        self,
        square: Image.Image,
        *,
        mode: str,
        seed: int,
        settings: GenerationSettings,
        watch: Watch,
        stopped: Callable[[], bool],
        busy: Busy,
    ) -> VoxelModel:
        """Wait for the device and make one model. Blocks; call it in a thread.

        square: as in `trellis2.pipeline.generate_from_square`. stopped: asked between steps. busy: is filled
        in, whatever happens.

        Raises Stopped, and what `generate_from_square` raises.
        """
        from trellis_pipeline.trellis2.machine import device_key
        from trellis_pipeline.trellis2.pipeline import generate_from_square

        def look(stage: str, done: int, of: int) -> None:
            if stopped():
                raise Stopped
            watch(stage, done, of)

        with device_turn(device_key(self.machine.device), stopped):
            if stopped():
                raise Stopped
            networks = self._networks_for(mode)
            began, loaded = time.perf_counter(), networks.seconds_loading
            try:
                model: VoxelModel = generate_from_square(
                    networks,
                    square,
                    mode=mode,
                    seed=seed,
                    settings=settings,
                    watch=look,
                    retry_smaller=self._options.retry_smaller,
                )
                return model
            finally:
                busy.load_seconds = networks.seconds_loading - loaded
                busy.generate_seconds = time.perf_counter() - began - busy.load_seconds

    def _networks_for(self, mode: str) -> ResidentNetworks:
        """The networks, by a plan that has room for this mode. Only to be asked while the device is ours.

        What is free is looked at once, when this model first has the device: whoever had it before has
        loaded by then, and from then on part of what is missing is our own.
        """
        import torch

        from trellis_pipeline.trellis2.machine import choose_plan, look
        from trellis_pipeline.trellis2.resident import Precision, ResidentNetworks

        options = self._options
        if self._networks is None:
            self.machine = look(options.device, precision=options.precision)
        machine = self.machine
        plan = choose_plan(machine, mode) if options.plan == "auto" else options.plan
        if self._networks is None:
            self._networks = ResidentNetworks(
                self.repository,
                torch.device(machine.device),
                plan=plan,
                precision=Precision(
                    getattr(torch, machine.flow_dtype), getattr(torch, machine.decoder_dtype)
                ),
                compiled=options.compile,
            )
        self._networks.shrink_to(plan)
        return self._networks


_models: dict[LocalOptions, WarmModel] = {}
_models_lock = threading.Lock()


def warm_model(options: LocalOptions) -> WarmModel:
    """The process's model for these options; nothing is loaded before its first use.

    Raises ConfigError where PyTorch is not installed or the device is not there, WeightsMissing and
    WeightsInvalid where the checkpoint is not in its folder.
    """
    from trellis_pipeline.trellis2.machine import look

    machine = look(options.device, precision=options.precision)  # says it where PyTorch is not installed
    from trellis_pipeline.trellis2.repository import open_repository

    with _models_lock:
        key = replace(options, usd_per_gpu_second=Decimal(0), threads=1)
        if key not in _models:
            repository = open_repository(options.weights, image_encoder=options.image_encoder)
            _models[key] = WarmModel(repository, machine, options)
        elif any(weights.is_file() for weights in _models[key].repository.absent.values()):
            _models[key].repository = open_repository(options.weights, image_encoder=options.image_encoder)
        return _models[key]


@contextmanager
def device_turn(device: str, stopped: Callable[[], bool]) -> Iterator[None]:
    """Hold the device against other threads and processes of this user on this machine.

    One of those who wait stands at the door, and whoever has had the device comes back behind it: a run of
    hundreds of products would else take it again before anybody looks.
    device: a name that it has for all of them, see `trellis2.machine.device_key`.
    The locks belong to the files as they were opened here, and the system gives them back when a process
    dies. Raises Stopped where `stopped` says so while waiting.
    """
    name = f"trellis-pipeline-{os.getuid()}-{re.sub(r'[^A-Za-z0-9]+', '-', device)}"
    folder = Path(tempfile.gettempdir())
    with (folder / f"{name}.lock").open("a") as lock:
        with (folder / f"{name}-door.lock").open("a") as door:
            _take(door, stopped)
            _take(lock, stopped)
        yield


def _take(lock: IO[str], stopped: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if stopped():
                raise Stopped from None
            time.sleep(_TURN_LOOK_SECONDS)
        else:
            return
