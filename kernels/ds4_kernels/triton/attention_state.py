"""Streaming softmax states on CUDA cores: heads of one token share each load of a key, for any number of heads.

The kernels are in ``attention_streams``, what follows a state in ``attention_finish``. Where heads are many the
tensor-core kernels of ``sparse_attention`` are faster; these keep FP32 throughout and need no padding of heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.reference.attention import SoftmaxState
from ds4_kernels.reference.attention_state import (
    check_gathered,
    check_indexed,
    check_paged,
    check_query,
    check_slots,
    empty_state,
)
from ds4_kernels.triton.attention_finish import (
    attend_materialised,
    check_kernel_state,
    check_kernel_tensors,
    finish,
    finish_compile_cases,
    finish_two,
    merge_subsets,
)
from ds4_kernels.triton.attention_streams import fused_kernel, paged_kernel, rows_kernel, slots_kernel
from ds4_kernels.triton.compile_case import CompileCase

__all__ = [
    "accumulate_gathered",
    "accumulate_indexed",
    "accumulate_paged",
    "accumulate_slots",
    "attend_materialised",
    "attend_paged_and_slots",
    "compile_cases",
    "empty_state",
    "finish",
    "finish_two",
    "head_block_for",
    "merge_subsets",
]


class _Tile(NamedTuple):
    """Candidates at a time (one a group), warps, and the depth of the pipeline that loads keys ahead."""

    groups: int
    warps: int
    stages: int


_TILES = {1: _Tile(8, 8, 4), 2: _Tile(4, 4, 4), 4: _Tile(4, 4, 3), 8: _Tile(2, 4, 3)}
"""By HEAD_BLOCK. A warp has one key at a time (of 8 heads: two warps share one), so that an accumulator takes 16, 32 or
64 registers a thread; one head has few programs (at most 4 tokens), so it takes more warps."""
_PLANES = {"DATA": layouts.FP8_DS_MLA.data_bytes, "SCALES": layouts.FP8_DS_MLA.scale_bytes}


class _Launch(NamedTuple):
    """Grid, the arguments (heads, head blocks) and the tile of one launch."""

    grid: tuple[int]
    heads: tuple[int, int]
    tile: dict[str, int]


def accumulate_gathered(
    q: Tensor,
    kv: Tensor,
    lens: Tensor,
    slot_ids: Tensor | None,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """As ``ds4_kernels.reference.attention_state.accumulate_gathered``; kv BF16 with dense rows."""
    check_query(q, state, head_block)
    check_gathered(q, kv, lens, slot_ids)
    return _accumulate_rows(q, kv, slot_ids, lens, scale, state, head_block, gathered=True)


def accumulate_indexed(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    lens: Tensor,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """As ``ds4_kernels.reference.attention_state.accumulate_indexed``; kv BF16 with dense rows."""
    check_query(q, state, head_block)
    check_indexed(q, kv, indices, lens)
    return _accumulate_rows(q, kv, indices, lens, scale, state, head_block, gathered=False)


def accumulate_slots(
    q: Tensor,
    cache: Tensor,
    block_size: int,
    slot_ids: Tensor,
    lens: Tensor,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """As ``ds4_kernels.reference.attention_state.accumulate_slots``; the block size is a power of two."""
    check_query(q, state, head_block)
    check_slots(q, cache, block_size, slot_ids, lens)
    check_kernel_tensors(q, lens, None)
    check_kernel_state(state)
    _check_ids(slot_ids)
    grid, heads, tile = _launch(q, head_block, prefill=False)
    if grid[0]:
        slots_kernel[grid](
            q, cache, slot_ids, lens, *state, float(scale), *_cache_numbers(cache, block_size), slot_ids.shape[1],
            slot_ids.stride(0), *heads, **_PLANES, **tile,
        )  # fmt: skip
    return state


def accumulate_paged(
    q: Tensor,
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    gather_lens: Tensor,
    block_table: Tensor,
    next_n: int,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """As ``ds4_kernels.reference.attention_state.accumulate_paged``; the block size is a power of two."""
    check_query(q, state, head_block)
    check_paged(q, cache, block_size, seq_lens, gather_lens, block_table, next_n)
    check_kernel_state(state)
    _check_paged_tensors(q, seq_lens, gather_lens, block_table)
    grid, heads, tile = _launch(q, head_block, prefill=False)
    if grid[0]:
        paged_kernel[grid](
            q, cache, seq_lens, gather_lens, block_table, *state, float(scale), *_cache_numbers(cache, block_size),
            block_table.stride(0), block_table.shape[1], next_n, int(seq_lens.shape[0] == q.shape[0]), *heads, **_PLANES,
            **tile,
        )  # fmt: skip
    return state


def attend_paged_and_slots(
    q: Tensor,
    swa_cache: Tensor,
    swa_block_size: int,
    seq_lens: Tensor,
    gather_lens: Tensor,
    block_table: Tensor,
    next_n: int,
    slot_cache: Tensor,
    slot_block_size: int,
    slot_ids: Tensor,
    lens: Tensor,
    scale: float,
    sink: Tensor | None = None,
    head_block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``ds4_kernels.reference.attention_state.attend_paged_and_slots``, in one launch without a state in memory."""
    check_query(q, None, head_block)
    check_paged(q, swa_cache, swa_block_size, seq_lens, gather_lens, block_table, next_n)
    check_slots(q, slot_cache, slot_block_size, slot_ids, lens)
    _check_paged_tensors(q, seq_lens, gather_lens, block_table)
    check_kernel_tensors(q, lens, sink)
    _check_ids(slot_ids)
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    grid, heads, tile = _launch(q, head_block, prefill=False)
    if grid[0]:
        fused_kernel[grid](
            q, swa_cache, seq_lens, gather_lens, block_table, slot_cache, slot_ids, lens, lse if sink is None else sink,
            out, lse, float(scale), *_cache_numbers(swa_cache, swa_block_size), block_table.stride(0),
            block_table.shape[1], next_n, int(seq_lens.shape[0] == q.shape[0]),
            *_cache_numbers(slot_cache, slot_block_size), slot_ids.shape[1], slot_ids.stride(0), *heads,
            HAS_SINK=sink is not None, **_PLANES, **tile,
        )  # fmt: skip
    return out, lse


def head_block_for(tokens: int, heads: int, *, prefill: bool) -> int:
    """Heads per program (kernels.md 2.2.2 and 2.2.3): few tokens need every head as a program of its own."""
    wanted = 1 if tokens <= 4 else 2 if tokens < 16 else 8 if prefill else 4
    return min(wanted, int(triton.next_power_of_2(heads)))


def _launch(q: Tensor, head_block: int | None, *, prefill: bool) -> _Launch:
    tokens, heads, _ = q.shape
    block = head_block or head_block_for(tokens, heads, prefill=prefill)
    blocks = triton.cdiv(heads, block)
    return _Launch((tokens * blocks,), (heads, blocks), {**_constants(block), "num_warps": _TILES[block].warps})


def _constants(block: int) -> dict[str, int]:
    return {"HEAD_BLOCK": block, "GROUPS": _TILES[block].groups, "STAGES": _TILES[block].stages}


def _accumulate_rows(
    q: Tensor,
    kv: Tensor,
    ids: Tensor | None,
    lens: Tensor,
    scale: float,
    state: SoftmaxState,
    head_block: int | None,
    *,
    gathered: bool,
) -> SoftmaxState:
    check_kernel_tensors(q, lens, None)
    check_kernel_state(state)
    if kv.dtype != torch.bfloat16 or (kv.numel() > 0 and kv.stride(-1) != 1):
        raise ValueError(f"kv must be bfloat16 with dense rows, not {kv.dtype} of strides {kv.stride()}")
    if ids is not None:
        _check_ids(ids)
    grid, heads, tile = _launch(q, head_block, prefill=not gathered)
    if grid[0]:
        rows_kernel[grid](
            q, kv, lens if ids is None else ids, lens, *state, float(scale), kv.stride(0) if gathered else 0, kv.stride(-2),
            kv.shape[1] if ids is None else ids.shape[1], kv.shape[0], 0 if ids is None else ids.stride(0), *heads,
            GATHERED=gathered, HAS_IDS=ids is not None, **tile,
        )  # fmt: skip
    return state


def _cache_numbers(cache: Tensor, block_size: int) -> tuple[int, int, int]:
    """(block stride in 2-byte units, log2 of the block size, blocks)."""
    if block_size & (block_size - 1):
        raise ValueError(f"the kernels need a block size that is a power of two, not {block_size}")
    if cache.stride(1) != 1 or cache.stride(0) % 2:
        raise ValueError(f"cache must have dense rows and an even stride, not strides {cache.stride()}")
    return cache.stride(0) // 2, block_size.bit_length() - 1, cache.shape[0]


def _check_ids(ids: Tensor) -> None:
    if ids.dtype != torch.int32 or (ids.shape[1] > 0 and ids.stride(1) != 1):
        raise ValueError(f"ids must be int32 with dense rows, not {ids.dtype} of strides {ids.stride()}")


def _check_paged_tensors(q: Tensor, seq_lens: Tensor, gather_lens: Tensor, block_table: Tensor) -> None:
    check_kernel_tensors(q, seq_lens, None)
    check_kernel_tensors(q, gather_lens, None)
    _check_ids(block_table)


def compile_cases() -> list[CompileCase]:
    """Every head block of every kernel, and what finishes a state."""
    return [*_state_cases(), *finish_compile_cases()]


def _state_cases() -> list[CompileCase]:
    def pointers(kind: str, *names: str) -> dict[str, str]:
        return dict.fromkeys(names, kind)

    def numbers(*names: str) -> dict[str, str]:
        return dict.fromkeys(names, "i32")

    state = pointers("*fp32", "state_max", "state_sum", "state_acc")
    heads = numbers("heads", "head_blocks")
    query = {"q": "*bf16"}
    rows = {
        **query, "kv": "*bf16", **pointers("*i32", "ids", "lens"), **state, "scale": "fp32",
        **numbers("token_stride", "row_stride", "width", "num_rows", "id_stride"), **heads,
    }  # fmt: skip
    slots = {
        **query, "cache": "*u8", **pointers("*i32", "ids", "lens"), **state, "scale": "fp32",
        **numbers("half_stride", "shift", "num_blocks", "width", "id_stride"), **heads,
    }  # fmt: skip
    paged = {
        **query, "cache": "*u8", **pointers("*i32", "seq_lens", "gather_lens", "table"), **state, "scale": "fp32",
        **numbers("half_stride", "shift", "num_blocks", "table_stride", "table_width", "next_n", "per_token"), **heads,
    }  # fmt: skip
    fused = {
        **query, "swa_cache": "*u8", **pointers("*i32", "seq_lens", "gather_lens", "table"), "cache": "*u8",
        **pointers("*i32", "ids", "lens"), "sink": "*fp32", "out": "*bf16", "lse": "*fp32", "scale": "fp32",
        **numbers("swa_half_stride", "swa_shift", "swa_blocks", "table_stride", "table_width", "next_n", "per_token",
                  "half_stride", "shift", "num_blocks", "width", "id_stride"), **heads,
    }  # fmt: skip
    strides = ("token_stride", "row_stride")
    half = ("half_stride",)
    both = ("swa_half_stride", "half_stride")
    shipped: list[tuple[str, Any, dict[str, str], dict[str, Any], tuple[str, ...]]] = [
        ("accumulate_gathered", rows_kernel, rows, {"GATHERED": True, "HAS_IDS": False}, strides),
        ("accumulate_gathered ids", rows_kernel, rows, {"GATHERED": True, "HAS_IDS": True}, strides),
        ("accumulate_indexed", rows_kernel, rows, {"GATHERED": False, "HAS_IDS": True}, strides),
        ("accumulate_slots", slots_kernel, slots, _PLANES, half),
        ("accumulate_paged", paged_kernel, paged, _PLANES, half),
        ("attend_paged_and_slots", fused_kernel, fused, {"HAS_SINK": True, **_PLANES}, both),
        ("attend_paged_and_slots bare", fused_kernel, fused, {"HAS_SINK": False, **_PLANES}, both),
    ]
    return [
        CompileCase(op.split()[0], f"h{block} g{tile.groups} s{tile.stages} {op.partition(' ')[2]}".strip(), kernel,
                    signature, {**constexprs, **_constants(block)}, tile.warps, divisible=divisible)
        for op, kernel, signature, constexprs, divisible in shipped for block, tile in _TILES.items()
    ]  # fmt: skip
