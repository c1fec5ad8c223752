"""Sparse MLA attention: which kernel and tile a call gets. The kernels are in ``attention_mma``,
``attention_hopper`` (prefill) and ``attention_halves`` (Hopper's decode)."""

from __future__ import annotations

from typing import Any, cast

import torch
import triton
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.reference.sparse_attention import HEAD_DIM, SOFTMAX_SCALE
from ds4_kernels.triton import attention_halves, attention_hopper, attention_mma
from ds4_kernels.triton.arch import TileSet, num_sms, tile_set
from ds4_kernels.triton.common import LOG2_E
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.dependent import dependent

_PREFILL_TILES = {
    "sm12x": {"BLOCK_H": 32, "BLOCK_C": 16, "num_warps": 8, "num_stages": 1, "STAGES": 3},
    "sm90": {"BLOCK_H": 32, "BLOCK_C": 32, "num_warps": 4, "num_stages": 1, "STAGES": 3},
}
_DECODE_TILES = {
    "sm12x": {"BLOCK_H": 32, "BLOCK_C": 16, "num_warps": 8, "num_stages": 1},
    "sm90": {"BLOCK_H": 16, "BLOCK_C": 32, "num_warps": 4, "num_stages": 1},
}
_HOPPER_TILE = {"BLOCK_H": 64, "BLOCK_C": 128, "num_warps": 8, "num_stages": 1}
_HALVES_TILE = {"BLOCK_H": 64, "BLOCK_C": 32, "num_warps": 4, "num_stages": 1}
_HOPPER_DECODE = (attention_halves.decode_kernel, _HALVES_TILE, 2)
"""Kernel, tile and programs that share a head block's output, of a decode with more than FEW_TOKENS tokens."""
HOPPER_HEADS = 33
"""From this many heads on Hopper's own kernels run, which need 64 rows for its warpgroup MMA."""
_FEW_TOKENS_TILES = {
    "sm12x": {"BLOCK_H": 16, "BLOCK_C": 32, "num_warps": 8, "num_stages": 1},
    "sm90": {"BLOCK_H": 16, "BLOCK_C": 64, "num_warps": 8, "num_stages": 1},
}
FEW_TOKENS = 16
"""Up to this many tokens a decode program takes few heads and many candidates: latency counts, not the work done twice."""
MERGE_HEADS = 4
MAX_SPLITS = 32
HOPPER_DECODE_HEADS = 17
"""From this many heads on ``_HOPPER_DECODE`` runs."""
_DATA = layouts.FP8_DS_MLA.data_bytes
_SCALES = layouts.FP8_DS_MLA.scale_bytes
_ROPE = layouts.ROPE_DIM


def sparse_attention_prefill(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    lens: Tensor,
    sink: Tensor | None = None,
    *,
    scale: float = SOFTMAX_SCALE,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``ds4_kernels.reference.sparse_attention.sparse_attention_prefill``.

    ``out`` may have more heads than q: those are written 0.
    """
    tokens, heads, out, lse = _results(q, out)
    if tokens == 0:
        return out, lse
    kernel, tile = attention_mma.prefill_kernel, _tile(_PREFILL_TILES, q.device, out.shape[1])
    if _wants_hopper(q.device, out.shape[1]):
        kernel, tile = attention_hopper.prefill_kernel, _HOPPER_TILE
    grid = (tokens * triton.cdiv(out.shape[1], tile["BLOCK_H"]),)
    kernel[grid](
        q.contiguous(), kv, indices, lens, q if sink is None else sink, out, lse, scale * LOG2_E.value, indices.shape[1],
        indices.stride(0), kv.shape[0], heads, out.shape[1], HAS_SINK=sink is not None, D=HEAD_DIM, **tile,
    )  # fmt: skip
    return out, lse


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
    out: Tensor | None = None,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``ds4_kernels.reference.sparse_attention.sparse_attention_decode``.

    Few tokens leave most of the device idle, so the candidates of a token are shared over ``splits`` programs and a
    second kernel merges them; the number depends on shapes alone, so that a captured graph stays valid.
    """
    tokens, heads, out, lse = _results(q, out)
    if tokens == 0:
        return out, lse
    if extra_cache is not None and (extra_slots is None or extra_lens is None):
        raise ValueError("extra_cache needs extra_slots and extra_lens")
    kernel, tile, shares = _decode_plan(q.device, tokens, out.shape[1])
    extra_width = 0 if extra_slots is None else extra_slots.shape[1]
    programs = tokens * triton.cdiv(out.shape[1], tile["BLOCK_H"])
    if splits is None:
        splits = decode_splits(programs, swa_slots.shape[1] + extra_width, tile["BLOCK_C"], num_sms(q.device))
    parts = _partials(tokens, splits, out)
    sink_or_q = q if sink is None else sink
    kernel[(splits * shares, programs)](
        q.contiguous(), swa_cache, swa_slots, swa_lens, swa_cache if extra_cache is None else extra_cache,
        swa_slots if extra_slots is None else extra_slots, swa_lens if extra_lens is None else extra_lens, sink_or_q, out,
        lse, *parts, scale * LOG2_E.value, swa_slots.shape[1], extra_width, swa_slots.stride(0),
        0 if extra_slots is None else extra_slots.stride(0), swa_cache.shape[0] * swa_block_size,
        0 if extra_cache is None else extra_cache.shape[0] * extra_block_size, swa_cache.stride(0),
        swa_cache.stride(0) if extra_cache is None else extra_cache.stride(0), heads, out.shape[1], splits,
        HAS_SINK=sink is not None, HAS_EXTRA=extra_cache is not None, SPLIT=splits > 1,
        SWA_SHIFT=_shift(swa_block_size), EXTRA_SHIFT=_shift(extra_block_size), D=HEAD_DIM, ROPE=_ROPE, DATA=_DATA,
        SCALES=_SCALES, **tile, **dependent(q.device),
    )  # fmt: skip
    if splits > 1:
        attention_mma.merge_kernel[(tokens, triton.cdiv(out.shape[1], MERGE_HEADS))](
            *parts, sink_or_q, out, lse, heads, out.shape[1], splits, HAS_SINK=sink is not None, BLOCK_H=MERGE_HEADS,
            BLOCK_S=MAX_SPLITS, D=HEAD_DIM, num_warps=4, num_stages=1, **dependent(q.device),
        )  # fmt: skip
    return out, lse


def decode_splits(programs: int, width: int, block: int, multiprocessors: int) -> int:
    """Splits per token: enough programs for every multiprocessor, no more than tiles of candidates, at most 32."""
    tiles = max(1, -(-width // block))
    return max(1, min(tiles, multiprocessors // max(1, programs), MAX_SPLITS))


def _decode_plan(device: torch.device, tokens: int, heads: int) -> tuple[Any, dict[str, int], int]:
    """(kernel, tile, programs that share a head block's output)."""
    if tokens > FEW_TOKENS and tile_set(device) == "sm90" and heads >= HOPPER_DECODE_HEADS:
        return _HOPPER_DECODE
    tiles = _FEW_TOKENS_TILES if tokens <= FEW_TOKENS else _DECODE_TILES
    return attention_mma.decode_kernel, _tile(tiles, device, heads), 1


def _wants_hopper(device: torch.device, heads: int) -> bool:
    return tile_set(device) == "sm90" and heads >= HOPPER_HEADS


def _shift(block_size: int) -> int:
    if block_size < 1 or block_size & (block_size - 1):
        raise ValueError(f"slots a block must be a power of two, not {block_size}")
    return block_size.bit_length() - 1


def _results(q: Tensor, out: Tensor | None) -> tuple[int, int, Tensor, Tensor]:
    tokens, heads, dim = q.shape
    if dim != HEAD_DIM:
        raise ValueError(f"heads have {HEAD_DIM} dimensions, not {dim}")
    if q.dtype != torch.bfloat16:
        raise ValueError(f"q must be bfloat16, not {q.dtype}")
    if out is None:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
    elif out.shape[0] != tokens or out.shape[1] < heads or out.shape[2] != dim or not out.is_contiguous():
        raise ValueError(f"out must be contiguous [{tokens}, >= {heads}, {dim}], not {list(out.shape)}")
    return tokens, heads, out, torch.empty(tokens, heads, dtype=torch.float32, device=q.device)


def _partials(tokens: int, splits: int, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(accumulators, maxima, sums) of the splits; a place holder when there is one split alone."""
    if splits == 1:
        return out, out, out
    shape = (tokens, splits, out.shape[1])
    acc = torch.empty(*shape, HEAD_DIM, dtype=torch.float32, device=out.device)
    return (
        acc,
        torch.empty(shape, dtype=torch.float32, device=out.device),
        torch.empty(shape, dtype=torch.float32, device=out.device),
    )


def _tile(table: dict[str, dict[str, int]], device: torch.device, heads: int) -> dict[str, int]:
    """The device's tile with no more head rows than there are heads (at least 16, the least that an MMA takes)."""
    tile = dict(table[tile_set(device)])
    tile["BLOCK_H"] = min(tile["BLOCK_H"], max(16, triton.next_power_of_2(heads)))
    return tile


def compile_cases() -> list[CompileCase]:
    """Every shipped tile; caches of 64 slots a block for the window and C4A, of 2 for C128A."""
    return [*_prefill_cases(), *_decode_cases(), *_merge_cases()]


def _prefill_cases() -> list[CompileCase]:
    signature = {
        **dict.fromkeys(("q", "kv"), "*bf16"), **dict.fromkeys(("indices", "lens"), "*i32"), "sink": "*fp32", "out": "*bf16",
        "lse": "*fp32", "scale_log2": "fp32",
        **dict.fromkeys(("width", "index_stride", "num_rows", "heads", "out_heads"), "i32"),
    }  # fmt: skip
    kernels = [(attention_mma.prefill_kernel, tiles, tile) for tiles, tile in _PREFILL_TILES.items()]
    kernels.append((attention_hopper.prefill_kernel, "sm90", _HOPPER_TILE))
    return [
        _case(
            "sparse_attention_prefill",
            kernel,
            tiles,
            {**tile, "BLOCK_H": rows},
            signature,
            {"HAS_SINK": sink, "D": HEAD_DIM},
            "" if sink else " no sink",
        )
        for kernel, tiles, tile in kernels
        for rows in _head_blocks(tile)
        for sink in (True, False)
    ]


def _decode_cases() -> list[CompileCase]:
    integers = ("swa_width", "extra_width", "swa_row", "extra_row", "swa_slots_total", "extra_slots_total", "swa_stride",
                "extra_stride", "heads", "out_heads", "splits")  # fmt: skip
    signature = {
        "q": "*bf16", "swa_cache": "*u8", **dict.fromkeys(("swa_slots", "swa_lens"), "*i32"), "extra_cache": "*u8",
        **dict.fromkeys(("extra_slots", "extra_lens"), "*i32"), "sink": "*fp32", "out": "*bf16", "lse": "*fp32",
        **dict.fromkeys(("part_acc", "part_max", "part_sum"), "*fp32"), "scale_log2": "fp32",
        **dict.fromkeys(integers, "i32"),
    }  # fmt: skip
    kernels = [(attention_mma.decode_kernel, tiles, tile) for tiles, tile in _DECODE_TILES.items()]
    kernels += [(attention_mma.decode_kernel, tiles, tile) for tiles, tile in _FEW_TOKENS_TILES.items()]
    kernels.append((attention_halves.decode_kernel, "sm90", _HALVES_TILE))
    cases = []
    for kernel, tiles, tile in kernels:
        for rows in _head_blocks(tile):
            for split, extra, sink in ((True, 64, True), (True, 2, True), (False, 64, True), (False, None, False)):
                constexprs = {
                    "HAS_SINK": sink, "HAS_EXTRA": extra is not None, "SPLIT": split, "SWA_SHIFT": _shift(64),
                    "EXTRA_SHIFT": _shift(extra or 1), "D": HEAD_DIM, "ROPE": _ROPE, "DATA": _DATA, "SCALES": _SCALES,
                    "PDL": True,
                }  # fmt: skip
                note = f"{' split' if split else ''} extra {extra or '-'}{'' if sink else ' no sink'}"
                cases.append(
                    _case(
                        "sparse_attention_decode", kernel, tiles, {**tile, "BLOCK_H": rows}, signature, constexprs, note
                    )
                )
    return cases


def _case(
    op: str,
    kernel: Any,
    tiles: str,
    tile: dict[str, int],
    signature: dict[str, str],
    constexprs: dict[str, Any],
    note: str = "",
) -> CompileCase:
    """A case with the tile's constexprs (upper case) and launch options (lower case)."""
    label = f"{tiles} h{tile['BLOCK_H']} c{tile['BLOCK_C']} w{tile['num_warps']}{note}"
    merged = {**constexprs, **{name: value for name, value in tile.items() if name.isupper()}}
    return CompileCase(
        op, label, kernel, signature, merged, tile["num_warps"], tile["num_stages"], mma="bf16", spill_free=tiles == "sm12x",
        tiles=cast(TileSet, tiles), divisible=tuple(name for name in ("swa_stride", "extra_stride") if name in signature),
    )  # fmt: skip


def _head_blocks(tile: dict[str, int]) -> list[int]:
    return [tile["BLOCK_H"]] if tile["BLOCK_H"] == 64 else [rows for rows in (16, 32) if rows <= tile["BLOCK_H"]]


def _merge_cases() -> list[CompileCase]:
    signature = {
        **dict.fromkeys(("part_acc", "part_max", "part_sum", "sink"), "*fp32"), "out": "*bf16", "lse": "*fp32",
        **dict.fromkeys(("heads", "out_heads", "splits"), "i32"),
    }  # fmt: skip
    return [
        CompileCase(
            "sparse_attention_decode", f"merge{'' if sink else ' no sink'}", attention_mma.merge_kernel, signature,
            {"HAS_SINK": sink, "BLOCK_H": MERGE_HEADS, "BLOCK_S": MAX_SPLITS, "D": HEAD_DIM, "PDL": True}, 4,
        )
        for sink in (True, False)
    ]  # fmt: skip
