"""Contracts of the per-row top-k (kernels.md 2.4).

A row of L visible columns with L <= k gives 0 .. L-1 in order, then -1. A longer row gives the k highest in any order;
which of several equal ones is free; -inf comes after every finite number. Logits are FP32 without NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

_INVISIBLE = -(2**31)


def topk_prefill(logits: Tensor, row_starts: Tensor, row_ends: Tensor, k: int, out: Tensor | None = None) -> Tensor:
    """Indices int32 ``[R, k]``, relative to the row's start, among columns ``row_starts[r] .. row_ends[r] - 1``.

    logits FP32 ``[R, C]`` (rows may be further apart than C), row_starts and row_ends int32 ``[R]``. Bounds outside
    0 .. C are clamped, and an end before the start is an empty row.
    """
    columns = logits.shape[1]
    starts = row_starts.clamp(0, columns).long()
    lens = (row_ends.clamp(0, columns).long() - starts).clamp_min(0)
    column = torch.arange(columns, device=logits.device)
    visible = (column >= starts[:, None]) & (column < (starts + lens)[:, None])
    best = torch.where(visible, _ordered(logits), _INVISIBLE).topk(min(k, columns), dim=-1, sorted=False).indices
    best = torch.nn.functional.pad(best - starts[:, None], (0, k - best.shape[1]), value=-1)
    slot = torch.arange(k, device=logits.device)
    in_order = torch.where(slot < lens[:, None], slot, -1)
    picked = torch.where((lens <= k)[:, None], in_order, best).to(torch.int32)
    return picked if out is None else out.copy_(picked)


def topk_decode(logits: Tensor, next_n: int, seq_lens: Tensor, k: int, out: Tensor | None = None) -> Tensor:
    """Indices int32 ``[B * next_n, k]`` from logits FP32 ``[B * next_n, C]``, rows of a request one after another.

    seq_lens int32 ``[B, next_n]`` are the rows' own lengths. ``[B]`` is the length that the last of a request's next_n
    rows sees; the row before it sees one column fewer, and so on (draft tokens).
    """
    lens = decode_lengths(seq_lens, next_n)
    return topk_prefill(logits, torch.zeros_like(lens), lens, k, out)


def decode_lengths(seq_lens: Tensor, next_n: int) -> Tensor:
    """Lengths per row int32 ``[B * next_n]``, not below 0."""
    if seq_lens.dim() == 2:
        return seq_lens.reshape(-1)
    behind = torch.arange(next_n - 1, -1, -1, device=seq_lens.device, dtype=seq_lens.dtype)
    return (seq_lens[:, None] - behind).clamp_min(0).reshape(-1)


def _ordered(values: Tensor) -> Tensor:
    """int32 patterns that order as the FP32 values do (-0 before +0)."""
    bits = values.float().contiguous().view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFF_FFFF, bits)
