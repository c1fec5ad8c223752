"""FP8 MQA logits on tensor cores: keys are the rows of the MMA, heads its columns.

With the heads along the columns, the ReLU, the weighting and the sum over heads stay inside a quad of threads, and the
key tile stays in place while the queries stream past it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference.mqa import refuse_relu, row_lengths
from ds4_kernels.triton.arch import tile_set
from ds4_kernels.triton.common import dot
from ds4_kernels.triton.compile_case import CompileCase

DIM = 128
LONG_KEYS = 16_384
"""Above this many keys a program takes 64 query rows instead of 16: the key tile is then loaded a quarter as often."""

_RAGGED_TILES = {
    "sm12x": {"BLOCK_N": 128, "PER_DOT": 1, "num_warps": 4, "num_stages": 3},
    "sm90": {"BLOCK_N": 128, "PER_DOT": 2, "num_warps": 4, "num_stages": 3},
}
_PAGED_TILES = {"sm12x": {"BLOCK_N": 64, "num_warps": 4}, "sm90": {"BLOCK_N": 128, "num_warps": 4}}
_WQ_TILE = {"BLOCK_M": 32, "BLOCK_N": 64, "num_warps": 4}


@triton.jit(do_not_specialize=["rows", "keys", "out_stride", "width"])
def _ragged_kernel(
    q, k, k_scale, weights, starts, ends, out, rows, keys, out_stride, width,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PER_DOT: tl.constexpr,
    COMPRESSED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    first_key = tl.program_id(0) * BLOCK_N
    first_row = tl.program_id(1) * BLOCK_M
    all_rows = first_row + tl.arange(0, BLOCK_M)
    lowest = tl.min(tl.load(starts + all_rows, mask=all_rows < rows, other=2147483647))
    highest = tl.max(tl.load(ends + all_rows, mask=all_rows < rows, other=0))
    key = first_key + tl.arange(0, BLOCK_N)
    if (first_key < highest) & (first_key + BLOCK_N > lowest):
        dims = tl.arange(0, DIM)
        safe_key = tl.minimum(key, keys - 1).to(tl.int64)
        key_tile = tl.load(k + safe_key[:, None] * DIM + dims[None, :])
        scale = tl.load(k_scale + safe_key)
        for i in tl.range(0, BLOCK_M, PER_DOT, num_stages=STAGES):
            flat = tl.arange(0, PER_DOT * HEADS)
            q_row = tl.minimum(first_row + i + flat // HEADS, rows - 1).to(tl.int64) * HEADS + flat % HEADS
            q_tile = tl.load(q + q_row[:, None] * DIM + dims[None, :])
            weight = tl.load(weights + q_row)
            products = dot(key_tile, tl.trans(q_tile), tl.zeros((BLOCK_N, PER_DOT * HEADS), tl.float32))
            weighted = tl.maximum(products, 0.0) * weight[None, :]
            logit = tl.sum(tl.reshape(weighted, (BLOCK_N, PER_DOT, HEADS)), axis=2) * scale[:, None]
            row = first_row + i + tl.arange(0, PER_DOT)
            start = tl.load(starts + row, mask=row < rows, other=0)
            end = tl.load(ends + row, mask=row < rows, other=0)
            inside = (key[:, None] >= start[None, :]) & (key[:, None] < end[None, :])
            if COMPRESSED:
                column = key[:, None] - start[None, :]
                target = out + row[None, :].to(tl.int64) * out_stride + tl.maximum(column, 0)
                tl.store(target, logit, mask=inside & (column < width) & (row < rows)[None, :])
            else:
                target = out + row[None, :].to(tl.int64) * out_stride + key[:, None]
                stored = (key < keys)[:, None] & (row < rows)[None, :]
                tl.store(target, tl.where(inside, logit, float("-inf")), mask=stored)
    elif not COMPRESSED:
        for i in range(0, BLOCK_M, 8):
            row = first_row + i + tl.arange(0, 8)
            target = out + row[:, None].to(tl.int64) * out_stride + key[None, :]
            empty = tl.full((8, BLOCK_N), float("-inf"), tl.float32)
            tl.store(target, empty, mask=(row < rows)[:, None] & (key < keys)[None, :])


@triton.jit(do_not_specialize=["max_len", "out_stride", "table_stride", "table_width", "num_blocks", "next_n"])
def _paged_kernel(
    q, cache, weights, lens, table, out, max_len, out_stride, table_stride, table_width, num_blocks, next_n, block_stride,
    HEADS: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    first_key = tl.program_id(0) * BLOCK_N
    groups = tl.cdiv(next_n, BLOCK_M)
    request = tl.program_id(1) // groups
    first = (tl.program_id(1) % groups) * BLOCK_M
    key = first_key + tl.arange(0, BLOCK_N)
    rows = first + tl.arange(0, BLOCK_M)
    longest = tl.max(tl.load(lens + request * next_n + rows, mask=rows < next_n, other=0))
    if first_key < longest:
        dims = tl.arange(0, DIM)
        page = key // BLOCK_SIZE
        mapped = (key < longest) & (page < table_width)
        block = tl.load(table + request.to(tl.int64) * table_stride + page, mask=mapped, other=0)
        block = tl.minimum(tl.maximum(block, 0), num_blocks - 1)
        base = block.to(tl.int64) * block_stride
        offset = key % BLOCK_SIZE
        data = tl.load(cache + base[:, None] + (offset * DIM)[:, None] + dims[None, :], mask=mapped[:, None], other=0)
        key_tile = data.to(tl.float8e4nv, bitcast=True)
        plane = (cache + base + BLOCK_SIZE * DIM + offset * 4).to(tl.pointer_type(tl.float32))
        scale = tl.load(plane, mask=mapped, other=0.0)
        for i in tl.static_range(BLOCK_M):
            if first + i < next_n:
                row = request * next_n + first + i
                column = tl.arange(0, COLUMNS)
                heads = row.to(tl.int64) * HEADS + column % HEADS
                q_tile = tl.load(q + heads[:, None] * DIM + dims[None, :])
                weight = tl.load(weights + heads, mask=column < HEADS, other=0.0)
                products = dot(key_tile, tl.trans(q_tile), tl.zeros((BLOCK_N, COLUMNS), tl.float32))
                logit = tl.sum(tl.maximum(products, 0.0) * weight[None, :], axis=1) * scale
                logit = tl.where(key < tl.load(lens + row), logit, float("-inf"))
                tl.store(out + row.to(tl.int64) * out_stride + key, logit, mask=key < max_len)
    else:
        for i in tl.static_range(BLOCK_M):
            if first + i < next_n:
                row = request * next_n + first + i
                empty = tl.full((BLOCK_N,), float("-inf"), tl.float32)
                tl.store(out + row.to(tl.int64) * out_stride + key, empty, mask=key < max_len)


@triton.jit(do_not_specialize=["rows", "keys"])
def _wq_kernel(
    q, k, k_scale, weights, out, rows, keys,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    key = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, DIM)
    safe_row = tl.minimum(row, rows - 1).to(tl.int64)
    safe_key = tl.minimum(key, keys - 1).to(tl.int64)
    combined = tl.zeros((BLOCK_M, DIM), tl.float32)
    for head in range(HEADS):
        weight = tl.load(weights + safe_row * HEADS + head)
        values = tl.load(q + (safe_row[:, None] * HEADS + head) * DIM + dims[None, :])
        combined += weight[:, None] * values.to(tl.float32)
    keys_tile = tl.load(k + safe_key[:, None] * DIM + dims[None, :]).to(tl.float32)
    products = tl.dot(combined, tl.trans(keys_tile), input_precision="tf32x3")
    logit = products * tl.load(k_scale + safe_key)[None, :]
    target = out + row[:, None].to(tl.int64) * keys + key[None, :]
    tl.store(target, logit, mask=(row < rows)[:, None] & (key < keys)[None, :])


def mqa_logits_ragged(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    starts: Tensor,
    ends: Tensor,
    *,
    compressed_width: int | None = None,
    out: Tensor | None = None,
    clean: bool = True,
) -> Tensor:
    """As ``ds4_kernels.reference.mqa.mqa_logits_ragged``, FP32.

    ``clean=False`` leaves the columns behind a compressed row's end as they are (engines mask them by length anyway).
    """
    _check_dims(q, k.shape[-1])
    rows, heads, _ = q.shape
    keys = k.shape[0]
    width = keys if compressed_width is None else compressed_width
    if out is None:
        out = torch.empty(rows, width, dtype=torch.float32, device=q.device)
    if compressed_width is not None and clean:
        out.fill_(-torch.inf)
    if rows == 0 or keys == 0:
        return out
    tile = _RAGGED_TILES[tile_set(q.device)]
    block_m = 64 if keys > LONG_KEYS else 16
    grid = (triton.cdiv(keys, tile["BLOCK_N"]), triton.cdiv(rows, block_m))
    _ragged_kernel[grid](
        q.contiguous(), k, k_scale, weights, starts, ends, out, rows, keys, out.stride(0), width,
        HEADS=heads, DIM=DIM, BLOCK_M=block_m, BLOCK_N=tile["BLOCK_N"], PER_DOT=_per_dot(heads, tile["PER_DOT"]),
        COMPRESSED=compressed_width is not None, STAGES=tile["num_stages"], num_warps=tile["num_warps"], num_stages=1,
    )  # fmt: skip
    return out


def mqa_logits_paged(
    q: Tensor,
    cache: Tensor,
    block_size: int,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_len: int,
    *,
    rowwise: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """As ``ds4_kernels.reference.mqa.mqa_logits_paged``, FP32.

    ``rowwise`` gives every row its own programs (long contexts: more of them in flight); otherwise up to eight rows of
    a request share each load of a key tile.
    """
    _check_dims(q, DIM)
    batch, next_n, heads, _ = q.shape
    if out is None:
        out = torch.empty(batch * next_n, max_len, dtype=torch.float32, device=q.device)
    if batch == 0 or max_len == 0:
        return out
    lens = row_lengths(context_lens, next_n).contiguous()
    tile = _PAGED_TILES[tile_set(q.device)]
    block_m = 1 if rowwise else rows_per_program(next_n)
    grid = (triton.cdiv(max_len, tile["BLOCK_N"]), batch * triton.cdiv(next_n, block_m))
    _paged_kernel[grid](
        q.contiguous(), cache, weights, lens, block_table, out, max_len, out.stride(0), block_table.stride(0),
        block_table.shape[1], cache.shape[0], next_n, cache.stride(0),
        HEADS=heads, COLUMNS=max(16, heads), DIM=DIM, BLOCK_SIZE=block_size, BLOCK_M=block_m, BLOCK_N=tile["BLOCK_N"],
        num_warps=tile["num_warps"], num_stages=1,
    )  # fmt: skip
    return out


def mqa_logits_wq(q: Tensor, k: Tensor, k_scale: Tensor, weights: Tensor, *, relu: bool) -> Tensor:
    """As ``ds4_kernels.reference.mqa.mqa_logits_wq``, FP32. Raises ValueError for ``relu=True``."""
    refuse_relu(relu)
    _check_dims(q, k.shape[-1])
    rows, heads, _ = q.shape
    keys = k.shape[0]
    out = torch.empty(rows, keys, dtype=torch.float32, device=q.device)
    if rows and keys:
        grid = (triton.cdiv(keys, _WQ_TILE["BLOCK_N"]), triton.cdiv(rows, _WQ_TILE["BLOCK_M"]))
        _wq_kernel[grid](
            q.contiguous(), k, k_scale, weights, out, rows, keys, HEADS=heads, DIM=DIM, **_WQ_TILE, num_stages=1
        )
    return out


def rows_per_program(next_n: int) -> int:
    """Query rows that share a key tile: 1, 2, 4 or 8, the smallest that covers ``next_n``."""
    return min(8, int(triton.next_power_of_2(next_n)))


def _per_dot(heads: int, wanted: int) -> int:
    """Query rows in one MMA: few heads are joined until the MMA has at least 16 columns."""
    return max(wanted, 16 // heads)


def _check_dims(q: Tensor, dim: int) -> None:
    heads = q.shape[-2]
    if q.shape[-1] != DIM or dim != DIM:
        raise ValueError(f"indexer keys have {DIM} dimensions, not q {q.shape[-1]} and k {dim}")
    if heads & (heads - 1) or heads < 4:
        raise ValueError(f"the number of indexer heads must be a power of two and at least 4, not {heads}")
    if q.dtype != torch.float8_e4m3fn:
        raise ValueError(f"q must be float8_e4m3fn, not {q.dtype}: an FP4 indexer cache is not supported on this path")


def compile_cases() -> list[CompileCase]:
    """Every shipped tile of the three kernels, with 64 heads; ragged scores of few heads, whose rows share an MMA."""
    ragged = {
        **dict.fromkeys(("q", "k"), "*fp8e4nv"), **dict.fromkeys(("k_scale", "weights", "out"), "*fp32"),
        **dict.fromkeys(("starts", "ends"), "*i32"), **dict.fromkeys(("rows", "keys", "out_stride", "width"), "i32"),
    }  # fmt: skip
    paged = {
        "q": "*fp8e4nv", "cache": "*u8", **dict.fromkeys(("weights", "out"), "*fp32"),
        **dict.fromkeys(("lens", "table"), "*i32"),
        **dict.fromkeys(
            ("max_len", "out_stride", "table_stride", "table_width", "num_blocks", "next_n", "block_stride"), "i32"
        ),
    }  # fmt: skip
    wq = {
        **dict.fromkeys(("q", "k"), "*fp8e4nv"), **dict.fromkeys(("k_scale", "weights", "out"), "*fp32"),
        **dict.fromkeys(("rows", "keys"), "i32"),
    }  # fmt: skip
    cases = []
    for tiles, tile in _RAGGED_TILES.items():
        for block_m, heads in ((16, 64), (64, 64), (16, 8), (16, 4)):
            for compressed in (False, True) if heads == 64 else (False,):
                per_dot = _per_dot(heads, tile["PER_DOT"])
                constexprs = {
                    "HEADS": heads, "DIM": DIM, "BLOCK_M": block_m, "BLOCK_N": tile["BLOCK_N"], "PER_DOT": per_dot,
                    "COMPRESSED": compressed, "STAGES": tile["num_stages"],
                }  # fmt: skip
                label = f"m{block_m} n{tile['BLOCK_N']} q{per_dot} h{heads}{' compressed' if compressed else ''}"
                cases.append(
                    CompileCase("mqa_logits_ragged", label, _ragged_kernel, ragged, constexprs, tile["num_warps"],
                                mma="e4m3", tiles=tiles)  # type: ignore[arg-type]
                )  # fmt: skip
    for tiles, tile in _PAGED_TILES.items():
        for block_m in (1, 2, 4, 8):
            constexprs = {
                "HEADS": 64, "COLUMNS": 64, "DIM": DIM, "BLOCK_SIZE": 64, "BLOCK_M": block_m, "BLOCK_N": tile["BLOCK_N"],
            }  # fmt: skip
            cases.append(
                CompileCase("mqa_logits_paged", f"m{block_m} n{tile['BLOCK_N']}", _paged_kernel, paged, constexprs,
                            tile["num_warps"], mma="e4m3", tiles=tiles, divisible=("block_stride",))  # type: ignore[arg-type]
            )  # fmt: skip
    constexprs = {"HEADS": 64, "DIM": DIM, "BLOCK_M": _WQ_TILE["BLOCK_M"], "BLOCK_N": _WQ_TILE["BLOCK_N"]}
    cases.append(CompileCase("mqa_logits_wq", "m32 n64", _wq_kernel, wq, constexprs, _WQ_TILE["num_warps"], mma="tf32"))
    return cases
