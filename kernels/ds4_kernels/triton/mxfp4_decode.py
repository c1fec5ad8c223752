"""MXFP4 experts for few tokens: nothing is sorted, and every (token, slot) pair has its own programs.

One program multiplies a block of an expert's rows, or a part of their k, by the tokens of that expert. The weight rows
are the rows of the MMA and the tokens its columns. From a few tokens on, pairs that share an expert are computed by the
first of them (each program looks through the ids), so that weights are read once. Sums of parts of k are stored apart
and added in a fixed order by the next kernel.

Passes: input planes, w13, activation (SwiGLU, routing weight, rounding), w2, sum over slots.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.triton import mxfp4_values as values
from ds4_kernels.triton.arch import num_sms
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.mxfp4_values import GROUP, multiply, plane_order, rounded, swiglu

MAX_TOKENS = 64
"""Up to here ``mxfp4_moe`` takes these kernels: above, grouping by expert pays for its passes (an estimate, not timed)."""
MERGE_TOKENS = 4
"""Above this many tokens pairs with the same expert are merged. At 4 tokens of 6 slots and 256 experts 4 % repeat."""
SCAN = 64
PROGRAMS_PER_SM = 8
"""Fewer leave too few warps to unpack at the speed of the memory; k is split until there are as many."""
MAX_SPLITS = 8
ACTIVATION_GROUPS = 4

# 32 rows and two warps take mma.sync on every GPU: wgmma needs 64 rows and waits for each of its results, and with so
# few columns unpacking is the work. BLOCK_K 256 makes 128 contiguous bytes of every weight row.
_TILE = {"BLOCK_M": 32, "BLOCK_K": 256, "STAGES": 3, "num_warps": 2}


@triton.jit(do_not_specialize=["pairs", "splits"])
def _rows_kernel(
    x, w, s, ids, out, pairs, splits,
    ROWS: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr, EXPERTS: tl.constexpr, MERGE: tl.constexpr,
    SCAN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out FP32 ``[splits, pairs, ROWS]`` from planes x ``[pairs / SLOTS, K]`` and one expert's ``[ROWS, K]`` a pair."""
    tiles: tl.constexpr = ROWS // BLOCK_M
    tile = tl.program_id(0) % tiles
    split = (tl.program_id(0) // tiles) % splits
    pair = tl.program_id(0) // (tiles * splits)
    expert = tl.load(ids + pair)
    if (expert < 0) | (expert >= EXPERTS):
        return
    column = tl.arange(0, BLOCK_N)
    if MERGE:
        earlier, count = _same_expert(ids, expert, pair, pairs, SCAN)
        if earlier > 0:
            return
        for begin in range(0, count, BLOCK_N):
            member = _members(ids, expert, begin + column, pairs, SCAN)
            _rows_tile(
                x, w, s, out, expert, tile, split, splits, pairs, member, begin + column < count,
                ROWS, K, SLOTS, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
            )  # fmt: skip
    else:
        _rows_tile(
            x, w, s, out, expert, tile, split, splits, pairs, tl.where(column == 0, pair, 0), column == 0,
            ROWS, K, SLOTS, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip


@triton.jit
def _same_expert(ids, expert, pair, pairs, SCAN: tl.constexpr):
    """(pairs before ``pair`` with its expert, all pairs with it)."""
    position = tl.arange(0, SCAN)
    before = tl.zeros((SCAN,), tl.int32)
    found = tl.zeros((SCAN,), tl.int32)
    for begin in range(0, pairs, SCAN):
        other = begin + position
        same = tl.load(ids + other, mask=other < pairs, other=-1) == expert
        before += (same & (other < pair)).to(tl.int32)
        found += same.to(tl.int32)
    return tl.sum(before), tl.sum(found)


@triton.jit
def _members(ids, expert, wanted, pairs, SCAN: tl.constexpr):
    """The pairs number ``wanted`` (from 0) of those with this expert; 0 where there is none."""
    position = tl.arange(0, SCAN)
    member = tl.zeros_like(wanted)
    passed = 0
    for begin in range(0, pairs, SCAN):
        other = begin + position
        same = (tl.load(ids + other, mask=other < pairs, other=-1) == expert).to(tl.int32)
        rank = passed + tl.cumsum(same, 0) - 1
        mine = (same[None, :] != 0) & (rank[None, :] == wanted[:, None])
        member += tl.sum(tl.where(mine, other[None, :], 0), axis=1)
        passed += tl.sum(same)
    return member


@triton.jit
def _rows_tile(
    x, w, s, out, expert, tile, split, splits, pairs, member, live,
    ROWS: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    steps = (K // BLOCK_K) // splits
    acc = multiply(
        x, w, s, expert, row, member // SLOTS, live, split * steps, (split + 1) * steps,
        ROWS, K, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    at = (split * pairs + member).to(tl.int64)[:, None] * ROWS + row[None, :]
    tl.store(out + at, tl.trans(acc), mask=live[:, None])


@triton.jit(do_not_specialize=["pairs", "splits"])
def _activation_kernel(
    gate_up, ids, weights, hidden, limit, pairs, splits,
    INTER: tl.constexpr, EXPERTS: tl.constexpr, FP8: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
):  # fmt: skip
    """hidden planes BF16 ``[pairs, I]`` from gate_up FP32 ``[splits, pairs, 2 I]``."""
    per_pair: tl.constexpr = (INTER // GROUP + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    pair = tl.program_id(0) // per_pair
    group = (tl.program_id(0) % per_pair) * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    expert = tl.load(ids + pair)
    if (expert < 0) | (expert >= EXPERTS):
        return
    inside = (group < INTER // GROUP)[:, None]
    column = group[:, None] * GROUP + plane_order()[None, :]
    gate = tl.zeros((BLOCK_GROUPS, GROUP), tl.float32)
    up = tl.zeros((BLOCK_GROUPS, GROUP), tl.float32)
    for split in range(splits):
        at = (split * pairs + pair).to(tl.int64) * (2 * INTER) + column
        gate += tl.load(gate_up + at, mask=inside, other=0.0)
        up += tl.load(gate_up + at + INTER, mask=inside, other=0.0)
    result = rounded(swiglu(gate, up, limit) * tl.load(weights + pair), FP8)
    at = pair.to(tl.int64) * INTER + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(hidden + at, result, mask=inside)


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
    pairs, D, inter, E, device = tokens * topk, planes.shape[1], s2.shape[2] * 32, w13.shape[0], planes.device
    gate_up = _project(planes, w13, s13, ids, 2 * inter, topk)
    hidden = torch.empty((pairs, inter), dtype=torch.bfloat16, device=device)
    _activation_kernel[(pairs * triton.cdiv(inter // 128, ACTIVATION_GROUPS),)](
        gate_up, ids, weights, hidden, limit, pairs, gate_up.shape[0],
        INTER=inter, EXPERTS=E, FP8=fp8, BLOCK_GROUPS=ACTIVATION_GROUPS, num_warps=4, num_stages=1,
    )  # fmt: skip
    values.combine(_project(hidden, w2, s2, ids, D, 1), ids, out, E)


def _project(x: Tensor, w: Tensor, s: Tensor, ids: Tensor, rows: int, slots: int) -> Tensor:
    """FP32 ``[splits, T k, rows]``: parts of every pair's expert times its row of planes, ``slots`` pairs to a row."""
    tokens, pairs, k = ids.shape[0], ids.numel(), x.shape[1]
    tile = _TILE if k % _TILE["BLOCK_K"] == 0 else _TILE | {"BLOCK_K": 128}
    blocks, steps = pairs * (rows // tile["BLOCK_M"]), k // tile["BLOCK_K"]
    splits = splits_for(blocks, steps, PROGRAMS_PER_SM * num_sms(x.device))
    out = torch.empty((splits, pairs, rows), dtype=torch.float32, device=x.device)
    _rows_kernel[(blocks * splits,)](
        x, w, s, ids, out, pairs, splits, ROWS=rows, K=k, SLOTS=slots, EXPERTS=w.shape[0], MERGE=tokens > MERGE_TOKENS,
        SCAN=SCAN, BLOCK_N=_columns(tokens), num_stages=1, **tile,
    )  # fmt: skip
    return out


def splits_for(blocks: int, steps: int, programs: int) -> int:
    """Parts of k: doubled while there are fewer than ``programs``, at most MAX_SPLITS, and the steps divide evenly."""
    splits = 1
    while blocks * splits < programs and splits < MAX_SPLITS and steps % (2 * splits) == 0:
        splits *= 2
    return splits


def _columns(tokens: int) -> int:
    """Columns of the MMA: eight are the fewest; a token may choose an expert once, so more tokens may need sixteen."""
    return 8 if tokens <= 8 else 16


def compile_cases() -> list[CompileCase]:
    """Both projections of V4-Flash, alone and with merged pairs, and the activation of both modes."""
    cases = [
        _rows_case(name, rows, k, slots, merge, columns)
        for name, rows, k, slots in (("w13", 4096, 4096, 6), ("w2", 4096, 2048, 1))
        for merge, columns in ((False, 8), (True, 8), (True, 16))
    ]
    cases += [
        CompileCase(
            op="mxfp4_moe",
            config=f"decode activation {'w4a8' if fp8 else 'w4a16'}",
            kernel=_activation_kernel,
            signature={
                "gate_up": "*fp32", "ids": "*i32", "weights": "*fp32", "hidden": "*bf16", "limit": "fp32", "pairs": "i32",
                "splits": "i32",
            },
            constexprs={"INTER": 2048, "EXPERTS": 256, "FP8": fp8, "BLOCK_GROUPS": ACTIVATION_GROUPS},
            num_warps=4,
        )
        for fp8 in (True, False)
    ]  # fmt: skip
    return cases


def _rows_case(name: str, rows: int, k: int, slots: int, merge: bool, columns: int) -> CompileCase:
    options = dict(_TILE)
    warps = options.pop("num_warps")
    return CompileCase(
        op="mxfp4_moe",
        config=f"decode {name} {'merged' if merge else 'single'} n{columns}",
        kernel=_rows_kernel,
        signature={
            "x": "*bf16", "w": "*i16", "s": "*u8", "ids": "*i32", "out": "*fp32", "pairs": "i32", "splits": "i32",
        },
        constexprs={
            "ROWS": rows, "K": k, "SLOTS": slots, "EXPERTS": 256, "MERGE": merge, "SCAN": SCAN, "BLOCK_N": columns,
            **options,
        },
        num_warps=warps,
        mma="bf16",
    )  # fmt: skip
