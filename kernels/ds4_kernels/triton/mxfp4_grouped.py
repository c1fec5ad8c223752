"""MXFP4 experts for many tokens: pairs (token, slot) are grouped by expert, and blocks of a group share a weight tile.

The grouping runs on the device and nothing waits for it: the grids hold the most blocks that any routing can need, and
a program without a block ends at once. Weight rows are the rows of the MMA and a block's pairs its columns, so that
twelve tokens an expert waste little, and the unpacked weights stay in registers.

Passes: input planes, grouping, block plan, w13 with SwiGLU, routing weight and rounding, w2, sum over slots.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.triton import mxfp4_values as values
from ds4_kernels.triton.arch import TileSet, tile_set
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.mxfp4_values import GROUP, multiply, rounded, swiglu

SCAN = 2048
PLAN_BLOCK = 32

# Columns of a block -> tile. w13 computes the 128 rows of a gate and of its up together (one FP8 group of the result).
# Up to 32 columns two blocks share a multiprocessor (registers and shared memory allow it): one computes while the other
# starts or ends. From 64 on, sm90 takes 16 warps to keep the sums and the unpacked weights in registers.
_W13_TILES: dict[TileSet, dict[int, dict[str, int]]] = {
    "sm12x": {
        16: {"BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
        32: {"BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
        64: {"BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
    },
    "sm90": {
        16: {"BLOCK_K": 128, "STAGES": 4, "num_warps": 8},
        32: {"BLOCK_K": 128, "STAGES": 4, "num_warps": 8},
        64: {"BLOCK_K": 256, "STAGES": 3, "num_warps": 16},
        128: {"BLOCK_K": 128, "STAGES": 4, "num_warps": 16},
    },
}
_W2_TILES: dict[TileSet, dict[int, dict[str, int]]] = {
    "sm12x": {
        16: {"BLOCK_M": 128, "BLOCK_K": 256, "STAGES": 3, "num_warps": 8},
        32: {"BLOCK_M": 128, "BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
        64: {"BLOCK_M": 128, "BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
    },
    "sm90": {
        16: {"BLOCK_M": 128, "BLOCK_K": 256, "STAGES": 4, "num_warps": 8},
        32: {"BLOCK_M": 128, "BLOCK_K": 256, "STAGES": 3, "num_warps": 8},
        64: {"BLOCK_M": 128, "BLOCK_K": 128, "STAGES": 4, "num_warps": 8},
        128: {"BLOCK_M": 128, "BLOCK_K": 128, "STAGES": 4, "num_warps": 8},
    },
}
_REGISTERS: dict[TileSet, dict[int, int]] = {"sm12x": {}, "sm90": {32: 128}}
"""Where two blocks of w13 share a multiprocessor only if told to: Triton 3.8 takes 147 registers, none spill at 128."""


@triton.jit(do_not_specialize=["pairs"])
def group_kernel(ids, weights, order, sorted_weights, bounds, pairs, SCAN: tl.constexpr):
    """One program an expert: its pairs, ascending, to ``order[first : first + count]``, behind all smaller experts'.

    sorted_weights gets the pairs' weights, bounds int32 ``[E, 2]`` an expert's (first, count).
    """
    expert = tl.program_id(0)
    position = tl.arange(0, SCAN)
    before = tl.zeros((SCAN,), tl.int32)
    for begin in range(0, pairs, SCAN):
        other = tl.load(ids + begin + position, mask=begin + position < pairs, other=-1)
        before += ((other >= 0) & (other < expert)).to(tl.int32)
    start = tl.sum(before)
    found = start
    for begin in range(0, pairs, SCAN):
        same = (tl.load(ids + begin + position, mask=begin + position < pairs, other=-1) == expert).to(tl.int32)
        place = found + tl.cumsum(same, 0) - 1
        tl.store(order + place, begin + position, mask=same != 0)
        weight = tl.load(weights + begin + position, mask=same != 0, other=0.0)
        tl.store(sorted_weights + place, weight, mask=same != 0)
        found += tl.sum(same)
    tl.store(bounds + 2 * expert, start)
    tl.store(bounds + 2 * expert + 1, found - start)


@triton.jit(do_not_specialize=["blocks"])
def plan_kernel(
    bounds, plan, blocks,
    EXPERTS: tl.constexpr, EXPERTS_PAD: tl.constexpr, BLOCK_N: tl.constexpr, PLAN_BLOCK: tl.constexpr,
):  # fmt: skip
    """plan int32 ``[3, blocks]``: a block's expert (-1: none), its first place in ``order`` and its number of pairs."""
    expert = tl.arange(0, EXPERTS_PAD)
    start = tl.load(bounds + 2 * expert, mask=expert < EXPERTS, other=0)
    size = tl.load(bounds + 2 * expert + 1, mask=expert < EXPERTS, other=0)
    owned = (size + BLOCK_N - 1) // BLOCK_N
    end = tl.cumsum(owned, 0)
    block = tl.program_id(0) * PLAN_BLOCK + tl.arange(0, PLAN_BLOCK)
    part = block[:, None] - (end - owned)[None, :]
    mine = (part >= 0) & (part < owned[None, :])
    owner = tl.sum(tl.where(mine, expert[None, :] + 1, 0), axis=1) - 1
    place = tl.sum(tl.where(mine, start[None, :] + part * BLOCK_N, 0), axis=1)
    pairs = tl.sum(tl.where(mine, tl.minimum(size[None, :] - part * BLOCK_N, BLOCK_N), 0), axis=1)
    tl.store(plan + block, owner, mask=block < blocks)
    tl.store(plan + blocks + block, place, mask=block < blocks)
    tl.store(plan + 2 * blocks + block, pairs, mask=block < blocks)


@triton.jit
def block_columns(order, plan, block, blocks, BLOCK_N: tl.constexpr):
    """(pair of every column, int32 ``[BLOCK_N]``; whether the column has one) of a planned block."""
    column = tl.arange(0, BLOCK_N)
    live = column < tl.load(plan + 2 * blocks + block)
    return tl.load(order + tl.load(plan + blocks + block) + column, mask=live, other=0), live


@triton.jit(do_not_specialize=["blocks"])
def _w13_kernel(
    x, w, s, order, sorted_weights, plan, hidden, limit, blocks,
    INTER: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr, FP8: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """hidden planes BF16 ``[T k, I]``: 128 columns of it for one block of pairs, from planes x ``[T, K]``."""
    tiles: tl.constexpr = INTER // GROUP
    tile = tl.program_id(0) % tiles
    block = tl.program_id(0) // tiles
    expert = tl.load(plan + block)
    if expert < 0:
        return
    pair, live = block_columns(order, plan, block, blocks, BLOCK_N)
    m = tl.arange(0, 2 * GROUP)
    # Rows in the order of the result's planes: its stores are then contiguous.
    element = ((m % 32) * 4 + (m % GROUP) // 32) + tile * GROUP
    acc = multiply(
        x, w, s, expert, (m // GROUP) * INTER + element, pair // SLOTS, live, 0, K // BLOCK_K,
        2 * INTER, K, 2 * GROUP, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    gate, up = tl.split(tl.permute(tl.reshape(acc, (2, GROUP, BLOCK_N)), (1, 2, 0)))
    # Read here and by place: the weights of the columns would hold registers through the loop.
    weight = tl.load(sorted_weights + tl.load(plan + blocks + block) + tl.arange(0, BLOCK_N), mask=live, other=0.0)
    result = rounded(tl.trans(swiglu(gate, up, limit)) * weight[:, None], FP8)
    at = pair.to(tl.int64)[:, None] * INTER + tile * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(hidden + at, result, mask=live[:, None])


@triton.jit(do_not_specialize=["blocks"])
def _w2_kernel(
    hidden, w, s, order, plan, parts, blocks,
    D: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """parts FP32 ``[T k, D]``: BLOCK_M columns of it for one block of pairs, from hidden planes ``[T k, K]``."""
    tiles: tl.constexpr = D // BLOCK_M
    tile = tl.program_id(0) % tiles
    block = tl.program_id(0) // tiles
    expert = tl.load(plan + block)
    if expert < 0:
        return
    pair, live = block_columns(order, plan, block, blocks, BLOCK_N)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = multiply(hidden, w, s, expert, row, pair, live, 0, K // BLOCK_K, D, K, BLOCK_M, BLOCK_N, BLOCK_K, STAGES)
    tl.store(parts + pair.to(tl.int64)[:, None] * D + row[None, :], tl.trans(acc), mask=live[:, None])


def experts(
    planes: Tensor,
    ids: Tensor,
    weights: Tensor,
    w13: Tensor,
    s13: Tensor,
    w2: Tensor,
    s2: Tensor,
    limit: float,
    fp8: bool,
    out: Tensor,
) -> None:
    """Fill out ``[T, D]`` from input planes ``[T, D]``; w13 and w2 as int16 words, the rest as in ``mxfp4_moe``."""
    tokens, topk = ids.shape
    D, inter, E, device = planes.shape[1], s2.shape[2] * 32, w13.shape[0], planes.device
    block_n = block_columns_for(tokens * topk, E, tile_set(device))
    order, sorted_weights, plan = group(ids, weights, E, block_n)
    blocks = plan.shape[1]
    hidden = torch.empty((tokens * topk, inter), dtype=torch.bfloat16, device=device)
    limits = _REGISTERS[tile_set(device)].get(block_n)
    _w13_kernel[(blocks * (inter // 128),)](
        planes, w13, s13, order, sorted_weights, plan, hidden, limit, blocks,
        INTER=inter, K=D, SLOTS=topk, FP8=fp8, BLOCK_N=block_n, num_stages=1, maxnreg=limits,
        **_fitting(_W13_TILES[tile_set(device)][block_n], D),
    )  # fmt: skip
    tile = _fitting(_W2_TILES[tile_set(device)][block_n], inter)
    parts = torch.empty((1, tokens * topk, D), dtype=torch.float32, device=device)
    _w2_kernel[(blocks * (D // tile["BLOCK_M"]),)](
        hidden, w2, s2, order, plan, parts, blocks, D=D, K=inter, BLOCK_N=block_n, num_stages=1, **tile
    )
    values.combine(parts, ids, out, E)


def group(ids: Tensor, weights: Tensor, experts_total: int, block_n: int) -> tuple[Tensor, Tensor, Tensor]:
    """(order int32 ``[T k]``, weights in that order, plan int32 ``[3, blocks]``) of ids and weights ``[T, k]``.

    The number of blocks depends on shapes only. Both inputs must be contiguous.
    """
    pairs, device = ids.numel(), ids.device
    blocks = most_blocks(pairs, experts_total, block_n)
    order = torch.empty(pairs, dtype=torch.int32, device=device)
    sorted_weights = torch.empty(pairs, dtype=torch.float32, device=device)
    bounds = torch.empty((experts_total, 2), dtype=torch.int32, device=device)
    plan = torch.empty((3, blocks), dtype=torch.int32, device=device)
    group_kernel[(experts_total,)](ids, weights, order, sorted_weights, bounds, pairs, SCAN=SCAN, num_warps=8)
    plan_kernel[(triton.cdiv(blocks, PLAN_BLOCK),)](
        bounds, plan, blocks, EXPERTS=experts_total, EXPERTS_PAD=triton.next_power_of_2(experts_total),
        BLOCK_N=block_n, PLAN_BLOCK=PLAN_BLOCK, num_warps=4,
    )  # fmt: skip
    return order, sorted_weights, plan


def most_blocks(pairs: int, experts_total: int, block_n: int) -> int:
    """Blocks of ``block_n`` pairs that a routing can need: a sum of ``ceil(n / block_n)`` with the n summing to pairs."""
    return min(pairs, (pairs + experts_total * (block_n - 1)) // block_n)


def block_columns_for(pairs: int, experts_total: int, tiles: TileSet) -> int:
    """Columns of a block: the mean pairs of an expert and two standard deviations, so that most experts take one."""
    mean = pairs / experts_total
    wanted = mean + 2 * math.sqrt(mean)
    sizes = sorted(_W13_TILES[tiles])
    return next((size for size in sizes if size >= wanted), sizes[-1])


def _fitting(tile: dict[str, int], k: int) -> dict[str, int]:
    """The tile, with 128 elements a step where its own step does not divide ``k``."""
    return tile if k % tile["BLOCK_K"] == 0 else tile | {"BLOCK_K": 128}


def compile_cases() -> list[CompileCase]:
    """Grouping, plans and both projections of V4-Flash for every block size of both tile sets."""
    cases = [
        CompileCase(
            op="mxfp4_moe",
            config="grouping",
            kernel=group_kernel,
            signature={
                "ids": "*i32", "weights": "*fp32", "order": "*i32", "sorted_weights": "*fp32", "bounds": "*i32",
                "pairs": "i32",
            },
            constexprs={"SCAN": SCAN},
            num_warps=8,
        )
    ]  # fmt: skip
    cases += [
        CompileCase(
            op="mxfp4_moe",
            config=f"plan n{block_n}",
            kernel=plan_kernel,
            signature={"bounds": "*i32", "plan": "*i32", "blocks": "i32"},
            constexprs={"EXPERTS": 256, "EXPERTS_PAD": 256, "BLOCK_N": block_n, "PLAN_BLOCK": PLAN_BLOCK},
            num_warps=4,
        )
        for block_n in _W13_TILES["sm90"]
    ]
    for tiles, by_size in _W13_TILES.items():
        for block_n in by_size:
            cases += [_w13_case(tiles, block_n, True), _w13_case(tiles, block_n, False), _w2_case(tiles, block_n)]
    return cases


def _w13_case(tiles: TileSet, block_n: int, fp8: bool) -> CompileCase:
    options = dict(_W13_TILES[tiles][block_n])
    warps = options.pop("num_warps")
    return CompileCase(
        op="mxfp4_moe",
        config=f"grouped w13 {'w4a8' if fp8 else 'w4a16'} n{block_n} {tiles}",
        kernel=_w13_kernel,
        signature={
            "x": "*bf16", "w": "*i16", "s": "*u8", "order": "*i32", "sorted_weights": "*fp32", "plan": "*i32",
            "hidden": "*bf16", "limit": "fp32", "blocks": "i32",
        },
        constexprs={"INTER": 2048, "K": 4096, "SLOTS": 6, "FP8": fp8, "BLOCK_N": block_n, **options},
        num_warps=warps,
        mma="bf16",
        tiles=tiles,
    )  # fmt: skip


def _w2_case(tiles: TileSet, block_n: int) -> CompileCase:
    options = dict(_W2_TILES[tiles][block_n])
    warps = options.pop("num_warps")
    return CompileCase(
        op="mxfp4_moe",
        config=f"grouped w2 n{block_n} {tiles}",
        kernel=_w2_kernel,
        signature={
            "hidden": "*bf16", "w": "*i16", "s": "*u8", "order": "*i32", "plan": "*i32", "parts": "*fp32", "blocks": "i32",
        },
        constexprs={"D": 4096, "K": 2048, "BLOCK_N": block_n, **options},
        num_warps=warps,
        mma="bf16",
        tiles=tiles,
    )  # fmt: skip
