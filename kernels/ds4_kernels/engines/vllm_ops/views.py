"""The engine's tensors in the forms that our ops take: views where memory allows it, small copies elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_BLOCK = 128
"""Rows and columns of a weight that share a scale."""


def planar(cache: Tensor) -> Tensor:
    """A paged cache uint8 ``[blocks, slots, (1,) bytes of a slot]`` as ``[blocks, bytes]``, one row a block.

    The engine's last dimensions only count bytes: inside of a block the data of all slots comes first, then their
    scales. Rows are as far apart as the engine's blocks (it pads them, and may interleave the caches of layers); they
    take in the padding where the storage has it also behind the last block. Raises ValueError for another form.
    """
    if cache.dtype != torch.uint8 or cache.dim() < 2 or cache.stride(-1) != 1:
        raise ValueError(f"a cache must be uint8 with dense slots, not {cache.dtype} of strides {cache.stride()}")
    blocks, stride = cache.shape[0], cache.stride(0)
    width = cache[0].numel()
    if stride < width:
        raise ValueError(f"blocks of {width} bytes lie only {stride} bytes apart")
    end = cache.storage_offset() + blocks * stride
    whole = end <= cache.untyped_storage().nbytes()
    return cache.as_strided((blocks, stride if whole else width), (stride, 1))


def dense_rows(table: Tensor) -> Tensor:
    """A block table whose rows are dense; torch lets a single column carry any stride."""
    return table if table.stride(-1) == 1 else table.clone(memory_format=torch.contiguous_format)


def block_scales(scale: Tensor, rows: int, k: int) -> Tensor:
    """Weight scales as ``[..., ceil(rows / 128), k / 128]`` FP32 or E8M0 bytes, whichever form the engine made of them.

    FP32 and E8M0 have that shape already. int32 holds four E8M0 bytes a word (the first lowest) and repeats the scale of
    a block in each of its rows: ``[..., rows, ceil(k / 512)]``.
    """
    if scale.dtype != torch.int32:
        return scale
    if scale.shape[-2] != rows:
        raise ValueError(f"packed weight scales have {scale.shape[-2]} rows for {rows} weight rows")
    return unpacked(scale[..., ::SCALE_BLOCK, :], k)


def unpacked(scale: Tensor, k: int) -> Tensor:
    """E8M0 bytes ``[..., k / 128]`` of int32 words ``[..., ceil(k / 512)]``, the lowest byte first."""
    return scale.clone(memory_format=torch.contiguous_format).view(torch.uint8)[..., : k // SCALE_BLOCK]
