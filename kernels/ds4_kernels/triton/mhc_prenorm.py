"""Split-K GEMM of the streams with the hyper-connection weights, and the sums of squares from the same read of x.

x is BF16, so only fn is rounded. The exact variant writes fn as a sum of three BF16 numbers (8 + 8 + 8 mantissa bits),
the other one of two, which still are five bits more than TF32 has, and multiplies each with BF16 tensor cores. (TF32's
own MMA wants x widened to 32 bits in shared memory, and took twice as long on an H200.) Terms that were made before the call
(``mhc_split_weights``) go to the tensor cores as they are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference.hyper_connections import SPLIT_UNIT, split_width
from ds4_kernels.triton.arch import TileSet, num_sms, tile_set
from ds4_kernels.triton.common import dot, to_bf16
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.dependent import dependent, wait

DEPTHS = (7168, 7680, 16384, 28672)


@dataclass(frozen=True)
class Tile:
    """Tokens and depth of a tile, warps, pipeline stages, programs that a multiprocessor should have.

    ``by_column``: squares are kept by column and summed over K once at the end. A sum a step is shuffles a step, but needs
    the registers that an SM12x tile has not got.
    """

    tokens: int
    depth: int
    warps: int
    stages: int
    programs: int = 2
    by_column: bool = False


_TILES: dict[TileSet, tuple[tuple[int, Tile], ...]] = {
    "sm12x": ((16, Tile(16, 128, 4, 3)), (1024, Tile(32, 64, 4, 3)), (1 << 62, Tile(128, 32, 8, 4))),
    "sm90": (
        (16, Tile(16, 128, 4, 3, by_column=True)),
        (128, Tile(64, 64, 4, 4, by_column=True)),
        (2048, Tile(128, 64, 8, 4, programs=1, by_column=True)),
        (1 << 62, Tile(128, 64, 8, 4, by_column=True)),
    ),
}
"""Per tile set: (largest number of tokens, tile). On SM12x, where both operands of the MMA are registers, deeper or
larger tiles spill; on Hopper 64 rows are the fewest that wgmma takes."""
_SPLIT_AHEAD: dict[TileSet, tuple[tuple[int, Tile], ...]] = {
    "sm12x": _TILES["sm12x"],
    "sm90": (
        (16, Tile(16, 128, 4, 3, by_column=True)),
        (2048, Tile(64, 64, 4, 4, by_column=True)),
        (1 << 62, Tile(128, 64, 8, 4, by_column=True)),
    ),
}
"""The same for terms made before the call: without their conversion small tiles cost nothing."""


@triton.jit(do_not_specialize=["tokens", "split_blocks"])
def prenorm_kernel(
    x, fn, out, sqrsum, tokens, split_blocks,
    DEPTH: tl.constexpr, OUT: tl.constexpr, OUT_BLOCK: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, TERMS: tl.constexpr, AHEAD: tl.constexpr, BY_COLUMN: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait(PDL)
    token = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    split = tl.program_id(1)
    column = tl.arange(0, OUT_BLOCK)
    lane = tl.arange(0, BLOCK_K)
    x_tile = x + tl.minimum(token, tokens - 1).to(tl.int64)[:, None] * DEPTH + lane[None, :]
    fn_tile = fn + tl.minimum(column, OUT - 1)[:, None] * DEPTH + lane[None, :]
    product = tl.zeros((BLOCK_M, OUT_BLOCK), tl.float32)
    squares = tl.zeros((BLOCK_M, BLOCK_K) if BY_COLUMN else (BLOCK_M,), tl.float32)
    begin = split * split_blocks * UNIT
    end = tl.minimum(begin + split_blocks * UNIT, DEPTH)
    for k in range(begin, end, BLOCK_K):
        values = tl.load(x_tile + k)
        wide = values.to(tl.float32)
        squares += wide * wide if BY_COLUMN else tl.sum(wide * wide, axis=1)
        if AHEAD:
            # A chain of its own a step: with one over all steps Triton 3.6 lets the last product run on into the next step,
            # where the copy of x that it reads is overwritten (of x, which the squares read too, it keeps one too few).
            step = tl.zeros((BLOCK_M, OUT_BLOCK), tl.float32)
            for term in tl.static_range(TERMS):
                weight = tl.load(fn_tile + (term * OUT * DEPTH + k), mask=(column < OUT)[:, None], other=0.0)
                step = dot(values, tl.trans(weight), step)
            product += step
        else:
            weight = tl.load(fn_tile + k, mask=(column < OUT)[:, None], other=0.0)
            high = to_bf16(weight)
            rest = weight - high.to(tl.float32)
            middle = to_bf16(rest)
            # Before the products: between two of them it holds up the second.
            low = to_bf16(rest - middle.to(tl.float32))
            product = dot(values, tl.trans(high), product)
            product = dot(values, tl.trans(middle), product)
            if TERMS == 3:
                product = dot(values, tl.trans(low), product)
    row = split.to(tl.int64) * tokens + token
    live = token < tokens
    tl.store(out + row[:, None] * OUT + column[None, :], product, mask=live[:, None] & (column < OUT)[None, :])
    tl.store(sqrsum + row, tl.sum(squares, axis=1) if BY_COLUMN else squares, mask=live)


def mhc_prenorm_gemm(x: Tensor, fn: Tensor, splits: int, exact: bool = True) -> tuple[Tensor, Tensor]:
    """See ``ds4_kernels.reference.hyper_connections``. x BF16 ``[M, K]`` and fn FP32 ``[24 or 4, K]``, or its BF16 terms
    ``[2 or 3, 24 or 4, K]``, contiguous."""
    if x.dtype != torch.bfloat16 or not (x.is_contiguous() and fn.is_contiguous()):
        raise ValueError(f"need contiguous x in bfloat16 and contiguous fn, got {x.dtype} {x.stride()}, {fn.stride()}")
    tokens, depth = x.shape
    check_weights(fn, depth)
    width = split_width(depth, splits)
    outputs = fn.shape[-2]
    terms = fn.shape[0] if fn.dim() == 3 else 3 if exact else 2
    out = torch.empty(splits, tokens, outputs, dtype=torch.float32, device=x.device)
    sqrsum = torch.empty(splits, tokens, dtype=torch.float32, device=x.device)
    if tokens:
        tile = _tile(tokens, tile_set(x.device), ahead=fn.dim() == 3)
        grid = (triton.cdiv(tokens, tile.tokens), splits)
        prenorm_kernel[grid](
            x, fn, out, sqrsum, tokens, width // SPLIT_UNIT,
            **_constexprs(tile, depth, outputs, terms, ahead=fn.dim() == 3), num_warps=tile.warps, num_stages=tile.stages,
            **dependent(x.device),
        )  # fmt: skip
    return out, sqrsum


def check_weights(fn: Tensor, depth: int) -> None:
    """ValueError unless fn is FP32 ``[N, depth]`` or BF16 terms ``[2 or 3, N, depth]``, N at most 32."""
    plain = fn.dim() == 2 and fn.dtype == torch.float32
    split = fn.dim() == 3 and fn.dtype == torch.bfloat16 and fn.shape[0] in (2, 3)
    if not (plain or split) or fn.shape[-1] != depth or fn.shape[-2] > 32:
        wanted = f"float32 [N, {depth}] or bfloat16 [2 or 3, N, {depth}] with N at most 32"
        raise ValueError(f"fn must be {wanted}, got {fn.dtype} {tuple(fn.shape)}")


def prenorm_splits(tokens: int, depth: int, device: torch.device, *, ahead: bool = False) -> int:
    """A power of two of splits that gives every multiprocessor its programs, without empty splits."""
    tile = _tile(tokens, tile_set(device), ahead=ahead)
    wanted = max(1, tile.programs * num_sms(device) // -(-max(tokens, 1) // tile.tokens))
    return 1 << (min(wanted, depth // SPLIT_UNIT).bit_length() - 1)


def _tile(tokens: int, tiles: TileSet, *, ahead: bool) -> Tile:
    ladder = (_SPLIT_AHEAD if ahead else _TILES)[tiles]
    return next(tile for largest, tile in ladder if tokens <= largest)


def _constexprs(tile: Tile, depth: int, outputs: int, terms: int, *, ahead: bool) -> dict[str, int | bool]:
    return {
        "DEPTH": depth, "OUT": outputs, "OUT_BLOCK": max(16, triton.next_power_of_2(outputs)), "UNIT": SPLIT_UNIT,
        "BLOCK_M": tile.tokens, "BLOCK_K": tile.depth, "TERMS": terms, "AHEAD": ahead, "BY_COLUMN": tile.by_column,
    }  # fmt: skip


def compile_cases() -> list[CompileCase]:
    """Every tile of both sets at every depth, three and two terms, and the head's four outputs."""
    return [
        _case(tiles, tile, depth, outputs, terms, ahead=ahead)
        for ahead, sets in ((False, _TILES), (True, _SPLIT_AHEAD))
        for tiles, ladder in sets.items()
        for _, tile in ladder
        for depth, outputs, terms in (*((depth, 24, terms) for depth in DEPTHS for terms in (3, 2)), (16384, 4, 3))
    ]


def _case(tiles: TileSet, tile: Tile, depth: int, outputs: int, terms: int, *, ahead: bool) -> CompileCase:
    return CompileCase(
        op="mhc_prenorm_gemm",
        config=f"{tile.tokens}x{tile.depth} w{tile.warps} s{tile.stages} terms {terms}{' ahead' if ahead else ''} "
        f"[{outputs}, {depth}]",
        kernel=prenorm_kernel,
        signature={
            "x": "*bf16",
            "fn": "*bf16" if ahead else "*fp32",
            "out": "*fp32",
            "sqrsum": "*fp32",
            "tokens": "i32",
            "split_blocks": "i32",
        },
        constexprs=_constexprs(tile, depth, outputs, terms, ahead=ahead) | {"PDL": True},
        num_warps=tile.warps,
        num_stages=tile.stages,
        mma="bf16",
        tiles=tiles,
    )
