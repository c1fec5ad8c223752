"""FP8 MQA logits of the indexer: the contract of the ragged (prefill) and paged (decode) scores.

``logit(i, c) = k_scale[c] * sum_h weights[i, h] * relu(q[i, h] . k[c])`` with e4m3 q and k of 128 dimensions. The scale
of q and both softmax factors are folded into ``weights``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels import layouts


def mqa_logits_ragged(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    starts: Tensor,
    ends: Tensor,
    *,
    compressed_width: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Scores of M rows against the keys of their windows ``starts[i] .. ends[i] - 1``.

    q e4m3 ``[M, H, 128]``, k e4m3 ``[N, 128]``, k_scale FP32 ``[N]``, weights FP32 ``[M, H]``, starts and ends int32
    ``[M]``. Returns ``[M, N]``, or with ``compressed_width`` ``[M, width]`` where row i begins at its own
    ``starts[i]``. -inf outside the window. ``dtype`` is that of the arithmetic and of the result.
    """
    logits = _scores(q.to(dtype), k.to(dtype), k_scale.to(dtype), weights.to(dtype))
    column = torch.arange(k.shape[0], device=q.device)
    outside = (column < starts[:, None]) | (column >= ends[:, None])
    logits = logits.masked_fill_(outside, -torch.inf)
    if compressed_width is None:
        return logits
    shifted = starts[:, None].long() + torch.arange(compressed_width, device=q.device)
    beyond = shifted >= ends[:, None]
    if k.shape[0] == 0:
        return logits.new_full((q.shape[0], compressed_width), -torch.inf)
    return logits.gather(1, shifted.clamp_max(k.shape[0] - 1)).masked_fill_(beyond, -torch.inf)


def mqa_logits_paged(
    q: Tensor,
    cache: Tensor,
    block_size: int,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_len: int,
    *,
    rowwise: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Scores of ``next_n`` rows for each of B requests against the paged indexer cache.

    q e4m3 ``[B, next_n, H, 128]``, cache uint8 of layout ``indexer_fp8``, weights FP32 ``[B * next_n, H]``, block_table
    int32 ``[B, blocks]``. ``context_lens`` int32 is ``[B, next_n]``, a length of each row, or ``[B]``: then row j sees
    ``context_lens[b] - (next_n - 1 - j)`` keys. Returns ``[B * next_n, max_len]``, -inf beyond a row's length.
    ``rowwise`` chooses a variant of the Triton kernel and changes nothing here.
    """
    del rowwise
    batch, next_n = q.shape[:2]
    lens = row_lengths(context_lens, next_n)
    position = torch.arange(min(max_len, block_table.shape[1] * block_size), device=q.device)
    slots = block_table.clamp_min(0).long()[:, position // block_size] * block_size + position % block_size
    data, scales = layouts.INDEXER_FP8.read(cache, block_size, slots.flatten())
    keys, k_scale = layouts.unpack_indexer_fp8(data, scales, dtype)
    keys = keys.view(batch, -1, keys.shape[-1])
    k_scale = k_scale.view(batch, 1, -1)
    dots = torch.matmul(q.to(dtype).flatten(1, 2), keys.transpose(1, 2)).relu_()
    dots = dots.view(batch, next_n, q.shape[2], -1)
    summed = torch.einsum("bnh,bnhc->bnc", weights.to(dtype).view(batch, next_n, -1), dots) * k_scale
    visible = position < lens[:, :, None]
    out = torch.full((batch, next_n, max_len), -torch.inf, dtype=dtype, device=q.device)
    out[:, :, : position.shape[0]] = torch.where(visible, summed, -torch.inf)
    return out.view(batch * next_n, max_len)


def mqa_logits_wq(
    q: Tensor, k: Tensor, k_scale: Tensor, weights: Tensor, *, relu: bool, dtype: torch.dtype = torch.float32
) -> Tensor:
    """``k_scale[c] * <sum_h weights[i, h] q[i, h], k[c]>`` as ``[M, N]``: H times fewer operations, and no ReLU.

    It equals the DeepSeek-V4 score only where every head's product is positive. ``relu=True`` raises ValueError, so
    that nobody binds it to a model that has the ReLU.
    """
    refuse_relu(relu)
    combined = torch.einsum("mh,mhd->md", weights.to(dtype), q.to(dtype))
    return (combined @ k.to(dtype).T) * k_scale.to(dtype)


def refuse_relu(relu: bool) -> None:
    """Raise ValueError when the caller's score has a ReLU."""
    if relu:
        raise ValueError(
            "mqa_logits_wq leaves out the ReLU: it is wrong for a model whose indexer has one (use relu=False)"
        )


def row_lengths(context_lens: Tensor, next_n: int) -> Tensor:
    """Lengths int32 ``[B, next_n]`` of both forms of ``context_lens``; the 1-D form counts the last row's context."""
    if context_lens.dim() == 2:
        if context_lens.shape[1] != next_n:
            raise ValueError(f"context_lens has {context_lens.shape[1]} columns for next_n {next_n}")
        return context_lens
    behind = torch.arange(next_n - 1, -1, -1, dtype=context_lens.dtype, device=context_lens.device)
    return (context_lens[:, None] - behind).clamp_min(0)


def _scores(q: Tensor, k: Tensor, k_scale: Tensor, weights: Tensor) -> Tensor:
    rows, heads, dim = q.shape
    dots = (q.reshape(rows * heads, dim) @ k.T).relu_().view(rows, heads, -1)
    return torch.bmm(weights.unsqueeze(1), dots).squeeze(1) * k_scale
