"""The block-FP8 GEMM of ``w8a8`` and ``einsum``: two kernels, their launcher and how to compile them ahead of time.

``out[t, g, n] = sum over K blocks kb of a_scale[t, g, kb] * b_scale[g, n // 128, kb] * (a[t, g, kb] . b[g, n, kb])``

Every 128 of K gets an MMA chain of its own that starts at zero and is then added, scaled, to an FP32 sum: the scales
demand it, and Hopper's FP8 wgmma, which adds in reduced precision inside a chain, would need it anyway.
``_token_rows`` has the tokens on the row side of the MMA; ``_weight_rows`` the weights, for few tokens on Hopper,
whose wgmma takes 64 rows or more but as few as 8 columns. A step of the loop may take several blocks of K: between its
two barriers the warp groups then drift apart, and one multiplies while the other adds.

Scales are read two blocks ahead of their use, or a whole step of four in ``_weight_rows``: the pipeliner only looks after
the operands of a dot, and a scale read on the spot costs a memory latency in every block. What a step hands to the next must
be computed in it (a value only passed on keeps Triton from pipelining the loop at all), and a scale register is read before
it is loaded again (else the copy that frees it waits for the load at the end of the step).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference.w8a8 import BLOCK, as_bytes
from ds4_kernels.triton.common import dot, pow2, to_bf16
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.dependent import dependent, fetch_into_l2, let_next_start, wait
from ds4_kernels.tuning.tables import Tile

ScaleForm = Literal["fp32", "u8", "packed"]

_ALIGNMENT = 16
_EARLY_WEIGHTS = 512
"""Bytes of each weight row that a program of ``_weight_rows`` asks for before it waits."""
_PER_THREAD = 64
"""FP32 sums a thread holds at most per dot: the sums and one unscaled product then fit its 255 registers."""

_FORMS: dict[torch.dtype, ScaleForm] = {torch.float32: "fp32", torch.uint8: "u8", torch.int32: "packed"}
_POINTER = {"fp32": "*fp32", "u8": "*u8", "packed": "*i32"}

_VARYING = ["M", "group_m", "a_scale_m", "a_scale_g", "a_scale_k"]
"""Arguments that follow the number of tokens: a new value must not start a compilation."""


@triton.jit
def load_scale(scales, offsets, k_block, k_blocks, stride_k, FORM: tl.constexpr):
    """FP32 scales of one K block from FP32, E8M0 bytes or four E8M0 bytes in an int32 word (byte 0 gives zero).

    A block past the end is not read; what it gives is never used.
    """
    inside = k_block + 0 * offsets < k_blocks  # not a scalar: Triton 3.9's interpreter spreads those as integers
    if FORM == "fp32":
        return tl.load(scales + k_block * stride_k + offsets, mask=inside)
    elif FORM == "u8":
        return pow2(tl.load(scales + k_block * stride_k + offsets, mask=inside).to(tl.int32))
    else:
        word = tl.load(scales + (k_block // 4) * stride_k + offsets, mask=inside)
        return pow2((word >> ((k_block % 4) * 8)) & 0xFF)


@triton.jit
def tile_position(pid, M, N, group_m, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First row and column of a tile: ``group_m`` row blocks walk along N together, so that weight tiles stay in L2."""
    row_blocks = tl.cdiv(M, BLOCK_M)
    in_group = group_m * tl.cdiv(N, BLOCK_N)
    first = (pid // in_group) * group_m
    size = tl.minimum(row_blocks - first, group_m)
    row = first + (pid % in_group) % size
    return row * BLOCK_M, ((pid % in_group) // size) * BLOCK_N


@triton.jit
def store_tile(out, acc, mask):
    """Round to the output's dtype (BF16 or FP32) and store."""
    if out.dtype.element_ty == tl.bfloat16:
        tl.store(out, to_bf16(acc), mask=mask)
    else:
        tl.store(out, acc, mask=mask)


@triton.jit(do_not_specialize=_VARYING)
def _token_rows(
    a, a_scale, b, b_scale, out, M, N, K, group_m, a_m, a_g, a_scale_m, a_scale_g, a_scale_k, out_m, out_g,
    A_FORM: tl.constexpr, B_FORM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, HALVES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait(PDL)
    WIDTH: tl.constexpr = BLOCK_N // HALVES
    DEPTH: tl.constexpr = min(BLOCK_K, 128)
    CHUNKS: tl.constexpr = BLOCK_K // DEPTH
    first_row, first_col = tile_position(tl.program_id(0), M, N, group_m, BLOCK_M, BLOCK_N)
    g = tl.program_id(1).to(tl.int64)
    k_blocks = K // 128
    rows = first_row + tl.arange(0, BLOCK_M)
    cols = first_col + tl.arange(0, WIDTH)
    depth = tl.arange(0, DEPTH)
    # A 64-bit base per tile and 32-bit offsets inside it: half the registers and no vector adds in the loop.
    local_rows = tl.minimum(rows, M - 1) - first_row
    local_cols = tl.minimum(cols, N - 1) - first_col
    a_tile = a + g * a_g + first_row.to(tl.int64) * a_m
    b_tile = b + (g * N + first_col) * K
    a_offsets = local_rows[:, None] * a_m + depth[None, :]
    b_offsets = local_cols[None, :] * K + depth[:, None]
    a_scale_tile = a_scale + g * a_scale_g + first_row.to(tl.int64) * a_scale_m
    a_scale_rows = local_rows * a_scale_m
    b_scale_group = b_scale + g * tl.cdiv(N, 128) * k_blocks
    b_scale_row = b_scale_group + (first_col // 128) * k_blocks
    acc = tl.zeros((BLOCK_M, WIDTH), tl.float32)
    first_row_scale = load_scale(a_scale_tile, a_scale_rows, 0, k_blocks, a_scale_k, A_FORM)
    scale_now = first_row_scale * load_scale(b_scale_row, 0, 0, k_blocks, 1, B_FORM)
    second = DEPTH // 128
    row_next = load_scale(a_scale_tile, a_scale_rows, second, k_blocks, a_scale_k, A_FORM)
    col_next = load_scale(b_scale_row, 0, second, k_blocks, 1, B_FORM)
    if HALVES == 2:
        cols_2 = cols + WIDTH
        b_offsets_2 = (tl.minimum(cols_2, N - 1) - first_col)[None, :] * K + depth[:, None]
        b_scale_row_2 = b_scale_group + (tl.minimum(first_col + WIDTH, N - 1) // 128) * k_blocks
        acc_2 = tl.zeros((BLOCK_M, WIDTH), tl.float32)
        scale_now_2 = first_row_scale * load_scale(b_scale_row_2, 0, 0, k_blocks, 1, B_FORM)
        col_next_2 = load_scale(b_scale_row_2, 0, second, k_blocks, 1, B_FORM)
    for step in range(0, K // BLOCK_K):
        for chunk in tl.static_range(CHUNKS):
            later = (step * CHUNKS + chunk + 2) * DEPTH // 128
            scale_next = row_next * col_next
            if HALVES == 2:
                scale_next_2 = row_next * col_next_2
                col_next_2 = load_scale(b_scale_row_2, 0, later, k_blocks, 1, B_FORM)
            row_next = load_scale(a_scale_tile, a_scale_rows, later, k_blocks, a_scale_k, A_FORM)
            col_next = load_scale(b_scale_row, 0, later, k_blocks, 1, B_FORM)
            x = tl.load(a_tile + a_offsets)
            w = tl.load(b_tile + b_offsets)
            acc += dot(x, w, tl.zeros((BLOCK_M, WIDTH), tl.float32)) * scale_now[:, None]
            if HALVES == 2:
                w_2 = tl.load(b_tile + b_offsets_2)
                acc_2 += dot(x, w_2, tl.zeros((BLOCK_M, WIDTH), tl.float32)) * scale_now_2[:, None]
                scale_now_2 = scale_next_2
            scale_now = scale_next
            a_tile += DEPTH
            b_tile += DEPTH
    out_tile = out + g * out_g + first_row.to(tl.int64) * out_m + (local_rows[:, None] * out_m + cols[None, :])
    store_tile(out_tile, acc, (rows < M)[:, None] & (cols < N)[None, :])
    if HALVES == 2:
        store_tile(out_tile + WIDTH, acc_2, (rows < M)[:, None] & (cols_2 < N)[None, :])


@triton.jit
def _add_block(
    acc, token_scale, weight_scale, a_tile, b_tile, a_offsets, b_offsets, present, block, k_blocks,
    a_scale_tile, a_scale_rows, a_scale_k, b_scale_row, A_FORM: tl.constexpr, B_FORM: tl.constexpr,
):  # fmt: skip
    """(``acc`` plus one K block's product times its scales, the two scales of the later block ``block``)."""
    scale = token_scale * weight_scale
    token_scale = load_scale(a_scale_tile, a_scale_rows, block, k_blocks, a_scale_k, A_FORM)
    weight_scale = load_scale(b_scale_row, 0, block, k_blocks, 1, B_FORM)
    w = tl.load(b_tile + b_offsets)
    x = tl.load(a_tile + a_offsets, mask=present, other=0.0)
    acc += dot(w, x, tl.zeros(acc.shape, tl.float32)) * scale[None, :]
    return acc, token_scale, weight_scale


@triton.jit(do_not_specialize=_VARYING)
def _weight_rows(
    a, a_scale, b, b_scale, out, M, N, K, group_m, a_m, a_g, a_scale_m, a_scale_g, a_scale_k, out_m, out_g,
    A_FORM: tl.constexpr, B_FORM: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if EARLY > 0:
        _, first = tile_position(tl.program_id(0), M, N, group_m, BLOCK_M, BLOCK_N)
        row = tl.minimum(first + tl.arange(0, BLOCK_N), N - 1)
        lines = tl.minimum(tl.arange(0, EARLY // 128) * 128, K - 128)[None, :]
        fetch_into_l2((b + (tl.program_id(1).to(tl.int64) * N + row) * K)[:, None] + lines, PDL)
    let_next_start(PDL)  # all programs are there at once, and most of a multiprocessor's shared memory is one's own
    wait(PDL)
    CHUNKS: tl.constexpr = BLOCK_K // 128
    tl.static_assert((CHUNKS == 1) | (CHUNKS == 4), "a step has one block of K or four")
    first_token, first_weight = tile_position(tl.program_id(0), M, N, group_m, BLOCK_M, BLOCK_N)
    g = tl.program_id(1).to(tl.int64)
    k_blocks = K // 128
    tokens = first_token + tl.arange(0, BLOCK_M)
    weights = first_weight + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, 128)
    local_tokens = tl.minimum(tokens, M - 1) - first_token
    local_weights = tl.minimum(weights, N - 1) - first_weight
    a_tile = a + g * a_g + first_token.to(tl.int64) * a_m
    b_tile = b + (g * N + first_weight) * K
    x_at = local_tokens[None, :] * a_m + depth[:, None]
    w_at = local_weights[:, None] * K + depth[None, :]
    a_scale_tile = a_scale + g * a_scale_g + first_token.to(tl.int64) * a_scale_m
    scale_at = local_tokens * a_scale_m
    b_scale_row = b_scale + (g * tl.cdiv(N, 128) + first_weight // 128) * k_blocks
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    # A whole step ahead: with the multiprocessor's loads all in flight a scale takes longer than two blocks' products.
    t0 = load_scale(a_scale_tile, scale_at, 0, k_blocks, a_scale_k, A_FORM)
    s0 = load_scale(b_scale_row, 0, 0, k_blocks, 1, B_FORM)
    if CHUNKS == 4:
        t1 = load_scale(a_scale_tile, scale_at, 1, k_blocks, a_scale_k, A_FORM)
        s1 = load_scale(b_scale_row, 0, 1, k_blocks, 1, B_FORM)
        t2 = load_scale(a_scale_tile, scale_at, 2, k_blocks, a_scale_k, A_FORM)
        s2 = load_scale(b_scale_row, 0, 2, k_blocks, 1, B_FORM)
        t3 = load_scale(a_scale_tile, scale_at, 3, k_blocks, a_scale_k, A_FORM)
        s3 = load_scale(b_scale_row, 0, 3, k_blocks, 1, B_FORM)
    present = (tokens < M)[None, :]
    for step in range(0, K // BLOCK_K):
        later = (step + 1) * CHUNKS
        acc, t0, s0 = _add_block(
            acc, t0, s0, a_tile, b_tile, x_at, w_at, present, later, k_blocks, a_scale_tile, scale_at, a_scale_k,
            b_scale_row, A_FORM, B_FORM,
        )  # fmt: skip
        if CHUNKS == 4:
            acc, t1, s1 = _add_block(
                acc, t1, s1, a_tile + 128, b_tile + 128, x_at, w_at, present, later + 1, k_blocks, a_scale_tile, scale_at,
                a_scale_k, b_scale_row, A_FORM, B_FORM,
            )  # fmt: skip
            acc, t2, s2 = _add_block(
                acc, t2, s2, a_tile + 256, b_tile + 256, x_at, w_at, present, later + 2, k_blocks, a_scale_tile, scale_at,
                a_scale_k, b_scale_row, A_FORM, B_FORM,
            )  # fmt: skip
            acc, t3, s3 = _add_block(
                acc, t3, s3, a_tile + 384, b_tile + 384, x_at, w_at, present, later + 3, k_blocks, a_scale_tile, scale_at,
                a_scale_k, b_scale_row, A_FORM, B_FORM,
            )  # fmt: skip
        a_tile += BLOCK_K
        b_tile += BLOCK_K
    out_tile = out + g * out_g + first_token.to(tl.int64) * out_m + (local_tokens[None, :] * out_m + weights[:, None])
    store_tile(out_tile, acc, present & (weights < N)[:, None])


def launch(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out: Tensor, tile: Tile) -> None:
    """Write out ``[T, G, N]`` (N innermost) from a ``[T, G, K]`` (K innermost), b ``[G, N, K]`` and their scales.

    Shapes and dtypes are checked by the callers. Raises ValueError for strides that the kernels cannot follow.
    """
    tokens, groups, k = a.shape
    n = b.shape[1]
    if tokens == 0 or n == 0:
        return
    check_strides(a, b, out)
    tile = shallow(tile) if k % tile.block_k else tile
    a_scale, b_scale = as_bytes(a_scale), as_bytes(b_scale).contiguous()
    grid = (triton.cdiv(tokens, tile.block_m) * triton.cdiv(n, tile.block_n), groups)
    kernel = _weight_rows if tile.swap else _token_rows
    kernel[grid](
        a, a_scale, b, b_scale, out, tokens, n, k, tile.group_m, a.stride(0), a.stride(1),
        a_scale.stride(0), a_scale.stride(1), a_scale.stride(2), out.stride(0), out.stride(1),
        **_constexprs(tile, _FORMS[a_scale.dtype], _FORMS[b_scale.dtype]),
        num_warps=tile.num_warps, num_stages=tile.num_stages, **dependent(a.device),
    )  # fmt: skip


def shallow(tile: Tile) -> Tile:
    """The tile with one scale block of K a step: it takes any K."""
    return dataclasses.replace(tile, block_k=min(tile.block_k, BLOCK))


def with_shallow(tiles: Iterable[Tile]) -> list[Tile]:
    """The tiles, then what ``launch`` makes of them for a K that they do not divide."""
    listed = list(tiles)
    keys = {tile.compiled_key for tile in listed}
    extra = {tile.compiled_key: tile for tile in map(shallow, listed) if tile.compiled_key not in keys}
    return listed + list(extra.values())


def check_strides(a: Tensor, b: Tensor, out: Tensor) -> None:
    """ValueError unless K and N are innermost, the weights contiguous and the activation's rows 16-byte aligned."""
    if a.stride(-1) != 1 or any(stride % _ALIGNMENT for stride in a.stride()[:-1]):
        raise ValueError(f"a must have K innermost and other strides in multiples of 16, not {a.stride()}")
    if not b.is_contiguous():
        raise ValueError(f"b must be contiguous, not of strides {b.stride()}")
    if out.stride(-1) != 1:
        raise ValueError(f"out must have N innermost, not strides {out.stride()}")


def compile_case(
    op: str, tile: Tile, tiles: Literal["sm12x", "sm90"], a_form: ScaleForm, b_form: ScaleForm, out_type: str = "*bf16"
) -> CompileCase:
    """The case of one tile with one pair of scale forms."""
    signature = {
        "a": "*fp8e4nv", "a_scale": _POINTER[a_form], "b": "*fp8e4nv", "b_scale": _POINTER[b_form], "out": out_type,
        **dict.fromkeys(("M", "N", "K", "group_m", "a_m", "a_g", "a_scale_m", "a_scale_g", "a_scale_k"), "i32"),
        "out_m": "i32", "out_g": "i32",
    }  # fmt: skip
    return CompileCase(
        op=op,
        config=f"{tile} {a_form} {b_form} {out_type}",
        kernel=_weight_rows if tile.swap else _token_rows,
        signature=signature,
        constexprs=_constexprs(tile, a_form, b_form) | {"PDL": True},
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        mma="e4m3",
        # 128 sums a thread and two halves of 64 products in flight: ptxas overlaps them at the price of some spills.
        spill_free=tile.block_m * tile.block_n < 2 * _PER_THREAD * 32 * tile.num_warps,
        tiles=tiles,
        divisible=("N", "K", "a_m", "a_g", "out_m", "out_g"),
    )


def _constexprs(tile: Tile, a_form: ScaleForm, b_form: ScaleForm) -> dict[str, Any]:
    sizes: dict[str, Any] = {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
    if tile.swap:
        sizes["EARLY"] = _EARLY_WEIGHTS
    else:
        per_thread = tile.block_m * tile.block_n // (32 * tile.num_warps)
        sizes["HALVES"] = 2 if per_thread > _PER_THREAD else 1
    return {"A_FORM": a_form, "B_FORM": b_form, **sizes}
