"""MXFP4 weights times FP8 activations by block-scaled MMA (SM12x: ``mxf8f6f4``), for many tokens.

``tl.dot_scaled`` of e4m3 by e2m1 is emulated without a word, e4m3 by e4m3 is not; and an E2M1 code moves into an e4m3
code by bits alone: ``(n & 8) << 4 | (n & 7) << 2`` is the value times 2^-6 for all sixteen. The 6 goes to the E8M0 scale
of the weights. An activation's scale covers 128 elements and is given to its four groups of 32. So the numbers are those
of ``w4a8`` exactly, at twice the rate of BF16 MMA. Elsewhere than on SM12x Triton emulates the same source in BF16.

Passes as in ``mxfp4_grouped``; operands keep the order of k, and the SwiGLU's result stays FP8.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.triton import mxfp4_values as values
from ds4_kernels.triton.common import INTERPRETED, pow2
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.mxfp4_grouped import block_columns, block_columns_for, group
from ds4_kernels.triton.mxfp4_values import GROUP, quantize, swiglu

INPUT_GROUPS = 8

# Tiles for SM12x alone: columns of a block -> tile.
_W13_TILES = {
    16: {"BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
    32: {"BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
    64: {"BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
}
_W2_TILES = {
    16: {"BLOCK_M": 128, "BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
    32: {"BLOCK_M": 128, "BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
    64: {"BLOCK_M": 128, "BLOCK_K": 128, "STAGES": 3, "num_warps": 8},
}

# $0: e4m3 codes of the low nibbles of the four bytes in $2; $1: of the high nibbles. Each is the value times 2^-6.
_UNPACK = tl.constexpr(
    """{ .reg .b32 u, v;
    shl.b32 u, $2, 4;
    and.b32 u, u, 0x80808080;
    shl.b32 v, $2, 2;
    and.b32 v, v, 0x1C1C1C1C;
    or.b32 $0, u, v;
    and.b32 u, $2, 0x80808080;
    shr.b32 v, $2, 2;
    and.b32 v, v, 0x1C1C1C1C;
    or.b32 $1, u, v; }"""
)


@triton.jit
def _unpack(packed):
    """Weight bytes ``[M, B]`` to e4m3 ``[M, 2 B]`` in the order of k, each the value times 2^-6."""
    if INTERPRETED:
        low = ((packed & 0x08) << 4) | ((packed & 0x07) << 2)
        high = (packed & 0x80) | ((packed >> 2) & 0x1C)
    else:
        low, high = tl.inline_asm_elementwise(
            _UNPACK, "=r,=r,r", [packed], dtype=(tl.uint8, tl.uint8), is_pure=True, pack=4
        )
    joined = tl.reshape(tl.join(low, high), (packed.shape[0], 2 * packed.shape[1]))
    return joined.to(tl.float8e4nv, bitcast=True)


@triton.jit
def _scaled_dot(w, w_scale, x, x_scale, acc):
    """acc + w ``[M, K]`` x^T ``[K, N]`` with E8M0 scales ``[M, K / 32]`` and ``[N, K / 32]``; x is e4m3 ``[N, K]``."""
    if INTERPRETED:
        left, right = w.to(tl.float32) * _spread(w_scale), x.to(tl.float32) * _spread(x_scale)
        return acc + tl.dot(left, tl.trans(right), input_precision="ieee")
    else:
        return tl.dot_scaled(w, w_scale, "e4m3", tl.trans(x), x_scale, "e4m3", acc)


@triton.jit
def _spread(scale):
    """E8M0 ``[R, G]`` as FP32 ``[R, 32 G]``."""
    rows: tl.constexpr = scale.shape[0]
    groups: tl.constexpr = scale.shape[1]
    wide = tl.broadcast_to(pow2(scale.to(tl.int32))[:, :, None], (rows, groups, 32))
    return tl.reshape(wide, (rows, groups * 32))


@triton.jit
def _multiply(
    x, x_scale, w, s, expert, row, x_row, live,
    ROWS: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """FP32 ``[BLOCK_M, BLOCK_N]``: rows of an expert's ``[ROWS, K]`` times rows of x e4m3 ``[.., K]``.

    w uint8 ``[E, ROWS, K / 2]``, s uint8 ``[E, ROWS, K / 32]``, x_scale uint8 ``[.., K / 128]``.
    """
    byte = tl.arange(0, BLOCK_K // 2)
    block = tl.arange(0, BLOCK_K // 32)
    w_at = w + expert.to(tl.int64) * (ROWS * (K // 2)) + row[:, None] * (K // 2) + byte[None, :]
    s_at = s + expert.to(tl.int64) * (ROWS * (K // 32)) + row[:, None] * (K // 32) + block[None, :]
    x_at = x + x_row.to(tl.int64)[:, None] * K + tl.arange(0, BLOCK_K)[None, :]
    x_scale_at = x_scale + x_row.to(tl.int64)[:, None] * (K // GROUP) + (block // 4)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in tl.range(0, K // BLOCK_K, num_stages=STAGES):
        packed = tl.load(w_at + step * (BLOCK_K // 2), eviction_policy="evict_first")
        w_scale = tl.minimum(tl.load(s_at + step * (BLOCK_K // 32)).to(tl.int32) + 6, 254).to(tl.uint8)
        tile = tl.load(x_at + step * BLOCK_K, mask=live[:, None], other=0.0)
        scale = tl.load(x_scale_at + step * (BLOCK_K // GROUP), mask=live[:, None], other=127)
        acc = _scaled_dot(_unpack(packed), w_scale, tile, scale, acc)
    return acc


@triton.jit
def _input_kernel(x, q, scales, D: tl.constexpr, BLOCK_GROUPS: tl.constexpr):
    """x BF16 ``[T, D]`` to e4m3 ``[T, D]`` and E8M0 ``[T, D / 128]``."""
    per_token: tl.constexpr = (D // GROUP + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    token = (tl.program_id(0) // per_token).to(tl.int64)
    group = (tl.program_id(0) % per_token) * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    at = token * D + group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside = group < D // GROUP
    codes, byte = quantize(tl.load(x + at, mask=inside[:, None], other=0.0).to(tl.float32))
    tl.store(q + at, codes, mask=inside[:, None])
    tl.store(scales + token * (D // GROUP) + group, byte.to(tl.uint8), mask=inside)


@triton.jit(do_not_specialize=["blocks"])
def _w13_kernel(
    x, x_scale, w, s, order, sorted_weights, plan, hidden, hidden_scale, limit, blocks,
    INTER: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """hidden e4m3 ``[T k, I]`` and its E8M0 ``[T k, I / 128]``: 128 columns of it for one block of pairs."""
    tiles: tl.constexpr = INTER // GROUP
    tile = tl.program_id(0) % tiles
    block = tl.program_id(0) // tiles
    expert = tl.load(plan + block)
    if expert < 0:
        return
    pair, live = block_columns(order, plan, block, blocks, BLOCK_N)
    m = tl.arange(0, 2 * GROUP)
    acc = _multiply(
        x, x_scale, w, s, expert, (m // GROUP) * INTER + tile * GROUP + m % GROUP, pair // SLOTS, live,
        2 * INTER, K, 2 * GROUP, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    gate, up = tl.split(tl.permute(tl.reshape(acc, (2, GROUP, BLOCK_N)), (1, 2, 0)))
    weight = tl.load(sorted_weights + tl.load(plan + blocks + block) + tl.arange(0, BLOCK_N), mask=live, other=0.0)
    codes, byte = quantize(tl.trans(swiglu(gate, up, limit)) * weight[:, None])
    wide = pair.to(tl.int64)
    tl.store(hidden + (wide[:, None] * INTER + tile * GROUP + tl.arange(0, GROUP)[None, :]), codes, mask=live[:, None])
    tl.store(hidden_scale + wide * tiles + tile, byte.to(tl.uint8), mask=live)


@triton.jit(do_not_specialize=["blocks"])
def _w2_kernel(
    hidden, hidden_scale, w, s, order, plan, parts, blocks,
    D: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """parts FP32 ``[T k, D]``: BLOCK_M columns of it for one block of pairs."""
    tiles: tl.constexpr = D // BLOCK_M
    tile = tl.program_id(0) % tiles
    block = tl.program_id(0) // tiles
    expert = tl.load(plan + block)
    if expert < 0:
        return
    pair, live = block_columns(order, plan, block, blocks, BLOCK_N)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = _multiply(hidden, hidden_scale, w, s, expert, row, pair, live, D, K, BLOCK_M, BLOCK_N, BLOCK_K, STAGES)
    tl.store(parts + pair.to(tl.int64)[:, None] * D + row[None, :], tl.trans(acc), mask=live[:, None])


def experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    w13: Tensor,
    s13: Tensor,
    w2: Tensor,
    s2: Tensor,
    limit: float,
    out: Tensor,
) -> None:
    """Fill out ``[T, D]``, mode ``w4a8``; the arguments as in ``mxfp4_moe``."""
    tokens, topk = ids.shape
    pairs, D, inter, E, device = tokens * topk, x.shape[1], s2.shape[2] * 32, w13.shape[0], x.device
    block_n = block_columns_for(pairs, E, "sm12x")
    order, sorted_weights, plan = group(ids, weights, E, block_n)
    blocks = plan.shape[1]

    q = torch.empty((tokens, D), dtype=torch.float8_e4m3fn, device=device)
    scales = torch.empty((tokens, D // 128), dtype=torch.uint8, device=device)
    _input_kernel[(tokens * triton.cdiv(D // 128, INPUT_GROUPS),)](
        x, q, scales, D=D, BLOCK_GROUPS=INPUT_GROUPS, num_warps=4
    )

    hidden = torch.empty((pairs, inter), dtype=torch.float8_e4m3fn, device=device)
    hidden_scales = torch.empty((pairs, inter // 128), dtype=torch.uint8, device=device)
    _w13_kernel[(blocks * (inter // 128),)](
        q, scales, w13, s13, order, sorted_weights, plan, hidden, hidden_scales, limit, blocks,
        INTER=inter, K=D, SLOTS=topk, BLOCK_N=block_n, num_stages=1, **_W13_TILES[block_n],
    )  # fmt: skip

    tile = _W2_TILES[block_n]
    parts = torch.empty((1, pairs, D), dtype=torch.float32, device=device)
    _w2_kernel[(blocks * (D // tile["BLOCK_M"]),)](
        hidden, hidden_scales, w2, s2, order, plan, parts, blocks, D=D, K=inter, BLOCK_N=block_n, num_stages=1, **tile
    )
    values.combine(parts, ids, out, E)


def compile_cases() -> list[CompileCase]:
    """The quantisation of the input and both projections of V4-Flash for every block size."""
    cases = [
        CompileCase(
            op="mxfp4_moe",
            config="native input",
            kernel=_input_kernel,
            signature={"x": "*bf16", "q": "*fp8e4nv", "scales": "*u8"},
            constexprs={"D": 4096, "BLOCK_GROUPS": INPUT_GROUPS},
            num_warps=4,
        )
    ]
    for block_n in _W13_TILES:
        cases += [_w13_case(block_n), _w2_case(block_n)]
    return cases


def _w13_case(block_n: int) -> CompileCase:
    options = dict(_W13_TILES[block_n])
    warps = options.pop("num_warps")
    return CompileCase(
        op="mxfp4_moe",
        config=f"native w13 n{block_n}",
        kernel=_w13_kernel,
        signature={
            "x": "*fp8e4nv", "x_scale": "*u8", "w": "*u8", "s": "*u8", "order": "*i32", "sorted_weights": "*fp32",
            "plan": "*i32", "hidden": "*fp8e4nv", "hidden_scale": "*u8", "limit": "fp32", "blocks": "i32",
        },
        constexprs={"INTER": 2048, "K": 4096, "SLOTS": 6, "BLOCK_N": block_n, **options},
        num_warps=warps,
        mma="mxf8f6f4",
    )  # fmt: skip


def _w2_case(block_n: int) -> CompileCase:
    options = dict(_W2_TILES[block_n])
    warps = options.pop("num_warps")
    return CompileCase(
        op="mxfp4_moe",
        config=f"native w2 n{block_n}",
        kernel=_w2_kernel,
        signature={
            "hidden": "*fp8e4nv", "hidden_scale": "*u8", "w": "*u8", "s": "*u8", "order": "*i32", "plan": "*i32",
            "parts": "*fp32", "blocks": "i32",
        },
        constexprs={"D": 4096, "K": 2048, "BLOCK_N": block_n, **options},
        num_warps=warps,
        mma="mxf8f6f4",
    )  # fmt: skip
