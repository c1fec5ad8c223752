"""Normalising softmax states: finish, merge, and the softmax and value part of materialised attention.

out = sum_i e^(s_i - m) v_i / (sum_i e^(s_i - m) + e^(sink - m)); lse = m + ln sum_i e^(s_i - m), without the sink. All
kernels here are bound by memory: a program takes rows of several heads and touches each byte once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.layouts import HEAD_DIM
from ds4_kernels.reference.attention import SoftmaxState
from ds4_kernels.reference.attention_state import (
    EMPTY_LSE,
    EmptyLse,
    check_finish,
    check_materialised,
    check_merge,
)
from ds4_kernels.triton.common import to_bf16
from ds4_kernels.triton.compile_case import CompileCase

ROWS = 8
"""Rows of 512 that a finishing program takes: 32 FP32 numbers a thread, eight 16-byte loads in flight."""
MERGE_COUNT = 4
"""Subsets that one launch merges."""
BLOCK_DS = (64, 128, 256, 512)
_VALUE_TILES = {1: 16, 2: 8, 4: 4}
"""Head block -> candidates at a time, so that the accumulator takes 64 registers a thread at BLOCK_D 512, 4 warps."""
_VALUE_STAGES = 3
_SCORE_COLUMNS = 128


@triton.jit
def normalise(maximum, denominator, sink, empty_lse, HAS_SINK: tl.constexpr):
    """(factor of the accumulator, lse) of FP32 states of any shape; ``sink`` has the same shape."""
    filled = denominator > 0
    guard = tl.where(maximum == float("-inf"), 0.0, maximum)  # -inf - -inf would be NaN
    total = denominator
    if HAS_SINK:
        total += tl.exp(sink - guard)
    factor = tl.where(filled, 1.0 / tl.where(filled, total, 1.0), 0.0)
    lse = tl.where(filled, guard + tl.log(tl.where(filled, denominator, 1.0)), empty_lse)
    return factor, lse


@triton.jit
def _guarded(maximum):
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit(do_not_specialize=["rows", "heads", "out_heads"])
def _finish_kernel(
    max_a, sum_a, acc_a, max_b, sum_b, acc_b, sink, out, lse, empty_lse, rows, heads, out_heads,
    TWO: tl.constexpr, HAS_SINK: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = row // out_heads
    head = row % out_heads
    real = (row < rows) & (head < heads)
    at = tl.where(real, token.to(tl.int64) * heads + head, 0)
    dims = tl.arange(0, D)
    maximum = tl.load(max_a + at, mask=real, other=float("-inf"))
    denominator = tl.load(sum_a + at, mask=real, other=0.0)
    acc = tl.load(acc_a + at[:, None] * D + dims[None, :], mask=(real & (denominator > 0))[:, None], other=0.0)
    if TWO:
        other_maximum = tl.load(max_b + at, mask=real, other=float("-inf"))
        other_sum = tl.load(sum_b + at, mask=real, other=0.0)
        other = tl.load(acc_b + at[:, None] * D + dims[None, :], mask=(real & (other_sum > 0))[:, None], other=0.0)
        merged = tl.maximum(maximum, other_maximum)
        scale_a = tl.exp(maximum - _guarded(merged))
        scale_b = tl.exp(other_maximum - _guarded(merged))
        denominator = denominator * scale_a + other_sum * scale_b
        acc = acc * scale_a[:, None] + other * scale_b[:, None]
        maximum = merged
    logit = maximum
    if HAS_SINK:
        logit = tl.load(sink + tl.where(real, head, 0))
    factor, value = normalise(maximum, denominator, logit, empty_lse, HAS_SINK)
    target = out + row.to(tl.int64)[:, None] * D + dims[None, :]
    tl.store(target, to_bf16(acc * factor[:, None]), mask=(row < rows)[:, None])
    tl.store(lse + at, value, mask=real)


@triton.jit
def _read_lse(lse, at, inside):
    value = tl.load(lse + at, mask=inside, other=float("-inf"))
    return tl.where((value <= -1e30) | (value == float("inf")), float("-inf"), value)


@triton.jit
def _add_subset(out, value, guard, at, dims, denominator, acc, D: tl.constexpr):
    weight = tl.exp(value - guard)
    part = tl.load(out + at[:, None] * D + dims[None, :], mask=(value > float("-inf"))[:, None], other=0.0)
    return denominator + weight, acc + weight[:, None] * part.to(tl.float32)


@triton.jit(do_not_specialize=["rows", "heads"])
def _merge_kernel(
    out_0, out_1, out_2, out_3, lse_0, lse_1, lse_2, lse_3, sink, out, lse, rows, heads,
    COUNT: tl.constexpr, HAS_SINK: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    at = tl.where(inside, row, 0).to(tl.int64)
    dims = tl.arange(0, D)
    value_0 = _read_lse(lse_0, at, inside)
    value_1 = value_0
    value_2 = value_0
    value_3 = value_0
    if COUNT > 1:
        value_1 = _read_lse(lse_1, at, inside)
    if COUNT > 2:
        value_2 = _read_lse(lse_2, at, inside)
    if COUNT > 3:
        value_3 = _read_lse(lse_3, at, inside)
    maximum = tl.maximum(tl.maximum(value_0, value_1), tl.maximum(value_2, value_3))
    guard = _guarded(maximum)
    denominator = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, D), tl.float32)
    denominator, acc = _add_subset(out_0, value_0, guard, at, dims, denominator, acc, D)
    if COUNT > 1:
        denominator, acc = _add_subset(out_1, value_1, guard, at, dims, denominator, acc, D)
    if COUNT > 2:
        denominator, acc = _add_subset(out_2, value_2, guard, at, dims, denominator, acc, D)
    if COUNT > 3:
        denominator, acc = _add_subset(out_3, value_3, guard, at, dims, denominator, acc, D)
    logit = maximum
    if HAS_SINK:
        logit = tl.load(sink + at % heads)
    factor, value = normalise(maximum, denominator, logit, float("-inf"), HAS_SINK)
    result = acc * factor[:, None]
    if out.dtype.element_ty == tl.bfloat16:
        result = to_bf16(result)
    tl.store(out + at[:, None] * D + dims[None, :], result, mask=inside[:, None])
    tl.store(lse + at, value, mask=inside)


@triton.jit(do_not_specialize=["width", "heads", "head_blocks"])
def _value_kernel(
    scores, kv, lens, sink, out, lse, scale, kv_token_stride, kv_row_stride, width, heads, head_blocks,
    HAS_SINK: tl.constexpr, HEAD_BLOCK: tl.constexpr, GROUPS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) // head_blocks).to(tl.int64)
    head = (tl.program_id(0) % head_blocks) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)
    real = head < heads
    row = token * heads + tl.minimum(head, heads - 1)
    dims = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    length = tl.minimum(tl.load(lens + token), width)
    score_rows = scores + row * width

    highest = tl.full((HEAD_BLOCK, COLUMNS), float("-inf"), tl.float32)
    for first in tl.range(0, length, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        part = tl.load(score_rows[:, None] + column[None, :], mask=(column < length)[None, :], other=0.0) * scale
        highest = tl.maximum(highest, tl.where((column < length)[None, :], part, float("-inf")))
    maximum = tl.max(highest, axis=1)
    guard = _guarded(maximum)

    sums = tl.zeros((HEAD_BLOCK, GROUPS), tl.float32)
    acc = tl.zeros((HEAD_BLOCK, GROUPS, BLOCK_D), tl.float32)
    for first in tl.range(0, length, GROUPS, num_stages=STAGES):
        column = first + tl.arange(0, GROUPS)
        inside = column < length
        column = tl.where(inside, column, 0)
        part = tl.load(score_rows[:, None] + column[None, :], mask=inside[None, :], other=0.0) * scale
        weight = tl.where(inside[None, :], tl.exp(part - guard[:, None]), 0.0)
        key_rows = kv + token * kv_token_stride + column.to(tl.int64) * kv_row_stride
        wanted = inside[None, :, None] & (dims < HEAD_DIM)[None, None, :]
        values = tl.load(key_rows[None, :, None] + dims[None, None, :], mask=wanted, other=0.0)
        sums += weight
        acc += weight[:, :, None] * values.to(tl.float32)
    logit = maximum
    if HAS_SINK:
        logit = tl.load(sink + tl.minimum(head, heads - 1))
    factor, value = normalise(maximum, tl.sum(sums, axis=1), logit, float("-inf"), HAS_SINK)
    target = out + row[:, None] * HEAD_DIM + dims[None, :]
    result = to_bf16(tl.sum(acc, axis=1) * factor[:, None])
    tl.store(target, result, mask=real[:, None] & (dims < HEAD_DIM)[None, :])
    if tl.program_id(1) == 0:
        tl.store(lse + row, value, mask=real)


def finish(
    state: SoftmaxState, sink: Tensor | None = None, empty_lse: EmptyLse = "-inf", out_heads: int | None = None
) -> tuple[Tensor, Tensor]:
    """As ``ds4_kernels.reference.attention_state.finish``."""
    return _finish([state], sink, empty_lse, out_heads)


def finish_two(
    state_a: SoftmaxState,
    state_b: SoftmaxState,
    sink: Tensor | None = None,
    empty_lse: EmptyLse = "-inf",
    out_heads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``ds4_kernels.reference.attention_state.finish_two``, in one pass over both states."""
    return _finish([state_a, state_b], sink, empty_lse, out_heads)


def merge_subsets(outs: list[Tensor], lses: list[Tensor], sink: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As ``ds4_kernels.reference.attention_state.merge_subsets``; one launch for up to four subsets."""
    check_merge(outs, lses, sink)
    while len(outs) > MERGE_COUNT:
        out, lse = _merge(outs[:MERGE_COUNT], lses[:MERGE_COUNT], None, torch.float32)
        outs, lses = [out, *outs[MERGE_COUNT:]], [lse, *lses[MERGE_COUNT:]]
    return _merge(outs, lses, sink, torch.bfloat16)


def attend_materialised(
    q: Tensor, kv: Tensor, lens: Tensor, scale: float, sink: Tensor | None = None, block_d: int | None = None
) -> tuple[Tensor, Tensor]:
    """As ``ds4_kernels.reference.attention_state.attend_materialised``: a batched GEMM, then softmax and values."""
    check_materialised(q, kv, lens, sink, block_d)
    check_kernel_tensors(q, lens, sink)
    if kv.dtype != torch.bfloat16 or (kv.shape[1] > 0 and kv.stride(2) != 1):
        raise ValueError(f"kv must be bfloat16 with dense rows, not {kv.dtype} of strides {kv.stride()}")
    tokens, heads, head_dim = q.shape
    out = torch.empty(tokens, heads, head_dim, dtype=torch.bfloat16, device=q.device)
    lse = torch.empty(tokens, heads, dtype=torch.float32, device=q.device)
    if tokens * heads == 0:
        return out, lse
    scores = _scores(q, kv)
    block = value_block(head_dim, block_d)
    head_block = min(1 if tokens <= 4 else 2 if tokens < 16 else 4, triton.next_power_of_2(heads))
    head_blocks = triton.cdiv(heads, head_block)
    _value_kernel[(tokens * head_blocks, triton.cdiv(head_dim, block))](
        scores, kv, lens, lse if sink is None else sink, out, lse, scale, kv.stride(0), kv.stride(1), kv.shape[1],
        heads, head_blocks, HAS_SINK=sink is not None, HEAD_BLOCK=head_block, GROUPS=_VALUE_TILES[head_block],
        HEAD_DIM=head_dim, BLOCK_D=block, COLUMNS=_SCORE_COLUMNS, STAGES=_VALUE_STAGES, num_warps=4,
    )  # fmt: skip
    return out, lse


def value_block(head_dim: int, requested: int | None = None) -> int:
    """BLOCK_D: the smallest of 64, 128, 256, 512 that covers ``head_dim``, or less if the caller asks for less.

    A block wider than the head would only compute on padding (kernels.md 2.2.4).
    """
    covering = next((size for size in BLOCK_DS if size >= head_dim), None)
    if covering is None:
        raise ValueError(f"head_dim {head_dim} is more than {BLOCK_DS[-1]}")
    return covering if requested is None else min(requested, covering)


def check_kernel_tensors(q: Tensor, lens: Tensor, sink: Tensor | None) -> None:
    """Raise ValueError for dtypes and layouts that the kernels do not read."""
    if q.dtype != torch.bfloat16 or not q.is_contiguous():
        raise ValueError(f"q must be contiguous bfloat16, not {q.dtype} of strides {q.stride()}")
    if lens.dtype != torch.int32 or not lens.is_contiguous():
        raise ValueError(f"lengths must be contiguous int32, not {lens.dtype} of strides {lens.stride()}")
    check_sink(sink)


def check_sink(sink: Tensor | None) -> None:
    """Raise ValueError unless the sink is dense FP32 or missing."""
    if sink is not None and (sink.dtype != torch.float32 or not sink.is_contiguous()):
        raise ValueError(f"sink must be contiguous float32, not {sink.dtype} of strides {sink.stride()}")


def check_kernel_state(state: SoftmaxState) -> None:
    """Raise ValueError unless the state is dense FP32 with heads of 512."""
    for name, tensor in zip(state._fields, state, strict=True):
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(f"state.{name} must be contiguous float32, not {tensor.dtype} of {tensor.stride()}")
    if state.accumulator.shape[2] != HEAD_DIM:
        raise ValueError(f"state.accumulator must have {HEAD_DIM} dimensions, not {state.accumulator.shape[2]}")


def _finish(
    states: list[SoftmaxState], sink: Tensor | None, empty_lse: EmptyLse, out_heads: int | None
) -> tuple[Tensor, Tensor]:
    check_finish(states, sink, empty_lse, out_heads)
    check_sink(sink)
    for state in states:
        check_kernel_state(state)
    tokens, heads, dim = states[0].accumulator.shape
    width = heads if out_heads is None else out_heads
    out = torch.empty(tokens, width, dim, dtype=torch.bfloat16, device=states[0].maximum.device)
    lse = torch.empty_like(states[0].maximum)
    rows = tokens * width
    if rows:
        _finish_kernel[(triton.cdiv(rows, ROWS),)](
            *states[0], *states[-1], lse if sink is None else sink, out, lse, EMPTY_LSE[empty_lse], rows, heads, width,
            TWO=len(states) == 2, HAS_SINK=sink is not None, ROWS=ROWS, D=dim, num_warps=4,
        )  # fmt: skip
    return out, lse


def _merge(outs: list[Tensor], lses: list[Tensor], sink: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    check_sink(sink)
    for part, value in zip(outs, lses, strict=True):
        if part.dtype not in (torch.bfloat16, torch.float32) or not part.is_contiguous() or part.shape[2] != HEAD_DIM:
            raise ValueError(
                f"outs must be dense bfloat16 or float32 [T, H, {HEAD_DIM}], not {part.dtype} {part.shape}"
            )
        if value.dtype != torch.float32 or not value.is_contiguous():
            raise ValueError(f"lses must be contiguous float32, not {value.dtype} of strides {value.stride()}")
    out = torch.empty(outs[0].shape, dtype=dtype, device=outs[0].device)
    lse = torch.empty_like(lses[0])
    if lse.numel():
        parts = [*outs, *[outs[0]] * (MERGE_COUNT - len(outs))]
        values = [*lses, *[lses[0]] * (MERGE_COUNT - len(lses))]
        _merge_kernel[(triton.cdiv(lse.numel(), ROWS),)](
            *parts, *values, lse if sink is None else sink, out, lse, lse.numel(), lse.shape[1], COUNT=len(outs),
            HAS_SINK=sink is not None, ROWS=ROWS, D=HEAD_DIM, num_warps=4,
        )  # fmt: skip
    return out, lse


def _scores(q: Tensor, kv: Tensor) -> Tensor:
    """q k^T as FP32 ``[T, H, K]``: BF16 scores would cost the softmax three digits."""
    if q.device.type == "cuda":
        return torch.bmm(q, kv.transpose(1, 2), out_dtype=torch.float32)
    return torch.bmm(q.float(), kv.float().transpose(1, 2))


def finish_compile_cases() -> list[CompileCase]:
    """Every shipped configuration of this file; ``attention_state.compile_cases`` lists them."""
    states = dict.fromkeys(("max_a", "sum_a", "acc_a", "max_b", "sum_b", "acc_b", "sink"), "*fp32")
    ints = dict.fromkeys(("rows", "heads", "out_heads"), "i32")
    finish_args = {**states, "out": "*bf16", "lse": "*fp32", "empty_lse": "fp32", **ints}
    cases = [
        CompileCase("finish_two" if two else "finish", f"rows{ROWS}{' sink' if sink else ''}", _finish_kernel, finish_args,
                    {"TWO": two, "HAS_SINK": sink, "ROWS": ROWS, "D": HEAD_DIM}, 4)
        for two in (False, True) for sink in (False, True)
    ]  # fmt: skip
    outs = dict.fromkeys([f"out_{i}" for i in range(MERGE_COUNT)], "*bf16")
    lses = dict.fromkeys([*[f"lse_{i}" for i in range(MERGE_COUNT)], "sink"], "*fp32")
    merge_args = {**outs, **lses, "out": "*bf16", "lse": "*fp32", "rows": "i32", "heads": "i32"}
    cases += [
        CompileCase("merge_subsets", f"{count} subsets{' sink' if sink else ''}", _merge_kernel, merge_args,
                    {"COUNT": count, "HAS_SINK": sink, "ROWS": ROWS, "D": HEAD_DIM}, 4)
        for count in range(1, MERGE_COUNT + 1) for sink in (False, True)
    ]  # fmt: skip
    value_args = {
        "scores": "*fp32", "kv": "*bf16", "lens": "*i32", "sink": "*fp32", "out": "*bf16", "lse": "*fp32", "scale": "fp32",
        **dict.fromkeys(("kv_token_stride", "kv_row_stride", "width", "heads", "head_blocks"), "i32"),
    }  # fmt: skip
    cases += [
        CompileCase("attend_materialised", f"h{block} d{block_d} of {dim}", _value_kernel, value_args,
                    {"HAS_SINK": dim == HEAD_DIM, "HEAD_BLOCK": block, "GROUPS": groups, "HEAD_DIM": dim, "BLOCK_D": block_d,
                     "COLUMNS": _SCORE_COLUMNS, "STAGES": _VALUE_STAGES}, 4, divisible=("kv_token_stride", "kv_row_stride"))
        for block, groups in _VALUE_TILES.items() for dim in (HEAD_DIM, 192) for block_d in BLOCK_DS
        if block_d <= value_block(dim)
    ]  # fmt: skip
    return cases
