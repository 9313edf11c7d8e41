"""The first decoder: from a small latent cube to the answer "where is the object?"

Dense 3D convolutions on at most 64^3 cells; this network is tiny beside the others. Its torso may run in
float16 (as it was published), the first and last layer and the norms are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from trellis_pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StructureDecoderConfig:
    """The shape of the network, named as in its checkpoint's JSON file. The defaults are published."""

    out_channels: int = 1
    latent_channels: int = 8
    num_res_blocks: int = 2
    num_res_blocks_middle: int = 2
    channels: tuple[int, ...] = (512, 128, 32)

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Read a checkpoint's `args`. Raises ConfigError for another kind of norm."""
        if args.get("norm_type", "layer") != "layer":
            raise ConfigError(f"unknown norm {args['norm_type']!r} in the structure decoder; known is layer")
        return cls(
            out_channels=args["out_channels"],
            latent_channels=args["latent_channels"],
            num_res_blocks=args["num_res_blocks"],
            num_res_blocks_middle=args.get("num_res_blocks_middle", 2),
            channels=tuple(args["channels"]),
        )


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, X, Y, Z), in float32, returned in the input's dtype."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """input: (B, C, X, Y, Z)."""
        return super().forward(input.float().movedim(1, -1)).movedim(-1, 1).to(input.dtype)


class ResBlock(nn.Module):
    """Two convolutions, each behind a norm and a SiLU, added to the input."""

    def __init__(self, c_in: int, c_out: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(c_in)
        self.norm2 = ChannelNorm(c_out)
        self.conv1 = nn.Conv3d(c_in, c_out, 3, padding=1, dtype=dtype)
        self.conv2 = nn.Conv3d(c_out, c_out, 3, padding=1, dtype=dtype)
        self.skip_connection = nn.Conv3d(c_in, c_out, 1, dtype=dtype) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, c_in, X, Y, Z)."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        out: Tensor = h + self.skip_connection(x)
        return out


class Upsample(nn.Module):
    """Twice the resolution: a convolution makes eight values for each channel, one for each child cell."""

    def __init__(self, c_in: int, c_out: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv = nn.Conv3d(c_in, 8 * c_out, 3, padding=1, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, c_in, X, Y, Z). Returns (B, c_out, 2 X, 2 Y, 2 Z)."""
        h = self.conv(x).unflatten(1, (-1, 2, 2, 2))
        batch, channels, _, _, _, *size = h.shape
        # (B, C, dx, dy, dz, X, Y, Z) -> (B, C, X, dx, Y, dy, Z, dz)
        out: Tensor = h.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels, *(2 * n for n in size))
        return out


class SparseStructureDecoder(nn.Module):
    """Latent cube to occupancy logits at 2^(levels - 1) times its edge."""

    def __init__(self, config: StructureDecoderConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        widths = config.channels
        self.config = config
        self.dtype = dtype
        self.input_layer = nn.Conv3d(config.latent_channels, widths[0], 3, padding=1)
        self.middle_block = nn.Sequential(
            *(ResBlock(widths[0], widths[0], dtype) for _ in range(config.num_res_blocks_middle))
        )
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            layers += [ResBlock(width, width, dtype) for _ in range(config.num_res_blocks)]
            if level + 1 < len(widths):
                layers.append(Upsample(width, widths[level + 1], dtype))
        self.blocks = nn.ModuleList(layers)
        self.out_layer = nn.Sequential(
            ChannelNorm(widths[-1]), nn.SiLU(), nn.Conv3d(widths[-1], config.out_channels, 3, padding=1)
        )

    def forward(self, z: Tensor) -> Tensor:
        """z: (B, latent_channels, R, R, R) float32. Returns logits (B, 1, 4 R, 4 R, 4 R) float32."""
        h = self.middle_block(self.input_layer(z).to(self.dtype))
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.out_layer(h.float())
        return out


def occupied(logits: Tensor, grid_edge: int) -> Tensor:
    """The cells whose logit is above zero, on a grid of `grid_edge` cells (a divisor of the logits' edge).

    logits: (B, 1, R, R, R). A coarse cell is occupied if any cell in it is. Returns (N, 4) int32
    (sample, x, y, z), sorted; the order decides which noise each voxel gets.
    """
    factor = logits.shape[-1] // grid_edge
    cells = logits > 0
    if factor > 1:
        cells = cells.unflatten(4, (-1, factor)).unflatten(3, (-1, factor)).unflatten(2, (-1, factor))
        cells = cells.any(dim=(3, 5, 7))
    return cells[:, 0].nonzero().int()
