"""The image encoder: DINOv3, a plain vision transformer, in float32.

Its tokens (one for the whole image, a few registers, one for each 16 x 16 patch) are what the flows attend
to. They are normalised without learned parameters at the end: the network's own last norm is not used.
Parameter names are those of the published checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from trellis_pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DinoConfig:
    """Named as in the checkpoint's config.json. The defaults are ViT-L/16's."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_size: int = 16
    num_register_tokens: int = 4
    layer_norm_eps: float = 1e-5
    rope_theta: float = 100.0

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Read a config.json. Raises ConfigError for the larger models' gated MLP."""
        if args.get("use_gated_mlp", False):
            raise ConfigError("this encoder has a gated MLP; TRELLIS.2 needs DINOv3 ViT-L/16")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in args.items() if name in known})


def patch_rotation(rows: int, columns: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each patch's angles, (rows * columns, head_dim) float32 each.

    A patch's centre in -1..1 along y, then x, times 2 pi and falling frequencies; both halves are alike.
    """
    exponents = torch.arange(head_dim // 4, dtype=torch.float32) / (head_dim / 4)
    frequencies = 1 / base**exponents
    y = (torch.arange(rows, dtype=torch.float32) + 0.5) / rows
    x = (torch.arange(columns, dtype=torch.float32) + 0.5) / columns
    centres = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(-1, 2) * 2 - 1
    angles = (2 * math.pi * centres[:, :, None] * frequencies).flatten(1).tile(2)
    return angles.cos(), angles.sin()


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i against channel i + head_dim / 2. x: (..., P, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Embeddings(nn.Module):
    """Pixels to tokens: cut into patches, the image token and the registers in front."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, width))
        self.patch_embeddings = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W). Returns (B, 1 + registers + patches, width)."""
        patches = self.patch_embeddings(pixels).flatten(2).transpose(1, 2)
        batch = len(pixels)
        front = [self.cls_token.expand(batch, -1, -1), self.register_tokens.expand(batch, -1, -1)]
        return torch.cat([*front, patches], dim=1)


class Attention(nn.Module):
    """Self-attention; only patches have a position. The keys have no bias."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (B, L, width). cos, sin: (patches, head_dim), for the last tokens."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        front = x.shape[1] - len(cos)
        q, k = (
            torch.cat([side[:, :, :front], rotate_halves(side[:, :, front:], cos, sin)], dim=2)
            for side in (q, k)
        )
        out: Tensor = self.o_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two layers around a GELU (exact form)."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width)."""
        out: Tensor = self.down_proj(nn.functional.gelu(self.up_proj(x)))
        return out


class LayerScale(nn.Module):
    """One learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, L, width)."""
        return x * self.lambda1


class Layer(nn.Module):
    """One transformer layer, norms in front."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(config)
        self.layer_scale1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = FeedForward(config)
        self.layer_scale2 = LayerScale(width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (B, L, width)."""
        x = x + self.layer_scale1(self.attention(self.norm1(x), cos, sin))
        out: Tensor = x + self.layer_scale2(self.mlp(self.norm2(x)))
        return out


class DinoEncoder(nn.Module):
    """Normalised pixels to condition tokens."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # in the file, not used

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W) float32, sides divisible by the patch size.

        Returns (B, 1 + registers + patches, width) float32, patches row by row.
        """
        config = self.config
        rows, columns = pixels.shape[2] // config.patch_size, pixels.shape[3] // config.patch_size
        head_dim = config.hidden_size // config.num_attention_heads
        cos, sin = patch_rotation(rows, columns, head_dim, config.rope_theta)
        x = self.embeddings(pixels)
        for layer in self.layer:
            x = layer(x, cos.to(x), sin.to(x))
        return layer_norm(x, x.shape[-1:], eps=1e-5)
