"""What the MXFP4 expert kernels share: weights unpacked in registers, activations as the tensor cores see them.

Weights are read as 16-bit words of four E2M1 codes, k = 4 c .. 4 c + 3, lowest nibble first. Nibble p of all words is
plane p, one operand tile of its own; putting the planes back into the order of k would cost a shuffle per element. So
activations are stored in planes too: in every group of 128, the 32 elements with k % 4 = 0, then those with 1, 2, 3.
A 32-bit register holds two neighbouring words, and nibble p of both is one BF16 pair of the MMA operand.

A code ``s e e m`` becomes a BF16 pattern with sign s, exponent field 0..3 and first mantissa bit m: its value times
2^-126, also for the subnormal 0.5. One exact multiplication by ``scale * 2^126`` would finish it; the factor carries
2^-32 besides, so that it stays a BF16 number for scales up to 2^33, and sums of products are multiplied by 2^32.
Exact for scales from 2^-94 to 2^33 (E8M0 33 .. 160); larger scales count as 2^33.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.triton.common import (
    E4M3_MAX,
    FP8_AMAX_FLOOR,
    INTERPRETED,
    dot,
    e4m3_to_bf16,
    inverse_pow2,
    pow2,
    scale_byte,
    to_bf16,
    to_e4m3,
)
from ds4_kernels.triton.compile_case import CompileCase

GROUP = tl.constexpr(128)
"""Elements that four planes hold together, and of one FP8 activation scale."""
PLANE = tl.constexpr(32)
PLANES = tl.constexpr(4)
INPUT_GROUPS = 8
COMBINE_BLOCK = 512

OPERAND_SCALE = tl.constexpr(2.0**32)
FACTOR_BIAS = tl.constexpr(126 - 32)
FACTOR_MAX = tl.constexpr(254)

# $0: the BF16 pair of one nibble of the two words in $1, $2: their BF16 factors. The sign goes to bit 15 of its half
# and e e m to bits 8 .. 6. Where both move left, one multiplication by (2^a + 2^b) moves them; ALU operations are what
# limits these kernels when few tokens share a weight, and a multiplication runs elsewhere.
_NIBBLE_0 = tl.constexpr(
    """{ .reg .b32 t;
    and.b32 t, $1, 0x000F000F;
    mul.lo.u32 t, t, 0x1040;
    and.b32 t, t, 0x81C081C0;
    mul.rn.bf16x2 $0, t, $2; }"""
)
_NIBBLE_1 = tl.constexpr(
    """{ .reg .b32 t;
    and.b32 t, $1, 0x00F000F0;
    mul.lo.u32 t, t, 0x104;
    and.b32 t, t, 0x81C081C0;
    mul.rn.bf16x2 $0, t, $2; }"""
)
_NIBBLE_2 = tl.constexpr(
    """{ .reg .b32 t;
    shr.b32 t, $1, 2;
    and.b32 t, t, 0x03C003C0;
    mul.lo.u32 t, t, 0x41;
    and.b32 t, t, 0x81C081C0;
    mul.rn.bf16x2 $0, t, $2; }"""
)
_NIBBLE_3 = tl.constexpr(
    """{ .reg .b32 t, u;
    shr.b32 t, $1, 6;
    and.b32 t, t, 0x01C001C0;
    and.b32 u, $1, 0x80008000;
    or.b32 t, t, u;
    mul.rn.bf16x2 $0, t, $2; }"""
)


@triton.jit
def multiply(
    x, w, s, expert, row, x_row, live, first, last,
    ROWS: tl.constexpr, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """FP32 ``[BLOCK_M, BLOCK_N]``: rows ``row [BLOCK_M]`` of an expert's ``[ROWS, K]`` times rows of planes x.

    w int16 ``[E, ROWS, K / 4]``, s uint8 ``[E, ROWS, K / 32]``, x BF16 ``[.., K]``; ``x_row [BLOCK_N]`` where ``live``.
    k runs over the steps ``first .. last - 1`` of BLOCK_K.
    """
    word = tl.arange(0, BLOCK_K // 4)
    w_at = w + expert.to(tl.int64) * (ROWS * (K // 4)) + row[:, None] * (K // 4) + word[None, :]
    s_at = (
        s + expert.to(tl.int64) * (ROWS * (K // 32)) + row[:, None] * (K // 32) + tl.arange(0, BLOCK_K // 32)[None, :]
    )
    x_at = x + x_row.to(tl.int64)[:, None] * K + ((word // PLANE) * GROUP + word % PLANE)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in tl.range(first, last, num_stages=STAGES):
        words = tl.load(w_at + step * (BLOCK_K // 4), eviction_policy="evict_first")
        factor = _factors(tl.load(s_at + step * (BLOCK_K // 32)), BLOCK_M, BLOCK_K)
        for plane in tl.static_range(PLANES):
            tile = tl.load(x_at + (step * BLOCK_K + plane * PLANE), mask=live[:, None], other=0.0)
            acc = dot(nibble_plane(words, factor, plane), tl.trans(tile), acc)
    return acc * OPERAND_SCALE


@triton.jit
def _factors(scales, M: tl.constexpr, BLOCK_K: tl.constexpr):
    """The multipliers of the words of a step ``[M, BLOCK_K / 4]``, from E8M0 ``[M, BLOCK_K / 32]``; eight share one."""
    exponent = tl.minimum(scales.to(tl.int32) + FACTOR_BIAS, FACTOR_MAX)
    narrow = pow2(exponent) if INTERPRETED else (exponent << 7).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.reshape(tl.broadcast_to(narrow[:, :, None], (M, BLOCK_K // 32, 8)), (M, BLOCK_K // 4))


@triton.jit
def nibble_plane(words, factor, P: tl.constexpr):
    """BF16 of nibble P of the words, times 2^-32."""
    if INTERPRETED:
        code = words.to(tl.int32) >> (4 * P)
        tiny = (((code & 8) << 28) | ((code & 7) << 22)).to(tl.float32, bitcast=True)  # the value times 2^-126
        return to_bf16(tiny * factor)
    else:
        nibble: tl.constexpr = _NIBBLE_0 if P == 0 else (_NIBBLE_1 if P == 1 else (_NIBBLE_2 if P == 2 else _NIBBLE_3))
        return tl.inline_asm_elementwise(nibble, "=r,r,r", [words, factor], dtype=tl.bfloat16, is_pure=True, pack=2)


@triton.jit
def plane_order():
    """The 128 offsets inside a group in the order in which planes store them: 0, 4, .. 124, 1, 5, .. 125, 2, .. 127."""
    position = tl.arange(0, GROUP)
    return (position % PLANE) * PLANES + position // PLANE


@triton.jit
def quantize(values):
    """FP32 groups ``[R, 128]`` to (e4m3 ``[R, 128]``, E8M0 bytes int32 ``[R]``)."""
    byte = scale_byte(tl.max(tl.abs(values), axis=1), E4M3_MAX, FP8_AMAX_FLOOR)
    return to_e4m3(values * inverse_pow2(byte)[:, None]), byte


@triton.jit
def rounded(values, FP8: tl.constexpr):
    """FP32 groups ``[R, 128]`` as BF16: rounded to scaled FP8 first (exact in BF16), or to BF16 alone."""
    if FP8:
        q, byte = quantize(values)
        return to_bf16(e4m3_to_bf16(q).to(tl.float32) * pow2(byte)[:, None])
    else:
        return to_bf16(values)


@triton.jit
def swiglu(gate, up, limit):
    """``silu(min(gate, limit)) * clamp(up, -limit, limit)`` in FP32."""
    gate = tl.minimum(gate, limit)
    return gate / (1.0 + tl.exp(-gate)) * tl.minimum(tl.maximum(up, -limit), limit)


@triton.jit
def _input_planes_kernel(x, planes, D: tl.constexpr, FP8: tl.constexpr, BLOCK_GROUPS: tl.constexpr):
    """x BF16 ``[T, D]`` to the planes of the first projection, BF16 ``[T, D]``."""
    per_token: tl.constexpr = (D // GROUP + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    token = (tl.program_id(0) // per_token).to(tl.int64)
    group = (tl.program_id(0) % per_token) * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    start = token * D + group[:, None] * GROUP
    inside = (group < D // GROUP)[:, None]
    values = tl.load(x + start + plane_order()[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(planes + start + tl.arange(0, GROUP)[None, :], rounded(values, FP8), mask=inside)


@triton.jit(do_not_specialize=["pairs"])
def _combine_kernel(
    parts, ids, out, pairs,
    D: tl.constexpr, TOPK: tl.constexpr, EXPERTS: tl.constexpr, SPLITS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out BF16 ``[T, D]`` = sum over a token's slots of parts FP32 ``[SPLITS, T k, D]``, in a fixed order.

    Rows of parts whose id is no expert were never written: they are read, so that no load waits for the ids, and left
    out.
    """
    blocks: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    token = tl.program_id(0) // blocks
    d = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for split in tl.static_range(SPLITS):
        for slot in tl.static_range(TOPK):
            pair = token * TOPK + slot
            expert = tl.load(ids + pair)
            width = tl.where((expert >= 0) & (expert < EXPERTS), D, 0)
            row = (split * pairs + pair).to(tl.int64)
            value = tl.load(parts + row * D + d, mask=d < D, other=0.0)
            total += tl.where(d < width, value, 0.0)
    tl.store(out + token.to(tl.int64) * D + d, to_bf16(total), mask=d < D)


def input_planes(x: Tensor, fp8: bool) -> Tensor:
    """The operand of the first projection, BF16 ``[T, D]`` in planes; ``fp8``: rounded to scaled FP8."""
    tokens, D = x.shape
    planes = torch.empty_like(x)
    grid = (tokens * triton.cdiv(D // 128, INPUT_GROUPS),)
    _input_planes_kernel[grid](x, planes, D=D, FP8=fp8, BLOCK_GROUPS=INPUT_GROUPS, num_warps=4)
    return planes


def combine(parts: Tensor, ids: Tensor, out: Tensor, experts: int) -> None:
    """out BF16 ``[T, D]`` = sum over splits and slots of parts FP32 ``[splits, T k, D]``."""
    splits, pairs, D = parts.shape
    grid = (ids.shape[0] * triton.cdiv(D, COMBINE_BLOCK),)
    _combine_kernel[grid](
        parts, ids, out, pairs, D=D, TOPK=ids.shape[1], EXPERTS=experts, SPLITS=splits, BLOCK_D=COMBINE_BLOCK,
        num_warps=4, num_stages=1,
    )  # fmt: skip


def compile_cases() -> list[CompileCase]:
    """Input planes of both modes and the sum over slots, with V4-Flash's sizes."""
    cases = [
        CompileCase(
            op="mxfp4_moe",
            config=f"input planes {'w4a8' if fp8 else 'w4a16'}",
            kernel=_input_planes_kernel,
            signature={"x": "*bf16", "planes": "*bf16"},
            constexprs={"D": 4096, "FP8": fp8, "BLOCK_GROUPS": INPUT_GROUPS},
            num_warps=4,
        )
        for fp8 in (True, False)
    ]
    return cases + [
        CompileCase(
            op="mxfp4_moe",
            config=f"combine of {splits} part{'s' * (splits > 1)}",
            kernel=_combine_kernel,
            signature={"parts": "*fp32", "ids": "*i32", "out": "*bf16", "pairs": "i32"},
            constexprs={
                "D": 4096, "TOPK": 6, "EXPERTS": 256, "SPLITS": splits, "BLOCK_D": COMBINE_BLOCK,
            },
            num_warps=4,
        )
        for splits in (1, 2)
    ]  # fmt: skip
