"""Contracts of the plain norms (kernels.md 1.3, 1.9 and 2.11): FP32 mathematics, result in the input's dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.reference import norm_rope


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, out: Tensor | None = None) -> Tensor:
    """``x * rsqrt(mean(x^2) + eps) * weight`` over the last dimension of x ``[..., D]``, weight ``[D]`` or none."""
    wide = x if x.dtype == torch.float64 else x.float()
    result = norm_rope.rms_norm(wide, None if weight is None else weight.to(wide.dtype), eps).to(x.dtype)
    return result if out is None else out.copy_(result)


def mtp_fuse(
    embeds: Tensor, streams: Tensor, embed_weight: Tensor, stream_weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Inputs of the MTP block's two projections: normalised embeddings ``[T, D]`` and streams ``[T, 4, D]``.

    Each stream is normalised on its own (kernels.md 1.9). The caller adds ``e_proj`` of the first to ``h_proj`` of the
    second.
    """
    return rms_norm(embeds, embed_weight, eps), rms_norm(streams, stream_weight, eps)
