"""The flow networks: given a noisy latent, the photo and the time, in which direction lies the clean one?

One transformer does it three times in a generation. `SparseStructureFlow` works on a small dense cube and
decides where the object is; two `SLatFlow`s work on the voxels that exist and fill in shape, then material.
They differ only in what their tokens are.

The torso (the big matrices inside the blocks) may run in bfloat16. Everything that sums over the whole depth
or sets scales stays in float32: the first and last layer, the timestep, all norms and modulations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from trellis_pipeline.errors import ConfigError
from trellis_pipeline.trellis2.attention import CrossAttention, SelfAttention
from trellis_pipeline.trellis2.embeddings import (
    Rotation,
    TimestepEmbedder,
    absolute_position_code,
    grid_coords,
    rotation_3d,
)


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """The shape of one flow, named as in its checkpoint's JSON file. The defaults are the 4B model's.

    resolution: edge of the latent grid; only the dense flow depends on it.
    """

    resolution: int
    in_channels: int
    out_channels: int
    model_channels: int = 1536
    cond_channels: int = 1024
    num_blocks: int = 30
    num_heads: int = 12
    mlp_ratio: float = 5.3334
    pe_mode: str = "rope"
    qk_rms_norm: bool = True
    qk_rms_norm_cross: bool = True

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Read a checkpoint's `args`. What concerns training only is passed over.

        Raises ConfigError for a network that is built in another way than this module builds it.
        """
        if not args.get("share_mod", True):
            raise ConfigError("this flow has a modulation network in every block (share_mod = false)")
        if args.get("pe_mode", "rope") not in {"rope", "ape"}:
            raise ConfigError(f"unknown position encoding {args['pe_mode']!r}; known are rope and ape")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in args.items() if name in known})


_MLP_ROWS = 8192


class FeedForward(nn.Module):
    """Two layers around a GELU (tanh form), some tokens at a time: what is between them is wide."""

    def __init__(self, channels: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden, dtype=dtype),
            nn.GELU(approximate="tanh"),
            nn.Linear(hidden, channels, dtype=dtype),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, C)."""
        parts = [self.mlp(part) for part in x.split(_MLP_ROWS, dim=1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class FlowBlock(nn.Module):
    """Self-attention, attention to the photo, MLP. Time shifts, scales and gates the first and the last."""

    def __init__(self, config: FlowConfig, dtype: torch.dtype) -> None:
        super().__init__()
        channels, heads = config.model_channels, config.num_heads
        self.modulation = nn.Parameter(torch.zeros(6 * channels))
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.self_attn = SelfAttention(channels, heads, qk_norm=config.qk_rms_norm, dtype=dtype)
        self.cross_attn = CrossAttention(
            channels, config.cond_channels, heads, qk_norm=config.qk_rms_norm_cross, dtype=dtype
        )
        self.mlp = FeedForward(channels, int(channels * config.mlp_ratio), dtype)

    def forward(self, x: Tensor, time: Tensor, cond: Tensor, rotation: Rotation | None) -> Tensor:
        """x: (B, L, C). time: (B, 6 C) shared modulation. cond: (B, M, cond_channels). All of one dtype."""
        modulation = (self.modulation + time).to(x.dtype)[:, None]
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = modulation.chunk(6, dim=-1)
        x = x + gate_attn * self.self_attn(normed(x) * (1 + scale_attn) + shift_attn, rotation)
        x = x + self.cross_attn(self.norm2(x.float()).to(x.dtype), cond)
        return x + gate_mlp * self.mlp(normed(x) * (1 + scale_mlp) + shift_mlp)


def normed(x: Tensor) -> Tensor:
    """Layer norm without learned parameters, computed in float32 and returned in x's dtype."""
    return layer_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)


class FlowTransformer(nn.Module):
    """What all flows share: tokens in, one velocity per token out."""

    def __init__(self, config: FlowConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if dtype not in {torch.float32, torch.bfloat16}:
            raise ConfigError(f"a flow runs in float32 or bfloat16, not in {dtype}; float16 loses details")
        channels = config.model_channels
        self.config = config
        self.dtype = dtype
        self.t_embedder = TimestepEmbedder(channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.input_layer = nn.Linear(config.in_channels, channels)
        self.blocks = nn.ModuleList(FlowBlock(config, dtype) for _ in range(config.num_blocks))
        self.out_layer = nn.Linear(channels, config.out_channels)

    def velocity(self, tokens: Tensor, coords: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """tokens: (B, L, in_channels) float32 at coords (L, 3). t: (B,), 1000 x time. cond: (B, M, C).

        Returns (B, L, out_channels) float32.
        """
        h = self.input_layer(tokens)
        rotation = None
        if self.config.pe_mode == "rope":
            rotation = rotation_3d(coords, self.config.model_channels // self.config.num_heads)
        else:
            h = h + absolute_position_code(coords, self.config.model_channels)
        h = h.to(self.dtype)
        time = self.adaLN_modulation(self.t_embedder(t)).to(self.dtype)
        cond = cond.to(self.dtype)
        for block in self.blocks:
            h = block(h, time, cond, rotation)
        out: Tensor = self.out_layer(layer_norm(h.float(), h.shape[-1:], eps=1e-5))
        return out


class SparseStructureFlow(FlowTransformer):
    """The flow over a dense cube: every cell is a token."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x: (B, in_channels, R, R, R) float32. t: (B,), 1000 x time. cond: (B, M, cond_channels).

        Returns (B, out_channels, R, R, R) float32.
        """
        size = self.config.resolution
        out = self.velocity(x.flatten(2).transpose(1, 2), grid_coords(size, x.device), t, cond)
        return out.transpose(1, 2).unflatten(2, (size, size, size))


class SLatFlow(FlowTransformer):
    """The flow over voxels that exist: every one is a token, and samples never see each other."""

    def forward(self, feats: Tensor, coords: Tensor, t: Tensor, cond: Tensor | Sequence[Tensor]) -> Tensor:
        """feats: (N, in_channels) float32 at coords (N, 4) integer (sample, x, y, z), samples in order.

        t: (B,), 1000 x time. cond: (B, M, cond_channels), or one (M_i, cond_channels) for each sample.
        Returns (N, out_channels) float32.
        """
        lengths = coords[:, 0].cpu().bincount(minlength=len(t)).tolist()
        samples = zip(feats.split(lengths), coords[:, 1:].split(lengths), t, cond, strict=True)
        return torch.cat([self.velocity(x[None], at, when[None], c[None])[0] for x, at, when, c in samples])
