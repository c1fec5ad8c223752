"""Split-K GEMM of the streams with the hyper-connection weights, and the sums of squares from the same read of x.

x is BF16, so only fn is rounded. The exact variant writes fn as a sum of three BF16 numbers (8 + 8 + 8 mantissa bits),
the other one of two, which still are five bits more than TF32 has, and multiplies each with BF16 tensor cores. (TF32's
own MMA wants x widened to 32 bits in shared memory, and took twice as long on an H200.)
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


@triton.jit(do_not_specialize=["tokens", "split_blocks"])
def prenorm_kernel(
    x, fn, out, sqrsum, tokens, split_blocks,
    DEPTH: tl.constexpr, OUT: tl.constexpr, OUT_BLOCK: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, EXACT: tl.constexpr, BY_COLUMN: tl.constexpr,
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
        weight = tl.load(fn_tile + k, mask=(column < OUT)[:, None], other=0.0)
        wide = values.to(tl.float32)
        squares += wide * wide if BY_COLUMN else tl.sum(wide * wide, axis=1)
        high = to_bf16(weight)
        rest = weight - high.to(tl.float32)
        middle = to_bf16(rest)
        low = to_bf16(rest - middle.to(tl.float32))  # before the products: between two of them it holds up the second
        product = dot(values, tl.trans(high), product)
        product = dot(values, tl.trans(middle), product)
        if EXACT:
            product = dot(values, tl.trans(low), product)
    row = split.to(tl.int64) * tokens + token
    live = token < tokens
    tl.store(out + row[:, None] * OUT + column[None, :], product, mask=live[:, None] & (column < OUT)[None, :])
    tl.store(sqrsum + row, tl.sum(squares, axis=1) if BY_COLUMN else squares, mask=live)


def mhc_prenorm_gemm(x: Tensor, fn: Tensor, splits: int, exact: bool = True) -> tuple[Tensor, Tensor]:
    """See ``ds4_kernels.reference.hyper_connections``. x BF16 ``[M, K]`` and fn FP32 ``[24 or 4, K]``, contiguous."""
    if x.dtype != torch.bfloat16 or fn.dtype != torch.float32 or not (x.is_contiguous() and fn.is_contiguous()):
        raise ValueError(f"need contiguous x in bfloat16 and fn in float32, got {x.dtype} and {fn.dtype}")
    tokens, depth = x.shape
    if fn.dim() != 2 or fn.shape[1] != depth or fn.shape[0] > 32:
        raise ValueError(f"fn must be [at most 32, {depth}], got {tuple(fn.shape)}")
    width = split_width(depth, splits)
    outputs = fn.shape[0]
    out = torch.empty(splits, tokens, outputs, dtype=torch.float32, device=x.device)
    sqrsum = torch.empty(splits, tokens, dtype=torch.float32, device=x.device)
    if tokens:
        tile = _tile(tokens, tile_set(x.device))
        grid = (triton.cdiv(tokens, tile.tokens), splits)
        prenorm_kernel[grid](
            x, fn, out, sqrsum, tokens, width // SPLIT_UNIT,
            **_constexprs(tile, depth, outputs, exact), num_warps=tile.warps, num_stages=tile.stages,
            **dependent(x.device),
        )  # fmt: skip
    return out, sqrsum


def prenorm_splits(tokens: int, depth: int, device: torch.device) -> int:
    """A power of two of splits that gives every multiprocessor its programs, without empty splits."""
    tile = _tile(tokens, tile_set(device))
    wanted = max(1, tile.programs * num_sms(device) // -(-max(tokens, 1) // tile.tokens))
    return 1 << (min(wanted, depth // SPLIT_UNIT).bit_length() - 1)


def _tile(tokens: int, tiles: TileSet) -> Tile:
    return next(tile for largest, tile in _TILES[tiles] if tokens <= largest)


def _constexprs(tile: Tile, depth: int, outputs: int, exact: bool) -> dict[str, int | bool]:
    return {
        "DEPTH": depth, "OUT": outputs, "OUT_BLOCK": max(16, triton.next_power_of_2(outputs)), "UNIT": SPLIT_UNIT,
        "BLOCK_M": tile.tokens, "BLOCK_K": tile.depth, "EXACT": exact,
        "BY_COLUMN": tile.by_column,
    }  # fmt: skip


def compile_cases() -> list[CompileCase]:
    """Every tile of both sets at every depth, three and two terms, and the head's four outputs."""
    return [
        _case(tiles, tile, depth, outputs, exact)
        for tiles, ladder in _TILES.items()
        for _, tile in ladder
        for depth, outputs, exact in (
            *((depth, 24, exact) for depth in DEPTHS for exact in (True, False)),
            (16384, 4, True),
        )
    ]


def _case(tiles: TileSet, tile: Tile, depth: int, outputs: int, exact: bool) -> CompileCase:
    return CompileCase(
        op="mhc_prenorm_gemm",
        config=f"{tile.tokens}x{tile.depth} w{tile.warps} s{tile.stages} terms {3 if exact else 2} [{outputs}, {depth}]",
        kernel=prenorm_kernel,
        signature={
            "x": "*bf16",
            "fn": "*fp32",
            "out": "*fp32",
            "sqrsum": "*fp32",
            "tokens": "i32",
            "split_blocks": "i32",
        },
        constexprs=_constexprs(tile, depth, outputs, exact) | {"PDL": True},
        num_warps=tile.warps,
        num_stages=tile.stages,
        mma="bf16",
        tiles=tiles,
    )
