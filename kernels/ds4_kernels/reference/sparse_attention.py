"""Sparse MLA attention as engines call it: prefill over a BF16 workspace, decode straight from the FP8 caches.

All heads share one key, which is the value too. The softmax has a per-head sink logit in its denominator only; the
returned lse (natural log) does not contain it. A row without candidates gives out 0 and lse -inf.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.reference import attention

HEAD_DIM = layouts.HEAD_DIM
SOFTMAX_SCALE = HEAD_DIM**-0.5
ROW_BLOCK = 64


def sparse_attention_prefill(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    lens: Tensor,
    sink: Tensor | None = None,
    *,
    scale: float = SOFTMAX_SCALE,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Attend to rows of a gathered workspace.

    q BF16 ``[T, H, 512]``, kv BF16 ``[N, 512]``, indices int32 ``[T, W]`` into kv (outside 0 .. N-1: no candidate), lens
    int32 ``[T]``: only the first ``lens[t]`` columns count. sink FP32 ``[H]``. Returns out ``[T, H, 512]`` in q's dtype
    and lse FP32 ``[T, H]``. Duplicates count twice. ``dtype`` is that of the arithmetic.
    """
    column = torch.arange(indices.shape[1], device=q.device)
    inside = (indices >= 0) & (indices < kv.shape[0]) & (column < lens[:, None])
    source = kv if kv.shape[0] else kv.new_zeros(1, kv.shape[1])
    rows = torch.where(inside, indices, 0)

    def part(begin: int, end: int) -> attention.SoftmaxState:
        gathered = source[rows[begin:end].long()].to(dtype)
        return attention.accumulate_gathered(q[begin:end].to(dtype), gathered, inside[begin:end], scale)

    return _by_blocks(q, part, sink, dtype)


def sparse_attention_decode(
    q: Tensor,
    swa_cache: Tensor,
    swa_block_size: int,
    swa_slots: Tensor,
    swa_lens: Tensor,
    sink: Tensor | None = None,
    *,
    extra_cache: Tensor | None = None,
    extra_block_size: int = 1,
    extra_slots: Tensor | None = None,
    extra_lens: Tensor | None = None,
    scale: float = SOFTMAX_SCALE,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Attend to slots of one or two paged caches of layout ``fp8_ds_mla``.

    q BF16 ``[T, H, 512]``; slots int32 ``[T, W]`` are global (block * block_size + offset), negative or beyond the cache:
    no candidate; lens int32 ``[T]``: only the first ``lens[t]`` columns count. The ``extra_`` arguments are the
    compressed entries; without them only the window counts. Returns as ``sparse_attention_prefill``.
    """
    candidates = [_gather_slots(swa_cache, swa_block_size, swa_slots, swa_lens, dtype)]
    if extra_cache is not None:
        if extra_slots is None or extra_lens is None:
            raise ValueError("extra_cache needs extra_slots and extra_lens")
        candidates.append(_gather_slots(extra_cache, extra_block_size, extra_slots, extra_lens, dtype))
    kv = torch.cat([values for values, _ in candidates], dim=1)
    valid = torch.cat([mask for _, mask in candidates], dim=1)

    def part(begin: int, end: int) -> attention.SoftmaxState:
        return attention.accumulate_gathered(q[begin:end].to(dtype), kv[begin:end], valid[begin:end], scale)

    return _by_blocks(q, part, sink, dtype)


def _gather_slots(
    cache: Tensor, block_size: int, slots: Tensor, lens: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    column = torch.arange(slots.shape[1], device=slots.device)
    valid = (slots >= 0) & (slots < cache.shape[0] * block_size) & (column < lens[:, None])
    data, scales = layouts.FP8_DS_MLA.read(cache, block_size, torch.where(valid, slots, 0).long().flatten())
    return layouts.unpack_fp8_ds_mla(data, scales, dtype).view(*slots.shape, HEAD_DIM), valid


def _by_blocks(q: Tensor, part, sink: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """Token blocks bound the gathered keys: 64 tokens x 640 candidates x 512 dimensions are 84 MB in FP32."""
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    limit = None if sink is None else sink.to(dtype)
    for begin in range(0, q.shape[0], ROW_BLOCK):
        end = min(begin + ROW_BLOCK, q.shape[0])
        block_out, block_lse = attention.finish([part(begin, end)], limit)
        out[begin:end], lse[begin:end] = block_out, block_lse
    return out, lse
