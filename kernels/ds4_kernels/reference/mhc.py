"""Manifold-constrained hyper-connections: four residual streams mixed by a doubly stochastic matrix.

``mixes`` of a token is [4 pre | 4 post | 16 comb (row-major)] for four streams.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mixes(streams: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """``(fn . x) * rsqrt(mean(x^2) + eps)`` of the flattened streams: ``[T, S, D] x [M, S * D] -> [T, M]``."""
    x = streams.flatten(1)
    inverse_rms = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + norm_eps)
    return torch.nn.functional.linear(x, fn).mul_(inverse_rms)


def split_sinkhorn(
    mix: Tensor, scale: Tensor, base: Tensor, streams: int, iterations: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(pre ``[T, S]``, post ``[T, S]``, comb ``[T, S, S]``) from mixes ``[T, 2 S + S * S]``.

    comb starts as a row softmax plus eps, then ``iterations`` column normalisations with a row normalisation between
    each two of them.
    """
    pre = torch.sigmoid(mix[:, :streams] * scale[0] + base[:streams]).add_(eps)
    post = torch.sigmoid(mix[:, streams : 2 * streams] * scale[1] + base[streams : 2 * streams]).mul_(2)
    comb = (mix[:, 2 * streams :] * scale[2] + base[2 * streams :]).view(-1, streams, streams)
    comb = torch.softmax(comb, dim=-1).add_(eps)
    comb.div_(comb.sum(dim=1, keepdim=True).add_(eps))
    for _ in range(iterations - 1):
        comb.div_(comb.sum(dim=2, keepdim=True).add_(eps))
        comb.div_(comb.sum(dim=1, keepdim=True).add_(eps))
    return pre, post, comb


def apply_pre(streams: Tensor, pre: Tensor) -> Tensor:
    """Block input ``sum_j pre[j] * streams[j]``: ``[T, S, D], [T, S] -> [T, D]``."""
    return torch.bmm(pre.unsqueeze(1), streams).squeeze(1)


def apply_post(block_output: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """New streams ``out[k] = post[k] * f + sum_j comb[j, k] * streams[j]``: the sum is over comb's first index."""
    return torch.baddbmm(post.unsqueeze(-1) * block_output.unsqueeze(1), comb.transpose(1, 2), streams)


def head(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, eps: float) -> Tensor:
    """Collapse the streams before the final norm: ``[T, S, D] -> [T, D]``."""
    pre = torch.sigmoid(mixes(streams, fn, norm_eps) * scale + base).add_(eps)
    return apply_pre(streams, pre)
