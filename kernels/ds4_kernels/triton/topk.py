"""Per-row top-k. Many rows: programs take rows in turn. Few rows: a row is split over several programs, each keeps its
piece's k best, and a second kernel selects among those."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.triton.arch import num_sms
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.topk_select import LARGEST_K, THREADS, buffer_capacity, select

PROGRAMS_PER_SM = 8
REGISTERS = 64
"""Of each of a program's 128 threads: eight programs are resident, and the rest of the rows wait in their loops. The
compiler keeps a few pointers that live across the loops in local memory for it, none inside the loops over a row."""
PIECE = 4096
"""A row is not split finer than this."""
BOUNDS, LENGTHS, LAST_LENGTHS = 0, 1, 2
"""Where a row's length comes from: starts and ends; one length a row; the length of a request's last row."""


@triton.jit
def _visible(starts, ends, row, columns, next_n, KIND: tl.constexpr):
    """(start, length) of a row, clamped to the columns."""
    if KIND == 0:
        start = tl.minimum(tl.maximum(tl.load(starts + row), 0), columns)
        end = tl.load(ends + row)
    else:
        start = row * 0
        end = tl.load(ends + row) if KIND == 1 else tl.load(ends + row // next_n) - (next_n - 1 - row % next_n)
    return start, tl.maximum(tl.minimum(end, columns) - start, 0)


@triton.jit
def _piece_width(length, pieces, PIECE: tl.constexpr):
    return (tl.maximum(tl.cdiv(length, pieces), PIECE) + 3) & -4


@triton.jit
def _store_all(out, length, K: tl.constexpr, WIDTH: tl.constexpr):
    """0 .. length-1, then -1."""
    slot = tl.arange(0, WIDTH)
    tl.store(out + slot, tl.where(slot < length, slot, -1), mask=slot < K)


@triton.jit(do_not_specialize=["capacity", "stride", "items", "columns", "next_n", "pieces"])
def rows_kernel(
    logits, starts, ends, out_value, out_index, values, indices, capacity, stride, items, columns, next_n, pieces,
    KIND: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr, PIECE: tl.constexpr, CAPACITY: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """Whole rows to ``out_index [rows, K]``, or (SPLIT) pieces to candidates ``[rows, pieces, ROW]``."""
    ROW: tl.constexpr = (K + 3) // 4 * 4
    program = tl.program_id(0)
    values += program * 2 * capacity
    indices += program * 2 * capacity
    for item in range(program, items, tl.num_programs(0)):
        row = item // pieces
        start, length = _visible(starts, ends, row, columns, next_n, KIND)
        base = row.to(tl.int64) * stride
        if SPLIT:
            width = _piece_width(length, pieces, PIECE)
            piece = item % pieces
            offset = piece * width
            count = tl.minimum(length - offset, width)
            target = (row.to(tl.int64) * pieces + piece) * ROW
            to_value, to_index = out_value + target, out_index + target
            selected = (length > K) & (count > 0)  # a shorter row is written by the second kernel alone
        else:
            offset = 0
            count = length
            to_value, to_index = out_value, out_index + row.to(tl.int64) * K
            selected = True
        if selected:
            first = start + offset
            if count > K:
                select(
                    logits + base + first, indices, count, values, indices, capacity, to_value, to_index, offset,
                    K, False, SPLIT, CAPACITY,
                )  # fmt: skip
            elif SPLIT:
                slot = tl.arange(0, WIDTH)
                value = tl.load(logits + base + first + slot, mask=slot < count, other=0.0)
                tl.store(to_value + slot, tl.where(slot < count, value, float("nan")), mask=slot < K)
                tl.store(to_index + slot, tl.where(slot < count, offset + slot, -1), mask=slot < K)
            else:
                _store_all(to_index, count, K, WIDTH)
            if SPLIT and ROW > K:
                pad = tl.arange(0, 4)
                tl.store(to_value + K + pad, tl.full((4,), float("nan"), tl.float32), mask=pad < ROW - K)


@triton.jit(do_not_specialize=["capacity", "stride", "rows", "columns", "next_n", "pieces"])
def merge_kernel(
    candidate_value, candidate_index, starts, ends, out, values, indices, capacity, stride, rows, columns, next_n, pieces,
    KIND: tl.constexpr, K: tl.constexpr, WIDTH: tl.constexpr, PIECE: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """The k best of a row's candidates, one program per row."""
    ROW: tl.constexpr = (K + 3) // 4 * 4
    row = tl.program_id(0)
    _, length = _visible(starts, ends, row, columns, next_n, KIND)
    to_index = out + row.to(tl.int64) * K
    if length <= K:
        _store_all(to_index, length, K, WIDTH)
    else:
        values += row * 2 * capacity
        indices += row * 2 * capacity
        used = tl.cdiv(length, _piece_width(length, pieces, PIECE))
        base = row.to(tl.int64) * stride
        select(
            candidate_value + base, candidate_index + base, used * ROW, values, indices, capacity, candidate_value, to_index,
            0, K, True, False, CAPACITY,
        )  # fmt: skip


def topk_prefill(logits: Tensor, row_starts: Tensor, row_ends: Tensor, k: int, out: Tensor | None = None) -> Tensor:
    """See ``ds4_kernels.reference.topk``. k at most 3072."""
    rows = logits.shape[0]
    if row_starts.shape != (rows,) or row_ends.shape != (rows,):
        raise ValueError(f"need {rows} row starts and ends, got {tuple(row_starts.shape)} and {tuple(row_ends.shape)}")
    return _select(logits, row_starts, row_ends, BOUNDS, 1, k, out)


def topk_decode(logits: Tensor, next_n: int, seq_lens: Tensor, k: int, out: Tensor | None = None) -> Tensor:
    """See ``ds4_kernels.reference.topk``. k at most 3072."""
    rows = logits.shape[0]
    if (seq_lens.dim() == 2 and seq_lens.shape[1] != next_n) or seq_lens.shape[0] * next_n != rows:
        raise ValueError(f"seq_lens {tuple(seq_lens.shape)} and next_n {next_n} do not fit {rows} rows")
    return _select(logits, seq_lens, seq_lens, LENGTHS if seq_lens.dim() == 2 else LAST_LENGTHS, next_n, k, out)


def _select(logits: Tensor, starts: Tensor, ends: Tensor, kind: int, next_n: int, k: int, out: Tensor | None) -> Tensor:
    rows, columns = logits.shape
    device = logits.device
    if out is None:
        out = torch.empty(rows, k, dtype=torch.int32, device=device)
    _check(logits, starts, ends, k, out)
    if not rows:
        return out
    pieces = row_pieces(rows, columns, device)
    programs = min(rows * pieces, PROGRAMS_PER_SM * num_sms(device)) if pieces == 1 else rows * pieces
    capacity = buffer_capacity(k)
    values = torch.empty(programs, 2, capacity, dtype=torch.float32, device=device)
    indices = torch.empty(programs, 2, capacity, dtype=torch.int32, device=device)
    constexprs = _constexprs(kind, k)
    to_value, to_index = values, out
    if pieces > 1:
        candidates = (rows, pieces, -(-k // 4) * 4)
        to_value = torch.empty(candidates, dtype=torch.float32, device=device)
        to_index = torch.empty(candidates, dtype=torch.int32, device=device)
    rows_kernel[(programs,)](
        logits, starts, ends, to_value, to_index, values, indices, capacity, logits.stride(0), rows * pieces, columns, next_n,
        pieces,
        **constexprs, SPLIT=pieces > 1, num_warps=THREADS // 32, num_stages=1, maxnreg=REGISTERS,
    )  # fmt: skip
    if pieces > 1:
        merge_kernel[(rows,)](
            to_value, to_index, starts, ends, out, values, indices, capacity, to_value.stride(0), rows, columns, next_n,
            pieces,
            **constexprs, num_warps=THREADS // 32, num_stages=1, maxnreg=REGISTERS,
        )  # fmt: skip
    return out


def row_pieces(rows: int, columns: int, device: torch.device) -> int:
    """Programs per row: 1 where the rows alone fill the device, else up to two programs per multiprocessor."""
    sms = num_sms(device)
    return 1 if rows >= sms else max(1, min(triton.cdiv(columns, PIECE), 2 * sms // rows))


def _constexprs(kind: int, k: int) -> dict[str, int]:
    return {
        "KIND": kind, "K": k, "WIDTH": max(4, triton.next_power_of_2(k)), "PIECE": PIECE,
        "CAPACITY": buffer_capacity(k),
    }  # fmt: skip


def _check(logits: Tensor, starts: Tensor, ends: Tensor, k: int, out: Tensor) -> None:
    if logits.dtype != torch.float32 or logits.stride(1) != 1:
        raise ValueError(f"logits must be float32 with dense rows, got {logits.dtype}, strides {logits.stride()}")
    if not 1 <= k <= LARGEST_K:
        raise ValueError(f"k={k} must be in 1 .. {LARGEST_K}")
    for bound in (starts, ends):
        if bound.dtype != torch.int32 or not bound.is_contiguous():
            raise ValueError(f"row bounds and lengths must be contiguous int32, got {bound.dtype}")
    if out.shape != (logits.shape[0], k) or out.dtype != torch.int32 or not out.is_contiguous():
        raise ValueError(f"out must be contiguous int32 [{logits.shape[0]}, {k}], got {out.dtype} {tuple(out.shape)}")


def compile_cases() -> list[CompileCase]:
    """Flash (k = 512), Pro (k = 1024) and a larger buffer (k = 2048): the forms of lengths, whole and split rows."""
    cases = []
    for k in (512, 1024, 2048):
        for kind, op in ((BOUNDS, "topk_prefill"), (LENGTHS, "topk_decode"), (LAST_LENGTHS, "topk_decode")):
            cases += [_rows_case(op, kind, k, split) for split in (False, True)]
            cases.append(_merge_case(op, kind, k))
    return cases


def _rows_case(op: str, kind: int, k: int, split: bool) -> CompileCase:
    pointers = {"logits": "*fp32", **_POINTERS, "out_value": "*fp32", "out_index": "*i32"}
    ints = dict.fromkeys(("capacity", "stride", "items", "columns", "next_n", "pieces"), "i32")
    return _case(op, f"rows k{k} kind{kind} split {split}", rows_kernel, pointers | ints, kind, k, SPLIT=split)


def _merge_case(op: str, kind: int, k: int) -> CompileCase:
    pointers = {"candidate_value": "*fp32", "candidate_index": "*i32", **_POINTERS, "out": "*i32"}
    ints = dict.fromkeys(("capacity", "stride", "rows", "columns", "next_n", "pieces"), "i32")
    return _case(op, f"merge k{k} kind{kind}", merge_kernel, pointers | ints, kind, k)


_POINTERS = {"starts": "*i32", "ends": "*i32", "values": "*fp32", "indices": "*i32"}


def _case(op: str, config: str, kernel: Any, signature: dict[str, str], kind: int, k: int, **more: bool) -> CompileCase:
    """The gate compiles without ``REGISTERS``; then a stack would say nothing about what runs."""
    return CompileCase(op, config, kernel, signature, _constexprs(kind, k) | more, THREADS // 32, spill_free=False)
