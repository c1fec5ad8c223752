"""Block-FP8 GEMM (kernels.md 2.6): tiles from the tuning tables, and SM12x's block-scaled MMA as an option.

``w8a8_gemm`` scales every 128 of K in registers (see ``fp8_gemm``). ``w8a8_gemm_mxfp8`` gives the scales to the MMA:
E8M0 bytes, one per 32 of K, so a byte of a 128 block is repeated four times. That is exact, because E8M0 scales are
powers of two, and needs no product apart from the sum. SM12x runs it natively; elsewhere Triton widens to BF16.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference.w8a8 import as_bytes, check_e8m0, check_gemm
from ds4_kernels.triton import fp8_gemm
from ds4_kernels.triton.arch import TileSet
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.fp8_gemm import ScaleForm, store_tile, tile_position
from ds4_kernels.tuning.tables import H200, Tile, default_tiles, load_table, select_tile, table_names

_NATIVE_TILES = {
    16: Tile(16, 128, 128, 1, num_warps=4, num_stages=3),
    32: Tile(32, 128, 128, 1, num_warps=4, num_stages=3),
    512: Tile(64, 128, 128, 8, num_warps=4, num_stages=3),
    4096: Tile(128, 128, 128, 8, num_warps=8, num_stages=3),
}


def w8a8_gemm(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """See ``ds4_kernels.reference.w8a8.w8a8_gemm``. a has K innermost and rows of 16-byte alignment; b is contiguous."""
    check_gemm(a, a_scale, b, b_scale, out_dtype, out)
    if out is None:
        out = torch.empty(a.shape[0], b.shape[0], dtype=out_dtype, device=a.device)
    tile = select_tile(device_name(a.device), a.shape[0], b.shape[0], b.shape[1])
    fp8_gemm.launch(a.unsqueeze(1), a_scale.unsqueeze(1), b.unsqueeze(0), b_scale.unsqueeze(0), out.unsqueeze(1), tile)
    return out


def w8a8_gemm_mxfp8(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """See ``ds4_kernels.reference.w8a8.w8a8_gemm_mxfp8``: E8M0 scales only, through the block-scaled MMA."""
    check_e8m0(a_scale, b_scale)
    check_gemm(a, a_scale, b, b_scale, out_dtype, out)
    if out is None:
        out = torch.empty(a.shape[0], b.shape[0], dtype=out_dtype, device=a.device)
    (m, k), n = a.shape, b.shape[0]
    if m == 0 or n == 0:
        return out
    fp8_gemm.check_strides(a, b, out)
    a_scale, b_scale = as_bytes(a_scale), as_bytes(b_scale).contiguous()
    tile = native_tile(m)
    _block_scaled[(triton.cdiv(m, tile.block_m) * triton.cdiv(n, tile.block_n),)](
        a, a_scale, b, b_scale, out, m, n, k, tile.group_m, a.stride(0), a_scale.stride(0), a_scale.stride(1),
        out.stride(0), BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, BLOCK_K=tile.block_k,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


def native_tile(m: int) -> Tile:
    """The block-scaled kernel's tile for ``m`` tokens: the first whose row of the list covers them, or the largest."""
    return next((tile for limit, tile in _NATIVE_TILES.items() if m <= limit), _NATIVE_TILES[4096])


@functools.cache
def device_name(device: torch.device) -> str:
    """The driver's name of a CUDA device; ``cpu`` under the interpreter."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@triton.jit(do_not_specialize=["M", "group_m", "a_scale_m", "a_scale_k"])
def _block_scaled(
    a, a_scale, b, b_scale, out, M, N, K, group_m, a_m, a_scale_m, a_scale_k, out_m,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    first_row, first_col = tile_position(tl.program_id(0), M, N, group_m, BLOCK_M, BLOCK_N)
    k_blocks = K // 128
    rows = first_row + tl.arange(0, BLOCK_M)
    safe_rows = tl.minimum(rows, M - 1).to(tl.int64)
    cols = first_col + tl.arange(0, BLOCK_N)
    safe_cols = tl.minimum(cols, N - 1).to(tl.int64)
    depth = tl.arange(0, BLOCK_K)
    a_tile = a + safe_rows[:, None] * a_m + depth[None, :]
    b_tile = b + safe_cols[None, :] * K + depth[:, None]
    a_scale_rows = a_scale + safe_rows * a_scale_m
    b_scale_cols = b_scale + (safe_cols // 128) * k_blocks
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, k_blocks):
        x = tl.load(a_tile)
        w = tl.load(b_tile)
        x_scale = tl.load(a_scale_rows + step * a_scale_k)
        w_scale = tl.load(b_scale_cols + step)
        x_scales = tl.broadcast_to(x_scale[:, None], (BLOCK_M, BLOCK_K // 32))
        w_scales = tl.broadcast_to(w_scale[:, None], (BLOCK_N, BLOCK_K // 32))
        acc = tl.dot_scaled(x, x_scales, "e4m3", w, w_scales, "e4m3", acc)
        a_tile += BLOCK_K
        b_tile += BLOCK_K
    out_tile = out + safe_rows[:, None] * out_m + cols[None, :]
    store_tile(out_tile, acc, (rows < M)[:, None] & (cols < N)[None, :])


def compile_cases() -> list[CompileCase]:
    """Every tile of every table and every default, with FP32 scales; the outermost tiles in all other forms."""
    others: list[tuple[ScaleForm, ScaleForm, str]] = [
        ("fp32", "u8", "*bf16"), ("u8", "fp32", "*bf16"), ("u8", "u8", "*bf16"), ("u8", "u8", "*fp32"),
    ]  # fmt: skip
    cases = []
    for tiles, listed in _shipped_tiles().items():
        cases += [
            fp8_gemm.compile_case("w8a8_gemm", tile, tiles, "fp32", "fp32") for tile in fp8_gemm.with_shallow(listed)
        ]
        for tile in (listed[0], listed[-1]):
            cases += [fp8_gemm.compile_case("w8a8_gemm", tile, tiles, *forms) for forms in others]
    return cases + _native_cases()


def _shipped_tiles() -> dict[TileSet, list[Tile]]:
    """One tile for every different compiled kernel, by tile set, smallest first."""
    sets: dict[TileSet, list[Tile]] = {name: list(tiles) for name, tiles in default_tiles().items()}
    for table in table_names():
        rows = [tile for by_tokens in load_table(table).values() for tile in by_tokens.values()]
        sets["sm90" if table == H200 else "sm12x"] += rows
    unique = {name: {tile.compiled_key: tile for tile in tiles} for name, tiles in sets.items()}
    return {name: [by_key[key] for key in sorted(by_key)] for name, by_key in unique.items()}


def _native_cases() -> list[CompileCase]:
    signature = {
        "a": "*fp8e4nv", "a_scale": "*u8", "b": "*fp8e4nv", "b_scale": "*u8",
        **dict.fromkeys(("M", "N", "K", "group_m", "a_m", "a_scale_m", "a_scale_k", "out_m"), "i32"),
    }  # fmt: skip
    return [
        CompileCase(
            op="w8a8_gemm_mxfp8", config=f"{tile} {out_type}", kernel=_block_scaled,
            signature={**signature, "out": out_type},
            constexprs={"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k},
            num_warps=tile.num_warps, num_stages=tile.num_stages, mma="mxf8f6f4", divisible=("N", "K", "a_m", "out_m"),
        )
        for tile in _NATIVE_TILES.values()
        for out_type in ("*bf16", "*fp32")
    ]  # fmt: skip
