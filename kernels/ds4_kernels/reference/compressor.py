"""KV compressor: learned pooling of windows of ``ratio`` tokens into one entry.

Ratio 128 pools the 128 tokens of a window. Ratio 4 pools eight items: the first half ("a") of the previous window's
four vectors and the second half ("b") of its own, so neighbouring windows overlap. The softmax is per dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


def overlap(ratio: int) -> int:
    """Windows that one entry reads: 2 for ratio 4, else 1. Also the width factor of the projections."""
    return 2 if ratio == 4 else 1


def aligned_windows(rows: Tensor, ratio: int) -> Tensor:
    """View consecutive tokens ``[m, w]`` as what each entry reads: ``[n, overlap * ratio, w]``, without a copy.

    The first row is the first token of the window before the first entry's own (ratio 4) or of its own (ratio 128).
    Rows after the last whole window are left out.
    """
    reach = overlap(ratio) * ratio
    return rows.unfold(0, reach, ratio).transpose(1, 2)


def pool(kv: Tensor, score: Tensor, ratio: int) -> Tensor:
    """Pool gathered windows: kv and score ``[n, overlap * ratio, overlap * d] -> [n, d]``.

    ``score`` contains the position bias already. Tokens that do not exist have score -inf and kv 0.
    """
    if overlap(ratio) == 2:
        kv, score = _a_then_b(kv, ratio), _a_then_b(score, ratio)
    return (torch.softmax(score, dim=1) * kv).sum(dim=1)


def _a_then_b(x: Tensor, ratio: int) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((x[:, :ratio, :half], x[:, ratio:, half:]), dim=1)
