"""The grouped output projection: inverse rope with FP8 quantisation, then the block-FP8 "bhr,hdr->bhd" (kernels.md 2.5).

``inverse_rope_quant`` is bound by memory (3 bytes a value). ``fp8_einsum`` is ``fp8_gemm`` with one batch a group; its
tiles are fixed per number of tokens, nothing is tuned at run time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference.einsum import (
    AMAX_FLOOR,
    GROUP,
    HEAD_DIM,
    SCALES_PER_WORD,
    TOKEN_ALIGN,
    ScaleFormat,
    check_einsum,
    check_inverse_rope_quant,
)
from ds4_kernels.triton import fp8_gemm
from ds4_kernels.triton.arch import TileSet, tile_set
from ds4_kernels.triton.common import E4M3_MAX, inverse_pow2, pow2, scale_byte, to_e4m3
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.fp8_gemm import ScaleForm
from ds4_kernels.tuning.tables import Tile

_TOKENS = 32
"""Tokens a program quantises: 8 KiB of loads, and FP32 scales that fill a cache line, because tokens are innermost."""

_FLOOR = tl.constexpr(AMAX_FLOOR)


def inverse_rope_quant(
    o: Tensor, positions: Tensor, cos_sin: Tensor, groups: int, scale_format: ScaleFormat = "fp32"
) -> tuple[Tensor, Tensor]:
    """See ``ds4_kernels.reference.einsum.inverse_rope_quant``. o has its 512 dimensions innermost, 4-byte aligned."""
    check_inverse_rope_quant(o, positions, cos_sin, groups, scale_format)
    if o.stride(2) != 1 or any(stride % 2 for stride in (o.stride(0), o.stride(1), o.storage_offset())):
        raise ValueError(f"o must have D innermost and 4-byte aligned heads, not strides {o.stride()}")
    if not cos_sin.is_contiguous() or not positions.is_contiguous():
        raise ValueError("cos_sin and positions must be contiguous")
    tokens, heads, _ = o.shape
    padded = triton.cdiv(tokens, TOKEN_ALIGN) * TOKEN_ALIGN
    width = heads * HEAD_DIM // groups
    packed = scale_format == "packed"
    q = torch.empty(groups, tokens, width, dtype=torch.float8_e4m3fn, device=o.device)
    per_token = width // GROUP // (SCALES_PER_WORD if packed else 1)
    dtype = torch.int32 if packed else torch.float32
    scale = torch.empty(groups, per_token, padded, dtype=dtype, device=o.device)
    if tokens:
        # Bytes must equal the reference's: no fused multiply-add in the rotation.
        _inverse_rope_quant[(4 * heads, triton.cdiv(padded, _TOKENS))](
            o.view(torch.int32), positions, cos_sin, q, scale.view(torch.uint8) if packed else scale,
            tokens, padded, cos_sin.shape[0], o.stride(0) // 2, o.stride(1) // 2,
            HEADS=heads // groups, PACKED=packed, BLOCK_T=_TOKENS, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return q.transpose(0, 1), scale[:, :, :tokens].permute(2, 0, 1)


@triton.jit(do_not_specialize=["tokens", "padded", "max_position"])
def _inverse_rope_quant(
    o, positions, cos_sin, q, scale, tokens, padded, max_position, o_token, o_head,
    HEADS: tl.constexpr, PACKED: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    # A program has a quarter of a head, one scale group, of BLOCK_T tokens. A rope pair is one 32-bit word of two BF16,
    # the even dimension low, and two e4m3 bytes: the pair never leaves its thread.
    head = tl.program_id(0) // 4
    quarter = tl.program_id(0) % 4
    token = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    safe = tl.minimum(token, tokens - 1).to(tl.int64)
    pair = tl.arange(0, 64)
    word = tl.load(o + head.to(tl.int64) * o_head + quarter * 64 + safe[:, None] * o_token + pair[None, :])
    even = (word << 16).to(tl.float32, bitcast=True)
    odd = (word & -65536).to(tl.float32, bitcast=True)
    if quarter == 3:
        # Pairs 32 .. 63 of the last quarter are the roped dimensions; the conjugate rotation undoes their rope.
        roped = (pair >= 32)[None, :] & (token < tokens)[:, None]
        position = tl.minimum(tl.maximum(tl.load(positions + safe), 0), max_position - 1).to(tl.int64)
        table = cos_sin + position[:, None] * 64 + (pair % 32)[None, :]
        cos = tl.load(table, mask=roped, other=1.0)
        sin = tl.load(table + 32, mask=roped, other=0.0)
        turned = even * cos + odd * sin
        odd = tl.where(roped, odd * cos - even * sin, odd)
        even = tl.where(roped, turned, even)
    byte = scale_byte(tl.max(tl.maximum(tl.abs(even), tl.abs(odd)), axis=1), E4M3_MAX, _FLOOR)
    factor = inverse_pow2(byte)[:, None]
    # Joined first and converted then: ptxas 12.8 (Triton 3.6) writes garbage for e4m3 bytes that are widened and shifted.
    value = to_e4m3(tl.interleave(even * factor, odd * factor))
    row = (head // HEADS).to(tl.int64) * tokens + safe
    target = q + row * (HEADS * 512) + (head % HEADS) * 512 + quarter * 128
    inside = token < tokens
    tl.store(target[:, None] + tl.arange(0, 128)[None, :], value, mask=inside[:, None])
    if PACKED:
        # The head's four bytes make one word; a program writes its own byte of it.
        scale_target = scale + (head.to(tl.int64) * padded + token) * 4 + quarter
        tl.store(scale_target, tl.where(inside, byte, 0).to(tl.uint8), mask=token < padded)
    else:
        scale_target = scale + (head * 4 + quarter).to(tl.int64) * padded + token
        tl.store(scale_target, tl.where(inside, pow2(byte), 0.0), mask=token < padded)


def fp8_einsum(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out: Tensor | None = None) -> Tensor:
    """See ``ds4_kernels.reference.einsum.fp8_einsum``. b is contiguous; a and out have their last dimension innermost."""
    check_einsum(a, a_scale, b, b_scale, out)
    tokens, groups, _ = a.shape
    if out is None:
        out = torch.empty(tokens, groups, b.shape[1], dtype=torch.bfloat16, device=a.device)
    fp8_gemm.launch(a, a_scale, b, b_scale, out, einsum_tile(tile_set(a.device), tokens, b.shape[1], groups))
    return out


# SM12x: the few-token tile is the seed's (kernels.md 2.5). sm_90: one program a multiprocessor where the weights are
# read once (up to 128 tokens), then the largest tile of which there are enough.
_SM12X_TILES = {
    16: Tile(16, 128, 128, 1, num_warps=4, num_stages=3),
    32: Tile(32, 128, 128, 1, num_warps=4, num_stages=3),
    256: Tile(64, 128, 128, 8, num_warps=4, num_stages=3),
    4096: Tile(128, 128, 128, 8, num_warps=8, num_stages=3),
}
_SM90_FEW = {
    16: Tile(16, 64, 512, 1, num_warps=4, num_stages=3, swap=True),
    32: Tile(32, 64, 512, 1, num_warps=8, num_stages=3, swap=True),
    64: Tile(64, 64, 512, 1, num_warps=4, num_stages=3),
    128: Tile(128, 64, 256, 1, num_warps=8, num_stages=4),
}
_SM90_MANY = (
    Tile(128, 128, 256, 8, num_warps=8, num_stages=3),
    Tile(64, 128, 256, 8, num_warps=4, num_stages=4),
)
_ENOUGH_PROGRAMS = 100


def einsum_tile(tiles: TileSet, tokens: int, n: int, groups: int) -> Tile:
    """The tile for ``[tokens, groups, K] x [groups, n, K]``."""
    few = _SM12X_TILES if tiles == "sm12x" else _SM90_FEW
    for limit, tile in few.items():
        if tokens <= limit:
            return tile
    if tiles == "sm12x":
        return _SM12X_TILES[4096]
    for tile in _SM90_MANY:
        if triton.cdiv(tokens, tile.block_m) * triton.cdiv(n, tile.block_n) * groups >= _ENOUGH_PROGRAMS:
            return tile
    return _SM90_MANY[-1]


def compile_cases() -> list[CompileCase]:
    """Every tile with both activation scale forms and both weight scale forms, and the quantiser in both forms."""
    sets: dict[TileSet, list[Tile]] = {"sm12x": [*_SM12X_TILES.values()], "sm90": [*_SM90_FEW.values(), *_SM90_MANY]}
    forms: list[tuple[ScaleForm, ScaleForm]] = [("fp32", "fp32"), ("fp32", "u8"), ("packed", "u8"), ("packed", "fp32")]
    cases = [
        fp8_gemm.compile_case("fp8_einsum", tile, tiles, a_form, b_form)
        for tiles, listed in sets.items()
        for tile in fp8_gemm.with_shallow(listed)
        for a_form, b_form in (forms if tile in listed else forms[:1])
    ]
    signature = {
        "o": "*i32", "cos_sin": "*fp32", "q": "*fp8e4nv",
        **dict.fromkeys(("tokens", "padded", "max_position", "o_token", "o_head"), "i32"),
    }  # fmt: skip
    cases += [
        CompileCase(
            op="inverse_rope_quant",
            config=f"packed {packed} positions {positions}",
            kernel=_inverse_rope_quant,
            signature={**signature, "positions": positions, "scale": "*u8" if packed else "*fp32"},
            constexprs={"HEADS": 8, "PACKED": packed, "BLOCK_T": _TOKENS},
            num_warps=4,
            divisible=("o_token", "o_head"),
        )
        for packed in (False, True)
        for positions in ("*i32", "*i64")
    ]
    return cases
