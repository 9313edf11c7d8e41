"""The sampler walks from noise to a latent along a flow's velocity, guided by the photo.

Convention (flow matching): x_t = (1 - t) x_0 + (s + (1 - s) t) noise, with s = 1e-5, so that the velocity is
(1 - s) noise - x_0; time runs from 1 to 0. Guidance pushes away from what the flow would do without a photo,
inside an interval of times only; rescaling takes back the contrast that guidance adds.

The schedule is computed in float64. With the published settings one of its times is exactly 0.6, the edge of
the guidance interval; in float32 it would fall on the wrong side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SIGMA_MIN = 1e-5

Velocity = Callable[[Tensor, float, Tensor], Tensor]
"""(x, 1000 x time, cond) -> velocity of x's shape."""

Spread = Callable[[Tensor], Tensor]
"""A latent's standard deviation for each sample, shaped to multiply with the latent."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The random numbers of one generation: float32, drawn on the CPU one after the other."""

    generator: torch.Generator = field(repr=False)
    device: torch.device

    @classmethod
    def from_seed(cls, seed: int, device: torch.device) -> Noise:
        """seed: 0 to 2^63 - 1."""
        return cls(torch.Generator("cpu").manual_seed(seed), device)

    def draw(self, *shape: int) -> Tensor:
        """The next numbers, on the device."""
        return torch.randn(*shape, generator=self.generator).to(self.device)


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """One stage's sampling. guidance_interval: times between which guidance acts, both ends included.

    guidance_strength: 1 follows the photo without guidance, 0 ignores it. guidance_rescale: 0 to 1, the share
    of the contrast that is taken back. rescale_t: above 1, more of the steps are spent at high noise.
    """

    steps: int = 12
    guidance_strength: float = 7.5
    guidance_rescale: float = 0.5
    guidance_interval: tuple[float, float] = (0.6, 1.0)
    rescale_t: float = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """One Euler step done. number: 1 to steps. x: the latent now. x0: the clean latent it was heading for."""

    number: int
    x: Tensor
    x0: Tensor


def schedule(steps: int, rescale_t: float) -> npt.NDArray[np.float64]:
    """Times from 1 to 0, (steps + 1,) float64: r u / (1 + (r - 1) u) for evenly spaced u."""
    u = np.linspace(1.0, 0.0, steps + 1)
    return np.asarray(rescale_t * u / (1 + (rescale_t - 1) * u), dtype=np.float64)


def spread_dense(x: Tensor) -> Tensor:
    """x: (B, ...). Unbiased standard deviation over all but the batch, as the original does for cubes."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def spread_sparse(lengths: Sequence[int]) -> Spread:
    """For (N, C) latents with `lengths` rows in each sample: population standard deviation, (N, 1)."""

    def spread(x: Tensor) -> Tensor:
        rows = []
        for sample in x.split(list(lengths)):
            variance = sample.square().mean() - sample.mean().square()
            rows.append(variance.clamp_min(0).sqrt().expand(len(sample), 1))
        return torch.cat(rows)

    return spread


def guided_velocity(
    velocity: Velocity,
    x: Tensor,
    t: float,
    cond: Tensor,
    no_cond: Tensor,
    how: SamplerSettings,
    spread: Spread,
) -> Tensor:
    """The velocity at time t, with classifier-free guidance where the settings want it.

    Guidance: Ho & Salimans 2021. Interval: Kynkäänniemi et al. 2024. Rescale: Lin et al. 2023, section 3.4.
    """
    first, last = how.guidance_interval
    strength = how.guidance_strength if first <= t <= last else 1.0
    if strength == 1:
        return velocity(x, 1000 * t, cond)
    if strength == 0:
        return velocity(x, 1000 * t, no_cond)
    towards = velocity(x, 1000 * t, cond)
    away = velocity(x, 1000 * t, no_cond)
    guided = strength * towards + (1 - strength) * away
    if how.guidance_rescale > 0:
        plain_x0, guided_x0 = clean_latent(x, towards, t), clean_latent(x, guided, t)
        calmed = guided_x0 * (spread(plain_x0) / spread(guided_x0))
        x0 = how.guidance_rescale * calmed + (1 - how.guidance_rescale) * guided_x0
        guided = ((1 - SIGMA_MIN) * x - x0) / _noise_share(t)
    return guided


def clean_latent(x: Tensor, velocity: Tensor, t: float) -> Tensor:
    """Where x at time t ends if it keeps this velocity."""
    return (1 - SIGMA_MIN) * x - _noise_share(t) * velocity


def euler_steps(
    velocity: Velocity, noise: Tensor, cond: Tensor, no_cond: Tensor, how: SamplerSettings, spread: Spread
) -> Iterator[Step]:
    """Yield every step on the way from `noise` to the latent; the last one's `x` is the result.

    A generator, so that whoever watches can show progress or stop between two steps.
    """
    x = noise
    times = schedule(how.steps, how.rescale_t).tolist()
    for number, (t, t_next) in enumerate(pairwise(times), start=1):
        v = guided_velocity(velocity, x, t, cond, no_cond, how, spread)
        x0 = clean_latent(x, v, t)
        x = x - (t - t_next) * v
        yield Step(number, x, x0)


def _noise_share(t: float) -> float:
    return SIGMA_MIN + (1 - SIGMA_MIN) * t
