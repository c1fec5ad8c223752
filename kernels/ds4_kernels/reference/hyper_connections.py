"""Contracts of the hyper-connection ops (kernels.md 1.4 and 2.7); the mathematics is in ``mhc``.

T (or M) tokens, four streams of D dimensions, K = 4 D. Mixes of a token are [4 pre | 4 post | 16 comb (row-major)].
Inputs in BF16 are computed in FP32, inputs in FP64 stay FP64 throughout. Where an op takes fn FP32 ``[N, K]`` it takes what
``mhc_split_weights`` has made of it too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.reference import mhc, norms

STREAMS = 4
MIXES = STREAMS * (2 + STREAMS)
SPLIT_UNIT = 128
"""Columns of K are dealt to the splits in whole blocks of this many."""


def split_width(depth: int, splits: int) -> int:
    """Columns of each split: split s sums columns ``s * width .. (s + 1) * width - 1``; late splits may be empty."""
    if depth % SPLIT_UNIT or splits < 1:
        raise ValueError(f"K={depth} must be a multiple of {SPLIT_UNIT} and splits={splits} at least 1")
    return -(-depth // (SPLIT_UNIT * splits)) * SPLIT_UNIT


def mhc_split_weights(fn: Tensor, exact: bool = True) -> Tensor:
    """fn FP32 ``[N, K]`` as a sum of BF16 terms ``[3, N, K]``: every bit of a weight over 1e-30. ``exact`` False: two terms,
    16 bits of mantissa. For whoever loads weights, so that the kernels need not split them in every call.
    """
    terms, rest = [], fn
    for _ in range(3 if exact else 2):
        terms.append(rest.to(torch.bfloat16))
        rest = rest - terms[-1].to(rest.dtype)
    return torch.stack(terms)


def _joined(fn: Tensor) -> Tensor:
    return fn if fn.dim() == 2 else fn.double().sum(dim=0)


def mhc_prenorm_gemm(x: Tensor, fn: Tensor, splits: int, exact: bool = True) -> tuple[Tensor, Tensor]:
    """Partial products and partial sums of squares: (out FP32 ``[splits, M, N]``, sqrsum FP32 ``[splits, M]``).

    x BF16 ``[M, K]``, fn FP32 ``[N, K]`` (N is 24, or 4 for the head). ``exact`` False lets a kernel round fn to 16
    mantissa bits; here both forms are the FP64 result. It says nothing where fn was split before.
    """
    fn = _joined(fn)
    width = split_width(x.shape[1], splits)
    pad = width * splits - x.shape[1]
    wide = torch.nn.functional.pad(x.double(), (0, pad)).view(x.shape[0], splits, width).transpose(0, 1)
    weight = torch.nn.functional.pad(fn.double(), (0, pad)).view(fn.shape[0], splits, width).permute(1, 2, 0)
    return torch.bmm(wide, weight).float(), wide.square().sum(dim=-1).float()


def mhc_split_sinkhorn(
    mixes: Tensor, scale: Tensor, base: Tensor, iterations: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(pre ``[T, 4]``, post ``[T, 4]``, comb ``[T, 4, 4]``) from mixes ``[T, 24]``, scale ``[3]``, base ``[24]``.

    comb is a row softmax plus eps, then ``iterations`` column normalisations with a row normalisation between each two.
    """
    return mhc.split_sinkhorn(mixes, scale, base, STREAMS, iterations, eps)


def mhc_pre(
    x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iterations: int, norm_eps: float, hc_eps: float,
    norm_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(layer_input ``[T, D]``, post ``[T, 4]``, comb ``[T, 4, 4]``) from the streams x ``[T, 4, D]``, fn ``[24, 4 D]``.

    layer_input has x's dtype. With ``norm_weight`` ``[D]`` it is then RMS-normalised with ``norm_eps``, as the norm
    that follows in the model would do it: from the rounded values.
    """
    streams = _wide(x)
    mix = mhc.mixes(streams, _joined(fn).to(streams.dtype), norm_eps)
    pre, post, comb = mhc_split_sinkhorn(mix, scale.to(mix.dtype), base.to(mix.dtype), iterations, hc_eps)
    layer_input = mhc.apply_pre(streams, pre).to(x.dtype)
    if norm_weight is not None:
        layer_input = norms.rms_norm(layer_input, norm_weight, norm_eps)
    return layer_input, post, comb


def mhc_post(f: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """New streams ``[T, 4, D]``: ``out[k] = post[k] * f + sum_j comb[j, k] * streams[j]``, f ``[T, D]``."""
    wide = _wide(streams)
    return mhc.apply_post(f.to(wide.dtype), wide, post.to(wide.dtype), comb.to(wide.dtype)).to(streams.dtype)


def mhc_post_pre(
    f: Tensor, streams: Tensor, post: Tensor, comb: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iterations: int,
    norm_eps: float, hc_eps: float, norm_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``mhc_post`` and then the next sub-layer's ``mhc_pre``: (new streams, layer_input, next post, next comb)."""
    new_streams = mhc_post(f, streams, post, comb)
    return new_streams, *mhc_pre(new_streams, fn, scale, base, iterations, norm_eps, hc_eps, norm_weight)


def mhc_head(x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, eps: float) -> Tensor:
    """Collapse the streams before the final norm: x ``[T, 4, D]``, fn ``[4, 4 D]``, scale ``[1]``, base ``[4]``."""
    wide = _wide(x)
    fn, scale, base = (tensor.to(wide.dtype) for tensor in (_joined(fn), scale, base))
    return mhc.head(wide, fn, scale, base, norm_eps, eps).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
