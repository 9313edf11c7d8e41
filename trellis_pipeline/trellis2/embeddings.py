"""How a transformer learns where a token is and how noisy it is.

Three encodings. The timestep becomes sines and cosines that a small MLP reads. The position enters every
query and key as a rotation (RoPE), so that attention sees differences of coordinates. An absolute sine code
exists too; the published checkpoints do not use it, older ones may.

Rotations are kept as cosine and sine rather than complex numbers, which some devices do not have.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


def sinusoid(t: Tensor, width: int, longest: float = 10000.0) -> Tensor:
    """Cosines, then sines of t at geometrically falling frequencies.

    t: (B,) any float, for the flows 1000 x time. Returns (B, width) float32; an odd width ends in a zero.
    Formula: Vaswani et al. 2017, section 3.5, with the cosines first.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    # In this order of operations: at t = 1000 another one differs in the sixth digit.
    angles = t[:, None].float() * torch.exp(-math.log(longest) * steps / half)
    code = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(code, (0, width - 2 * half))


class TimestepEmbedder(nn.Module):
    """(B,) timesteps -> (B, channels) float32."""

    def __init__(self, channels: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        """t: (B,), 1000 x time."""
        out: Tensor = self.mlp(sinusoid(t, self.frequencies))
        return out


class Rotation(NamedTuple):
    """One angle per token and channel pair. cos, sin: (N, head_dim / 2) float32."""

    cos: Tensor
    sin: Tensor


def rotation_3d(coords: Tensor, head_dim: int, base: float = 10000.0) -> Rotation:
    """The rotation of each token: a third of the channel pairs turns with x, a third with y, a third with z.

    coords: (N, 3) integer voxel coordinates, used as they are. Pairs that do not divide by three stay still.
    Formula: Su et al. 2021, one axis after the other.
    """
    pairs = head_dim // 2
    per_axis = pairs // 3
    exponents = torch.arange(per_axis, dtype=torch.float32, device=coords.device) / per_axis
    frequencies = 1.0 / base**exponents
    angles = (coords[:, :, None].float() * frequencies).flatten(1)
    angles = nn.functional.pad(angles, (0, pairs - angles.shape[1]))
    return Rotation(angles.cos(), angles.sin())


def rotate_pairs(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn neighbouring channels (0, 1), (2, 3), ... of every head by the token's angles.

    x: (..., N, heads, head_dim). Computed in float32, returned in x's dtype.
    """
    cos, sin = rotation.cos[:, None], rotation.sin[:, None]
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def grid_coords(size: int, device: torch.device | None = None) -> Tensor:
    """All cells of a cube, x slowest. Returns (size^3, 3) int64."""
    axis = torch.arange(size, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def absolute_position_code(coords: Tensor, channels: int, base: float = 10000.0) -> Tensor:
    """Sines, then cosines of each axis in turn; channels that are left over are zero.

    coords: (N, A). Returns (N, channels) float32.
    """
    axes = coords.shape[1]
    half = channels // axes // 2
    exponents = torch.arange(half, dtype=torch.float32, device=coords.device) / half
    angles = coords[:, :, None].float() * (1.0 / base**exponents)
    code = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return nn.functional.pad(code, (0, channels - code.shape[1]))
