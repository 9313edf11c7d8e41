"""Attention with normalised queries and keys.

Each head's query and key is scaled to a fixed length before the dot product, which bounds the logits and
keeps bfloat16 safe. float16 is not: its accumulated error shows as holes in the 1024 models, so a flow in
float16 is refused where it is built (flow.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from trellis_pipeline.trellis2.embeddings import Rotation, rotate_pairs


class MultiHeadRMSNorm(nn.Module):
    """Scales every head's vector to length sqrt(head_dim), then by a learned factor for each channel."""

    def __init__(self, head_dim: int, heads: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., heads, head_dim). Computed in float32, returned in x's dtype."""
        return (normalize(x.float(), dim=-1) * (self.gamma * self.gamma.shape[-1] ** 0.5)).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, most_logits: int | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v. q: (B, L, heads, d); k, v: (B, M, heads, d). Returns (B, L, heads * d).

    most_logits: heads x queries x keys that may be held at once; by default only limited on MPS, whose
    attention may hold them all where CPU and CUDA hold a few rows.
    """
    if most_logits is None and q.device.type == "mps":
        most_logits = 1 << 26  # a quarter of a gigabyte, and as much again for their softmax
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    batch, heads, queries, _ = q.shape
    rows = queries if most_logits is None else max(1, most_logits // (batch * heads * k.shape[2]))
    if rows >= queries:
        out = scaled_dot_product_attention(q, k, v)
    else:
        out = torch.cat([scaled_dot_product_attention(part, k, v) for part in q.split(rows, dim=2)], dim=2)
    return out.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Every token looks at every token of its own sample; positions enter as rotations."""

    def __init__(self, channels: int, heads: int, *, qk_norm: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * channels, dtype=dtype)
        self.q_rms_norm = MultiHeadRMSNorm(channels // heads, heads) if qk_norm else nn.Identity()
        self.k_rms_norm = MultiHeadRMSNorm(channels // heads, heads) if qk_norm else nn.Identity()
        self.to_out = nn.Linear(channels, channels, dtype=dtype)

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        """x: (B, L, C). rotation: of the L tokens, the same for each sample of the batch."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k = self.q_rms_norm(q), self.k_rms_norm(k)
        if rotation is not None:
            q, k = rotate_pairs(q, rotation), rotate_pairs(k, rotation)
        out: Tensor = self.to_out(attend(q, k, v))
        return out


class CrossAttention(nn.Module):
    """Every token looks at the tokens of the photo."""

    def __init__(
        self, channels: int, cond_channels: int, heads: int, *, qk_norm: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, dtype=dtype)
        self.to_kv = nn.Linear(cond_channels, 2 * channels, dtype=dtype)
        self.q_rms_norm = MultiHeadRMSNorm(channels // heads, heads) if qk_norm else nn.Identity()
        self.k_rms_norm = MultiHeadRMSNorm(channels // heads, heads) if qk_norm else nn.Identity()
        self.to_out = nn.Linear(channels, channels, dtype=dtype)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x: (B, L, C). cond: (B, M, cond_channels)."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        k, v = self.to_kv(cond).unflatten(-1, (2, self.heads, -1)).unbind(2)
        out: Tensor = self.to_out(attend(self.q_rms_norm(q), self.k_rms_norm(k), v))
        return out
