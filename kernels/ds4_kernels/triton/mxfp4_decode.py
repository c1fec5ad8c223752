"""MXFP4 experts for few tokens: nothing is sorted, and every (token, slot) pair has its own programs.

Up to ``FUSED_TOKENS`` tokens every pair is computed alone, in three kernels: input, w13 with the activation (SwiGLU,
routing weight, rounding) by the last program of a group of columns, w2 with the sum over slots by the last of a tile.
Above, pairs that share an expert are computed together, eight at most, so that weights are read once; the activation
and the sum are kernels of their own. ``mxfp4_rows`` says how the weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.triton import mxfp4_values as values
from ds4_kernels.triton.arch import num_sms
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.dependent import dependent, enter
from ds4_kernels.triton.mxfp4_rows import (
    ACTIVATION,
    COLUMNS,
    COMBINE,
    NO_EPILOGUE,
    PLAN_WIDTH,
    _activate,
    _rows_kernel,
    fragment_order,
)
from ds4_kernels.triton.mxfp4_values import GROUP, rounded

MAX_TOKENS = 256
"""Up to here ``mxfp4_moe`` takes these kernels. On an H200 they are still 10 % faster than the grouped ones at 256."""
FUSED_TOKENS = 4
"""Up to here pairs stay alone. At 4 tokens of 6 slots and 256 experts 4 % of the pairs repeat an expert."""
INPUT_GROUPS = 1
SCAN = 512
ZERO_BLOCK = 1024
WARPS_PER_SM = 16
"""Fewer leave the memory idle while they unpack: k is split in two while there are not as many."""
MAX_SPLITS = 2


@dataclass(frozen=True)
class Tile:
    """Rows of a program, units (128 elements of k) of one step, and whether the next step's weights are read before."""

    block_m: int
    unroll: int
    ahead: bool


@dataclass(frozen=True)
class Config:
    """How a call runs. fused: three kernels (not with merge)."""

    w13: Tile
    w2: Tile
    merge: bool
    fused: bool


# Sixteen rows take 66 registers a lane: all programs of one token (23 a multiprocessor of an H200) are there at once.
_FEW = Config(Tile(16, 2, True), Tile(16, 2, True), merge=False, fused=True)
# Merged, the wide w13 wants its next weights early, the short loop of w2 wants more rows to an activation read.
_MANY = Config(Tile(16, 2, True), Tile(32, 2, False), merge=True, fused=False)


@triton.jit(do_not_specialize=["tokens", "pairs", "total"])
def _input_kernel(
    x, ids, planes, plan, counters, tokens, pairs, total,
    D: tl.constexpr, EXPERTS: tl.constexpr, FP8: tl.constexpr, MERGE: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
    SCAN: tl.constexpr, ZERO_BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """x BF16 ``[T, D]`` to planes (``fragment_order``); MERGE: plan of every pair; else counters ``[total]`` are zeroed."""
    enter(PDL)
    per_token: tl.constexpr = (D // GROUP + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    program = tl.program_id(0)
    if program < tokens * per_token:
        group = program % per_token * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
        start = (program // per_token).to(tl.int64) * D + group[:, None] * GROUP
        inside = (group < D // GROUP)[:, None]
        value = tl.load(x + start + fragment_order()[None, :], mask=inside, other=0.0).to(tl.float32)
        tl.store(planes + start + tl.arange(0, GROUP)[None, :], rounded(value, FP8), mask=inside)
    elif MERGE:
        _plan_pair(ids, plan, program - tokens * per_token, pairs, EXPERTS, SCAN)
    else:
        at = (program - tokens * per_token) * ZERO_BLOCK + tl.arange(0, ZERO_BLOCK)
        tl.store(counters + at, tl.zeros((ZERO_BLOCK,), tl.int32), mask=at < total)


@triton.jit
def _plan_pair(ids, plan, pair, pairs, EXPERTS: tl.constexpr, SCAN: tl.constexpr):
    """A pair's row of the plan: every eighth pair of an expert computes itself and the next seven."""
    expert = tl.load(ids + pair)
    position = tl.arange(0, SCAN)
    before = tl.zeros((SCAN,), tl.int32)
    found = tl.zeros((SCAN,), tl.int32)
    for begin in range(0, pairs, SCAN):
        other = begin + position
        same = tl.load(ids + other, mask=other < pairs, other=-1) == expert
        before += (same & (other < pair)).to(tl.int32)
        found += same.to(tl.int32)
    rank = tl.sum(before)
    first = (rank % COLUMNS == 0) & (expert >= 0) & (expert < EXPERTS)
    count = tl.where(first, tl.minimum(tl.sum(found) - rank, COLUMNS), 0)
    row = plan + pair * PLAN_WIDTH
    tl.store(row, count)
    if count > 0:
        column = tl.arange(0, COLUMNS)
        tl.store(row + 8 + column, pair + 0 * column, mask=column >= count)
        passed = 0
        for begin in range(0, pairs, SCAN):
            other = begin + position
            same = tl.load(ids + other, mask=other < pairs, other=-1) == expert
            place = passed + tl.cumsum(same.to(tl.int32), 0) - 1 - rank
            tl.store(row + 8 + place, other, mask=same & (place >= 0) & (place < count))
            passed += tl.sum(same.to(tl.int32))


@triton.jit(do_not_specialize=["pairs"])
def _activation_kernel(
    parts, ids, weights, hidden, pairs, limit,
    INTER: tl.constexpr, EXPERTS: tl.constexpr, FP8: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """hidden BF16 ``[pairs, INTER]`` (``fragment_order``) from parts FP32 ``[SPLITS, pairs, 2 INTER]``."""
    pair = tl.program_id(0) // (INTER // GROUP)
    expert = tl.load(ids + pair)
    if (expert >= 0) & (expert < EXPERTS):
        _activate(parts, weights, hidden, limit, pair, tl.program_id(0) % (INTER // GROUP), pairs, INTER, FP8, SPLITS)


def experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    w13: Tensor,
    s13: Tensor,
    w2: Tensor,
    s2: Tensor,
    limit: float,
    fp8: bool,
    out: Tensor,
    config: Config | None = None,
) -> None:
    """Fill out ``[T, D]``; w13 and w2 as int16 words, s13 and s2 as int32 (four scales), the rest as in ``mxfp4_moe``."""
    (tokens, D), pairs, inter, device = x.shape, ids.numel(), s2.shape[2] * 128, x.device
    chosen = config or (_FEW if tokens <= FUSED_TOKENS else _MANY)
    planes = torch.empty_like(x)
    scratch = _scratch(chosen, tokens, pairs, inter, D, device)
    _input(chosen, x, ids, planes, scratch, w13.shape[0], fp8)

    hidden = torch.empty((pairs, inter), dtype=torch.bfloat16, device=device)
    first = _Projection(w13, s13, ids.shape[1], chosen.w13, ACTIVATION.value, hidden, scratch)
    parts = _project(chosen, first, planes, ids, weights, limit, fp8)
    if not chosen.fused:
        _activation_kernel[(pairs * (inter // 128),)](
            parts, ids, weights, hidden, pairs, limit,
            INTER=inter, EXPERTS=w13.shape[0], FP8=fp8, SPLITS=parts.shape[0],
            num_warps=1, num_stages=1,
        )  # fmt: skip
    more = scratch[_groups(pairs, inter) :] if chosen.fused else scratch
    second = _Projection(w2, s2, 1, chosen.w2, COMBINE.value, out, more)
    parts = _project(chosen, second, hidden, ids, weights, limit, fp8)
    if not chosen.fused:
        values.combine(parts, ids, out, w13.shape[0])


def _scratch(chosen: Config, tokens: int, pairs: int, inter: int, D: int, device: torch.device) -> Tensor:
    """int32: the plan if pairs merge, else the counters of both projections."""
    counters = _groups(pairs, inter) + tokens * (D // chosen.w2.block_m)
    return torch.empty(pairs * PLAN_WIDTH.value if chosen.merge else counters, dtype=torch.int32, device=device)


def _groups(pairs: int, inter: int) -> int:
    """Counters of the first projection, up to a multiple of four: those of the second start at 16 bytes."""
    return -(-pairs * (inter // 128) // 4) * 4


def _input(chosen: Config, x: Tensor, ids: Tensor, planes: Tensor, scratch: Tensor, total: int, fp8: bool) -> None:
    tokens, D = x.shape
    pairs = ids.numel()
    more = pairs if chosen.merge else (triton.cdiv(scratch.numel(), ZERO_BLOCK) if chosen.fused else 0)
    _input_kernel[(tokens * triton.cdiv(D // 128, INPUT_GROUPS) + more,)](
        x, ids, planes, scratch, scratch, tokens, pairs, scratch.numel(),
        D=D, EXPERTS=total, FP8=fp8, MERGE=chosen.merge, BLOCK_GROUPS=INPUT_GROUPS, SCAN=SCAN, ZERO_BLOCK=ZERO_BLOCK,
        num_warps=1, num_stages=1, **_launch(chosen, x.device),
    )  # fmt: skip


@dataclass(frozen=True)
class _Projection:
    """One of the two matrix products: its weights, pairs to a row of its input, and what a fused launch fills."""

    w: Tensor
    s: Tensor
    slots: int
    tile: Tile
    epilogue: int
    result: Tensor
    scratch: Tensor


def _project(
    chosen: Config, job: _Projection, x: Tensor, ids: Tensor, weights: Tensor, limit: float, fp8: bool
) -> Tensor:
    """FP32 ``[splits, T k, rows]``: parts of every pair's expert times its row of x; fused: job.result is filled too."""
    (total, rows, _), k, pairs, tile = job.w.shape, x.shape[1], ids.numel(), job.tile
    blocks = pairs * (rows // tile.block_m)
    splits = splits_for(blocks, k // 128, WARPS_PER_SM * num_sms(x.device))
    epilogue = job.epilogue if chosen.fused else NO_EPILOGUE.value
    unroll = tile.unroll if (k // 128 // splits) % tile.unroll == 0 else 1
    parts = torch.empty((splits, pairs, rows), dtype=torch.float32, device=x.device)
    _rows_kernel[(blocks * splits,)](
        x, job.w, job.s, ids, job.scratch, parts, weights, job.result, job.scratch, pairs, limit,
        ROWS=rows, K=k, SLOTS=job.slots, TOPK=ids.shape[1], EXPERTS=total,
        FP8=fp8 and epilogue == ACTIVATION.value, MERGE=chosen.merge, SPLITS=splits, EPILOGUE=epilogue,
        BLOCK_M=tile.block_m, UNROLL=unroll, AHEAD=tile.ahead, num_warps=1, num_stages=1,
        **_launch(chosen, x.device),
    )  # fmt: skip
    return parts


def _launch(chosen: Config, device: torch.device) -> dict[str, bool]:
    """Merged kernels take a hundred microseconds and more: there launching early cost up to 10 % (docs/speed.md)."""
    return dependent(device) if chosen.fused else {"PDL": False}


def splits_for(blocks: int, units: int, programs: int) -> int:
    """Parts of k: doubled while there are fewer than ``programs``, at most MAX_SPLITS, and the units divide evenly."""
    splits = 1
    while blocks * splits < programs and splits < MAX_SPLITS and units % (2 * splits) == 0:
        splits *= 2
    return splits


def compile_cases() -> list[CompileCase]:
    """Input, both projections fused and merged, and the activation of both modes; one or two parts of k."""
    cases = [_input_case(fp8, merge) for fp8 in (True, False) for merge in (True, False)]
    cases += [_activation_case(fp8, splits) for fp8 in (True, False) for splits in (1, 2)]
    for splits in (1, 2):
        for config, name in ((_FEW, "fused"), (_MANY, "merged")):
            for fp8 in (True, False) if config.fused else (False,):
                cases += _rows_cases(config, f"w13 {name}", True, splits, fp8)
            cases += _rows_cases(config, f"w2 {name}", False, splits, False)
    return cases


def _input_case(fp8: bool, merge: bool) -> CompileCase:
    return CompileCase(
        op="mxfp4_moe",
        config=f"decode input {'w4a8' if fp8 else 'w4a16'}{' plan' if merge else ''}",
        kernel=_input_kernel,
        signature={
            "x": "*bf16", "ids": "*i32", "planes": "*bf16", "plan": "*i32", "counters": "*i32", "tokens": "i32",
            "pairs": "i32", "total": "i32",
        },
        constexprs={
            "D": 4096, "EXPERTS": 256, "FP8": fp8, "MERGE": merge, "BLOCK_GROUPS": INPUT_GROUPS, "SCAN": SCAN,
            "ZERO_BLOCK": ZERO_BLOCK, "PDL": not merge,
        },
        num_warps=1,
    )  # fmt: skip


def _activation_case(fp8: bool, splits: int) -> CompileCase:
    return CompileCase(
        op="mxfp4_moe",
        config=f"decode activation {'w4a8' if fp8 else 'w4a16'} of {splits}",
        kernel=_activation_kernel,
        signature={
            "parts": "*fp32", "ids": "*i32", "weights": "*fp32", "hidden": "*bf16", "pairs": "i32", "limit": "fp32",
        },
        constexprs={"INTER": 2048, "EXPERTS": 256, "FP8": fp8, "SPLITS": splits},
        num_warps=1,
    )  # fmt: skip


def _rows_cases(config: Config, name: str, first: bool, splits: int, fp8: bool) -> list[CompileCase]:
    """One projection with the tile's own unrolling, and with none as sizes take it that do not divide."""
    tile = config.w13 if first else config.w2
    epilogue = (ACTIVATION if first else COMBINE) if config.fused else NO_EPILOGUE
    return [
        CompileCase(
            op="mxfp4_moe",
            config=f"decode {name} of {splits} unroll {unroll}{' w4a8' if fp8 else ''}",
            kernel=_rows_kernel,
            signature={
                "x": "*bf16", "w": "*i16", "s": "*i32", "ids": "*i32", "plan": "*i32", "parts": "*fp32",
                "weights": "*fp32", "result": "*bf16", "counters": "*i32", "pairs": "i32", "limit": "fp32",
            },
            constexprs={
                "ROWS": 4096, "K": 4096 if first else 2048, "SLOTS": 6 if first else 1, "TOPK": 6, "EXPERTS": 256,
                "FP8": fp8, "MERGE": config.merge, "SPLITS": splits, "EPILOGUE": epilogue.value,
                "BLOCK_M": tile.block_m, "UNROLL": unroll, "AHEAD": tile.ahead, "PDL": config.fused,
            },
            num_warps=1,
            mma="bf16",
            early_reads=config.fused,
        )
        for unroll in sorted({tile.unroll, 1})
    ]  # fmt: skip
