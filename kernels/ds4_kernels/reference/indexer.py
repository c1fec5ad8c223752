"""Indexer: MQA logits with a ReLU per head, and the per-row top-k that selects compressed entries."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.reference.precision import bf16_products

ROW_BLOCK = 32

_TIE_BREAK = 1e-30
"""The ReLU makes logits of exactly 0 common. A bias far below any other difference gives such ties to the earlier
entry, so that the selection depends on neither batch nor chunk."""


def mqa_logits(q: Tensor, k: Tensor, k_scale: Tensor, weights: Tensor) -> Tensor:
    """``logit[i, c] = k_scale[c] * sum_h weights[i, h] * relu(q[i, h] . k[c])`` as ``[M, N]``.

    q ``[M, H, 128]`` and k ``[N, 128]`` hold e4m3 values widened to float; q's scale is folded into weights ``[M, H]``.
    """
    rows, heads, dim = q.shape
    with bf16_products(rows):
        scores = (q.reshape(rows * heads, dim) @ k.T).relu_().view(rows, heads, -1)
    return torch.bmm(weights.unsqueeze(1), scores).squeeze(1).mul_(k_scale)


def topk_visible(q: Tensor, k: Tensor, k_scale: Tensor, weights: Tensor, lens: Tensor, topk: int) -> Tensor:
    """Indices int64 ``[M, topk]`` of the highest logits among rows ``0 .. lens[i] - 1``; -1 where there are fewer.

    Order within a row is free. ``lens`` ``[M]`` must not decrease along the rows. Rows go in blocks so that the scores
    of a block stay in cache and a block looks only at the keys that its last row sees.
    """
    rows = q.shape[0]
    out = torch.full((rows, topk), -1, dtype=torch.int64, device=q.device)
    for begin in range(0, rows, ROW_BLOCK):
        part = slice(begin, begin + ROW_BLOCK)
        longest = int(lens[part][-1])
        if longest == 0:
            continue
        logits = mqa_logits(q[part], k[:longest], k_scale[:longest], weights[part])
        select_topk(logits, lens[part], out[part])
    return out


def select_topk(logits: Tensor, lens: Tensor, out: Tensor) -> None:
    """Write the top-k of each row of ``logits`` ``[M, N]`` among its first ``lens[i]`` columns to ``out`` ``[M, k]``.

    A row with no more than k visible columns gets 0 .. len-1 in order, then -1, whatever its logits.
    """
    width = out.shape[1]
    column = torch.arange(logits.shape[1], device=logits.device)
    logits.sub_(column, alpha=_TIE_BREAK)
    logits.masked_fill_(column >= lens.unsqueeze(-1), -torch.inf)
    best = logits.topk(min(width, logits.shape[1]), dim=-1, sorted=False).indices
    out[:, : best.shape[1]] = best
    slot = torch.arange(width, device=logits.device)
    short = (lens <= width).unsqueeze(-1)
    in_order = torch.where(slot < lens.unsqueeze(-1), slot, -1)
    torch.where(short, in_order, out, out=out)
