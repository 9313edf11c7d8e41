"""The stages of a generation, each a function of its inputs, its noise and its network.

Nothing here draws random numbers, loads a network or knows the order of things; that is pipeline.py. So any
stage can be run on its own, with recorded inputs if need be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trellis_pipeline.errors import GenerationError
from trellis_pipeline.trellis2.flow import SLatFlow, SparseStructureFlow
from trellis_pipeline.trellis2.latent_decoder import LatentDecoder
from trellis_pipeline.trellis2.sampler import (
    SamplerSettings,
    Spread,
    Velocity,
    euler_steps,
    spread_dense,
    spread_sparse,
)
from trellis_pipeline.trellis2.structure_decoder import SparseStructureDecoder, occupied
from trellis_pipeline.trellis2.voxels import Grid, distinct

Watch = Callable[[int, int], None]
"""Called after every step with (done, of). Whatever it raises stops the generation between two steps."""

# Fine voxels along an edge of one latent voxel: four subdivisions.
VOXELS_PER_LATENT = 16


@dataclass(frozen=True, slots=True)
class Normalization:
    """What a latent's channels were divided by in training. mean, std: one value for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, latent: Tensor) -> Tensor:
        """Decoder's scale to the flow's. latent: (N, channels)."""
        return (latent - latent.new_tensor(self.mean)) / latent.new_tensor(self.std)

    def undo(self, latent: Tensor) -> Tensor:
        """The flow's scale to the decoder's. latent: (N, channels)."""
        return latent * latent.new_tensor(self.std) + latent.new_tensor(self.mean)


def without_photo(cond: Tensor) -> Tensor:
    """The condition that stands for "no photo": (B, 1, C) zeros.

    The original takes as many zero tokens as the photo has. Attention over equal tokens is the same whatever
    their number, so one does, and most of the attention to the photo is saved.
    """
    return torch.zeros_like(cond[:, :1])


def sample_structure(
    flow: SparseStructureFlow, noise: Tensor, cond: Tensor, how: SamplerSettings, watch: Watch
) -> Tensor:
    """noise: (1, C, R, R, R) float32. cond: (1, M, cond_channels). Returns the latent cube, as noise.

    Raises GenerationError where it is not finite.
    """

    def velocity(x: Tensor, t: float, c: Tensor) -> Tensor:
        out: Tensor = flow(x, x.new_full((len(x),), t), c)
        return out

    return _run("sparse structure", velocity, noise, cond, how, spread_dense, watch)


def decode_structure(decoder: SparseStructureDecoder, latent: Tensor, grid_edge: int) -> Tensor:
    """Which voxels of a grid with `grid_edge` cells exist: (N, 4) int32, sorted.

    Raises GenerationError if none does, or where the decoder's numbers are not finite.
    """
    logits = decoder(latent)
    if not bool(logits.isfinite().all()):
        raise not_finite("the sparse structure's occupancy")
    coords = occupied(logits, grid_edge)
    if len(coords) == 0:
        raise GenerationError("the sparse structure is empty: nothing was recognised; try another seed")
    return coords


def sample_latent(
    flow: SLatFlow,
    coords: Tensor,
    noise: Tensor,
    cond: Tensor,
    how: SamplerSettings,
    watch: Watch,
    what: str,
    beside: Tensor | None = None,
) -> Tensor:
    """A structured latent on the flow's scale: (N, C) float32.

    coords: (N, 4) int32 of one sample. noise: (N, C). what: the stage, for errors. beside: (N, D) features
    that every step sees next to the noise, for material the normalised shape.
    Raises GenerationError where it is not finite.
    """

    def velocity(x: Tensor, t: float, c: Tensor) -> Tensor:
        tokens = x if beside is None else torch.cat([x, beside], dim=1)
        out: Tensor = flow(tokens, coords, x.new_full((len(c),), t), c)
        return out

    return _run(what, velocity, noise, cond, how, spread_sparse([len(coords)]), watch)


def refine_coords(
    decoder: LatentDecoder, latent: Tensor, coords: Tensor, resolution: int, max_tokens: int, max_voxels: int
) -> tuple[Tensor, int]:
    """The cascade's step: which voxels of a finer latent grid the coarse shape touches.

    latent: (N, C) on the decoder's scale at coords (N, 4) of the 32^3 grid. Above 1024 the resolution falls
    by 128 until there are fewer than max_tokens voxels. Returns (M, 4) int32, sorted, and the resolution.
    """
    fine = decoder.upsample(latent, Grid(coords), 4, max_voxels)
    while True:
        edge = resolution // VOXELS_PER_LATENT
        xyz = ((fine[:, 1:].float() + 0.5) / 512 * edge).int()
        finer = distinct(torch.cat([fine[:, :1], xyz], dim=1))
        if len(finer) < max_tokens or resolution <= 1024:
            return finer, resolution
        resolution -= 128


def not_finite(what: str) -> GenerationError:
    """The error for infinities and what is not a number. what: with its article."""
    return GenerationError(f"{what} is not finite: the weights or the precision are wrong; try float32")


def _run(
    what: str,
    velocity: Velocity,
    noise: Tensor,
    cond: Tensor,
    how: SamplerSettings,
    spread: Spread,
    watch: Watch,
) -> Tensor:
    latent = noise
    for step in euler_steps(velocity, noise, cond, without_photo(cond), how, spread):
        latent = step.x
        if not bool(latent.isfinite().all()):
            raise not_finite(f"the latent of the {what}, step {step.number} of {how.steps},")
        watch(step.number, how.steps)
    return latent
