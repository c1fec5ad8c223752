"""Writers and readers of the paged key caches whose byte layouts ``layouts`` owns (kernels.md 2.9, rows 1, 3 and 7).

Slots count over all blocks: slot s lies in block ``s // block_size`` at offset ``s % block_size``. A slot of -1 is a
token that is not written. A row whose position has no block (-1 in the block table, or beyond it) is not read and its
output stays as it was. Two tokens of one call never share a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM, INDEX_DIM, INDEXER_FP8, PlanarLayout


def cache_insert(k: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int) -> None:
    """Quantise keys and store them as ``fp8_ds_mla`` slots.

    k BF16 or FP32 ``[T, 512]``, its last 64 dimensions roped; cache u8 ``[blocks, stride]``; slot_mapping int64
    ``[N]``, N <= T: the first N tokens are written. The pad byte of a written slot becomes 0.
    Raises ValueError for wrong shapes or dtypes.
    """
    check_insert(k, cache, slot_mapping, block_size, FP8_DS_MLA, HEAD_DIM)
    kept = slot_mapping >= 0
    keys = k[: slot_mapping.shape[0]][kept].float()
    FP8_DS_MLA.write(cache, block_size, slot_mapping[kept], *layouts.pack_fp8_ds_mla(keys))


def cache_gather(
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    gather_lens: Tensor | None,
    block_table: Tensor,
    offset: int,
    out: Tensor,
) -> None:
    """Dequantise the last ``gather_lens[r]`` positions of every request into rows of a BF16 workspace.

    seq_lens and gather_lens int ``[R]`` (None: all positions), block_table int ``[R, B]``, out BF16 ``[R, M, 512]``.
    Row ``offset + i`` of request r is position ``seq_len - gather_len + i``. All other rows stay as they were, and
    nothing is written past row M - 1. Raises ValueError for wrong shapes or dtypes.
    """
    check_gather(cache, block_size, seq_lens, gather_lens, block_table, offset, out)
    lens = seq_lens if gather_lens is None else gather_lens
    row = torch.arange(out.shape[1] - offset, device=out.device)
    position = (seq_lens - lens).unsqueeze(1) + row
    slots, kept = _paged_slots(block_table, position, row < lens.unsqueeze(1), block_size)
    data, scales = FP8_DS_MLA.read(cache, block_size, slots[kept])
    out[:, offset:][kept] = layouts.unpack_fp8_ds_mla(data, scales, torch.bfloat16)


def indexer_insert(k: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int) -> None:
    """Quantise indexer keys, one FP32 power-of-two scale each, and store them as ``indexer_fp8`` slots.

    k BF16 or FP32 ``[T, 128]``; the rest as in ``cache_insert``.
    """
    check_insert(k, cache, slot_mapping, block_size, INDEXER_FP8, INDEX_DIM)
    kept = slot_mapping >= 0
    keys = k[: slot_mapping.shape[0]][kept].float()
    INDEXER_FP8.write(cache, block_size, slot_mapping[kept], *layouts.pack_indexer_fp8(keys))


def indexer_gather(
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    block_table: Tensor,
    starts: Tensor,
    k_out: Tensor,
    scale_out: Tensor,
) -> None:
    """Copy the indexer entries of all requests to contiguous rows, for ragged logits.

    seq_lens int ``[R]`` in entries; block_table int ``[R, B]``; starts int ``[R]`` or ``[R + 1]`` (cumulative lengths
    fit as they are), not decreasing: entry i of request r goes to row ``starts[r] + i``. k_out e4m3 ``[N, 128]``,
    scale_out FP32 ``[N]``. Rows that belong to no request stay as they were. Raises ValueError for wrong shapes.
    """
    check_indexer_gather(cache, block_size, seq_lens, block_table, starts, k_out, scale_out)
    requests = seq_lens.shape[0]
    row = torch.arange(k_out.shape[0], device=k_out.device)
    request = torch.searchsorted(starts[:requests].long(), row, right=True) - 1
    begun = request >= 0
    request = request.clamp_min(0)
    position = row - starts[request]
    inside = begun & (position < seq_lens[request])
    slots, kept = _paged_slots(block_table[request], position.unsqueeze(1), inside.unsqueeze(1), block_size)
    kept = kept.squeeze(1)
    data, scales = INDEXER_FP8.read(cache, block_size, slots.squeeze(1)[kept])
    k_out.view(torch.uint8)[kept] = data
    scale_out[kept] = scales.view(torch.float32).squeeze(1)


def _paged_slots(table: Tensor, position: Tensor, wanted: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """(slots int64 ``[R, M]``, whether they are wanted and exist) of positions ``[R, M]`` through tables ``[R, B]``."""
    column = position.clamp_min(0) // block_size
    kept = wanted & (position >= 0) & (column < table.shape[1])
    block = table.long().gather(1, column.clamp_max(table.shape[1] - 1).long())
    return block * block_size + position.clamp_min(0) % block_size, kept & (block >= 0)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` unless the condition holds (shapes and dtypes only: no device is read)."""
    if not condition:
        raise ValueError(message)


def check_cache(cache: Tensor, block_size: int, layout: PlanarLayout) -> None:
    """A cache is u8 ``[blocks, stride]``, its rows contiguous and long enough for both planes of a block."""
    require(cache.dtype == torch.uint8, f"cache must be uint8, not {cache.dtype}")
    least = block_size * layout.slot_bytes
    require(
        cache.dim() == 2 and cache.stride(1) == 1 and cache.shape[1] >= least,
        f"{layout.name} cache must be [blocks, >= {least}] for block size {block_size}, not {list(cache.shape)}",
    )


def check_slots(slot_mapping: Tensor, tokens: int) -> None:
    """A slot mapping is int64 ``[N]`` with N <= tokens."""
    require(slot_mapping.dtype == torch.int64, f"slot_mapping must be int64, not {slot_mapping.dtype}")
    require(
        slot_mapping.dim() == 1 and slot_mapping.shape[0] <= tokens,
        f"slot_mapping must be [N <= {tokens}], not {list(slot_mapping.shape)}",
    )


def check_insert(
    k: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int, layout: PlanarLayout, dim: int
) -> None:
    """The checks of both insert ops."""
    require(k.dtype in (torch.bfloat16, torch.float32), f"k must be bfloat16 or float32, not {k.dtype}")
    require(k.dim() == 2 and k.shape[1] == dim and k.stride(1) == 1, f"k must be rows [T, {dim}], not {list(k.shape)}")
    check_cache(cache, block_size, layout)
    check_slots(slot_mapping, k.shape[0])


def check_gather(
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    gather_lens: Tensor | None,
    block_table: Tensor,
    offset: int,
    out: Tensor,
) -> None:
    """The checks of ``cache_gather``."""
    check_cache(cache, block_size, FP8_DS_MLA)
    require(out.dtype == torch.bfloat16, f"out must be bfloat16, not {out.dtype}")
    require(
        out.dim() == 3 and out.shape[2] == HEAD_DIM and out.stride(2) == 1,
        f"out must be [R, M, {HEAD_DIM}], not {list(out.shape)}",
    )
    check_tables(seq_lens, block_table, out.shape[0])
    require(gather_lens is None or gather_lens.shape == seq_lens.shape, "gather_lens must have the shape of seq_lens")
    require(0 <= offset <= out.shape[1], f"offset {offset} is outside the {out.shape[1]} rows of out")


def check_indexer_gather(
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    block_table: Tensor,
    starts: Tensor,
    k_out: Tensor,
    scale_out: Tensor,
) -> None:
    """The checks of ``indexer_gather``."""
    check_cache(cache, block_size, INDEXER_FP8)
    require(k_out.dtype == torch.float8_e4m3fn, f"k_out must be float8_e4m3fn, not {k_out.dtype}")
    require(
        k_out.dim() == 2 and k_out.shape[1] == INDEX_DIM and k_out.stride(1) == 1,
        f"k_out must be [N, {INDEX_DIM}], not {list(k_out.shape)}",
    )
    require(
        scale_out.dtype == torch.float32 and scale_out.shape == k_out.shape[:1] and scale_out.is_contiguous(),
        f"scale_out must be float32 [{k_out.shape[0]}], not {scale_out.dtype} {list(scale_out.shape)}",
    )
    check_tables(seq_lens, block_table, seq_lens.shape[0])
    require(
        starts.dim() == 1 and starts.shape[0] - seq_lens.shape[0] in (0, 1),
        f"starts must be [R] or [R + 1] for R = {seq_lens.shape[0]}, not {list(starts.shape)}",
    )


def check_tables(seq_lens: Tensor, block_table: Tensor, requests: int) -> None:
    """Lengths ``[R]`` and a block table ``[R, B]`` with contiguous rows, B >= 1."""
    require(seq_lens.shape == (requests,), f"seq_lens must be [{requests}], not {list(seq_lens.shape)}")
    require(
        block_table.dim() == 2
        and block_table.shape[0] == requests
        and block_table.shape[1] > 0
        and block_table.stride(1) == 1,
        f"block_table must be [{requests}, B >= 1], not {list(block_table.shape)}",
    )
