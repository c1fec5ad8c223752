"""Hyper-connections: Sinkhorn, the weighted sum before a sub-layer, the mixing after it, the head.

``mhc_pre`` is two kernels: the split-K GEMM of ``mhc_prenorm``, and one program per token that starts the loads of its
four streams, sums the splits, and forms the layer's input; the 4 x 4 normalisation runs last, while other programs of
the multiprocessor wait for memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference.hyper_connections import MIXES, STREAMS
from ds4_kernels.triton.common import to_bf16
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.mhc_prenorm import check_weights, mhc_prenorm_gemm, prenorm_splits
from ds4_kernels.triton.mhc_prenorm import compile_cases as prenorm_cases

__all__ = [
    "compile_cases", "mhc_head", "mhc_post", "mhc_post_pre", "mhc_pre", "mhc_prenorm_gemm", "mhc_split_sinkhorn",
]  # fmt: skip

SINKHORN_TOKENS = 32
POST_BLOCK = 1024
_SPLIT_BLOCKS = (8, 32, 128)
"""The sum over the splits is one tile of the first of these that holds them."""


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _sinkhorn(logit, iterations, eps):
    """Doubly stochastic ``[B, 4, 4]``: row softmax plus eps, column, then (row, column) iterations - 1 times."""
    comb = tl.exp(logit - tl.max(logit, 2, keep_dims=True))
    comb = comb / tl.sum(comb, 2, keep_dims=True) + eps
    comb = comb / (tl.sum(comb, 1, keep_dims=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (tl.sum(comb, 2, keep_dims=True) + eps)
        comb = comb / (tl.sum(comb, 1, keep_dims=True) + eps)
    return comb


@triton.jit(do_not_specialize=["tokens", "iterations"])
def sinkhorn_kernel(mixes, scale, base, pre, post, comb, tokens, iterations, eps, BLOCK: tl.constexpr):
    token = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    safe = tl.minimum(token, tokens - 1)
    stream = tl.arange(0, 4)
    own = safe[:, None] * 24 + stream[None, :]
    small = token[:, None] * 4 + stream[None, :]
    stored = (token < tokens)[:, None]
    pre_logit = tl.load(mixes + own) * tl.load(scale) + tl.load(base + stream)[None, :]
    tl.store(pre + small, _sigmoid(pre_logit) + eps, mask=stored)
    post_logit = tl.load(mixes + own + 4) * tl.load(scale + 1) + tl.load(base + 4 + stream)[None, :]
    tl.store(post + small, 2.0 * _sigmoid(post_logit), mask=stored)
    cell = (stream[:, None] * 4 + stream[None, :])[None, :, :]
    logit = tl.load(mixes + (safe * 24 + 8)[:, None, None] + cell) * tl.load(scale + 2) + tl.load(base + 8 + cell)
    result = _sinkhorn(logit, iterations, eps)
    tl.store(comb + (token * 16)[:, None, None] + cell, result, mask=(token < tokens)[:, None, None])


@triton.jit(do_not_specialize=["tokens", "splits", "iterations"])
def pre_kernel(
    streams, partial, sqrsum, scale, base, norm_weight, layer_input, post, comb, tokens, splits, iterations, norm_eps, hc_eps,
    DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, SPLIT_BLOCK: tl.constexpr, MIXES: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    stream = tl.arange(0, 4)
    column = tl.arange(0, DIM_BLOCK)
    inside = column < DIM
    source = streams + token * (4 * DIM) + stream[:, None] * DIM + column[None, :]
    values = tl.load(source, mask=inside[None, :], other=0.0)  # first, so that the loads run during the rest

    split = tl.arange(0, SPLIT_BLOCK)
    live = split < splits
    row = tl.where(live, split, 0).to(tl.int64) * tokens + token
    mean = tl.sum(tl.load(sqrsum + row, mask=live, other=0.0), 0) / (4.0 * DIM)
    inverse_rms = tl.rsqrt(mean + norm_eps)
    own = partial + row * MIXES
    pre_sum = tl.sum(tl.load(own[:, None] + stream[None, :], mask=live[:, None], other=0.0), 0)
    weight = _sigmoid(pre_sum * inverse_rms * tl.load(scale) + tl.load(base + stream)) + hc_eps
    result = tl.sum(values.to(tl.float32) * weight[:, None], 0)
    if NORM:
        rounded = to_bf16(result).to(tl.float32)
        norm = tl.rsqrt(tl.sum(rounded * rounded, 0) / DIM + norm_eps)
        result = rounded * norm * tl.load(norm_weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(layer_input + token * DIM + column, to_bf16(result), mask=inside)

    if MIXES == 24:
        post_sum = tl.sum(tl.load(own[:, None] + 4 + stream[None, :], mask=live[:, None], other=0.0), 0)
        post_logit = post_sum * inverse_rms * tl.load(scale + 1) + tl.load(base + 4 + stream)
        tl.store(post + token * 4 + stream, 2.0 * _sigmoid(post_logit))
        cell = (stream[:, None] * 4 + stream[None, :])[None, :, :]
        comb_sum = tl.sum(
            tl.load(own[:, None, None] + 8 + cell, mask=live[:, None, None], other=0.0), 0, keep_dims=True
        )
        logit = comb_sum * inverse_rms * tl.load(scale + 2) + tl.load(base + 8 + cell)
        tl.store(comb + token * 16 + cell, _sinkhorn(logit, iterations, hc_eps))


@triton.jit
def post_kernel(f, streams, post, comb, out, DIM: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < DIM
    source = streams + token * (4 * DIM) + column
    x0 = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    x1 = tl.load(source + DIM, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(source + 2 * DIM, mask=inside, other=0.0).to(tl.float32)
    x3 = tl.load(source + 3 * DIM, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(f + token * DIM + column, mask=inside, other=0.0).to(tl.float32)
    for k in tl.static_range(4):
        mixed = y * tl.load(post + token * 4 + k) + x0 * tl.load(comb + token * 16 + k)
        mixed += x1 * tl.load(comb + token * 16 + 4 + k)
        mixed += x2 * tl.load(comb + token * 16 + 8 + k)
        mixed += x3 * tl.load(comb + token * 16 + 12 + k)
        tl.store(out + (token * 4 + k) * DIM + column, to_bf16(mixed), mask=inside)


def mhc_split_sinkhorn(
    mixes: Tensor, scale: Tensor, base: Tensor, iterations: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``ds4_kernels.reference.hyper_connections``. All FP32 and contiguous."""
    if mixes.dim() != 2 or mixes.shape[1] != MIXES:
        raise ValueError(f"mixes must be [T, {MIXES}], got {tuple(mixes.shape)}")
    _need_float32(mixes=mixes, scale=scale, base=base)
    tokens = mixes.shape[0]
    pre, post, comb = (mixes.new_empty(tokens, *shape) for shape in ((STREAMS,), (STREAMS,), (STREAMS, STREAMS)))
    if tokens:
        grid = (triton.cdiv(tokens, SINKHORN_TOKENS),)
        sinkhorn_kernel[grid](
            mixes, scale, base, pre, post, comb, tokens, iterations, eps, BLOCK=SINKHORN_TOKENS, num_warps=4
        )
    return pre, post, comb


def mhc_pre(
    x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iterations: int, norm_eps: float, hc_eps: float,
    norm_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See ``ds4_kernels.reference.hyper_connections``. x BF16 and contiguous, scale, base FP32."""
    tokens, dim = _check_streams(x)
    _need_float32(scale=scale, base=base)
    post = torch.empty(tokens, STREAMS, dtype=torch.float32, device=x.device)
    comb = torch.empty(tokens, STREAMS, STREAMS, dtype=torch.float32, device=x.device)
    if norm_weight is not None and (norm_weight.shape != (dim,) or not norm_weight.is_contiguous()):
        raise ValueError(f"norm_weight must be a contiguous [{dim}], got {tuple(norm_weight.shape)}")
    layer_input = _weighted_sum(x, fn, scale, base, norm_weight, post, comb, iterations, norm_eps, hc_eps)
    return layer_input, post, comb


def mhc_post(f: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """See ``ds4_kernels.reference.hyper_connections``. f and streams BF16, post and comb FP32, all contiguous."""
    tokens, dim = _check_streams(streams)
    _need_float32(post=post, comb=comb)
    if f.shape != (tokens, dim) or f.dtype != torch.bfloat16 or not f.is_contiguous():
        raise ValueError(f"f must be a contiguous bfloat16 [{tokens}, {dim}], got {f.dtype} {tuple(f.shape)}")
    out = torch.empty_like(streams)
    if tokens:
        grid = (tokens, triton.cdiv(dim, POST_BLOCK))
        post_kernel[grid](f, streams, post, comb, out, DIM=dim, BLOCK=POST_BLOCK, num_warps=4)
    return out


def mhc_post_pre(
    f: Tensor, streams: Tensor, post: Tensor, comb: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iterations: int,
    norm_eps: float, hc_eps: float, norm_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See ``ds4_kernels.reference.hyper_connections``: three kernels."""
    new_streams = mhc_post(f, streams, post, comb)
    return new_streams, *mhc_pre(new_streams, fn, scale, base, iterations, norm_eps, hc_eps, norm_weight)


def mhc_head(x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_eps: float, eps: float) -> Tensor:
    """See ``ds4_kernels.reference.hyper_connections``. x BF16 and contiguous, scale, base FP32."""
    _check_streams(x)
    _need_float32(scale=scale, base=base)
    return _weighted_sum(x, fn, scale, base, None, None, None, 1, norm_eps, eps)


def _weighted_sum(
    x: Tensor, fn: Tensor, scale: Tensor, base: Tensor, norm_weight: Tensor | None, post: Tensor | None,
    comb: Tensor | None, iterations: int, norm_eps: float, hc_eps: float,
) -> Tensor:  # fmt: skip
    """GEMM, then the kernel of one program per token; without ``post`` and ``comb`` only the weighted sum (head)."""
    tokens, _, dim = x.shape
    mixes = STREAMS if post is None else MIXES
    check_weights(fn, STREAMS * dim)
    if fn.shape[-2] != mixes or base.numel() != mixes:
        raise ValueError(f"need {mixes} rows of fn and entries of base, got {tuple(fn.shape)} and {tuple(base.shape)}")
    splits = prenorm_splits(tokens, STREAMS * dim, x.device, ahead=fn.dim() == 3)
    partial, sqrsum = mhc_prenorm_gemm(x.view(tokens, STREAMS * dim), fn, splits)
    layer_input = torch.empty(tokens, dim, dtype=x.dtype, device=x.device)
    if tokens:
        block = triton.next_power_of_2(dim)
        pre_kernel[(tokens,)](
            x, partial, sqrsum, scale, base, base if norm_weight is None else norm_weight, layer_input,
            base if post is None else post, base if comb is None else comb, tokens, splits, iterations, norm_eps, hc_eps,
            DIM=dim, DIM_BLOCK=block, SPLIT_BLOCK=next(size for size in _SPLIT_BLOCKS if splits <= size), MIXES=mixes,
            NORM=norm_weight is not None, num_warps=_pre_warps(block),
        )  # fmt: skip
    return layer_input


def _pre_warps(dim_block: int) -> int:
    return 4 if dim_block <= 4096 else 8


def _check_streams(streams: Tensor) -> tuple[int, int]:
    if streams.dim() != 3 or streams.shape[1] != STREAMS or streams.dtype != torch.bfloat16:
        raise ValueError(f"streams must be bfloat16 [T, {STREAMS}, D], got {streams.dtype} {tuple(streams.shape)}")
    if streams.shape[2] % 32 or not streams.is_contiguous():
        raise ValueError(f"streams must be contiguous with D a multiple of 32, got {tuple(streams.shape)}")
    return streams.shape[0], streams.shape[2]


def _need_float32(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous float32, got {tensor.dtype}")


def compile_cases() -> list[CompileCase]:
    """The GEMM's tiles, then the other kernels for D = 4096 (Flash) and 7168 (Pro)."""
    pointers = dict.fromkeys(("mixes", "scale", "base", "pre", "post", "comb"), "*fp32")
    sinkhorn = CompileCase(
        "mhc_split_sinkhorn", f"T{SINKHORN_TOKENS}", sinkhorn_kernel,
        {**pointers, "tokens": "i32", "iterations": "i32", "eps": "fp32"}, {"BLOCK": SINKHORN_TOKENS}, 4,
    )  # fmt: skip
    post = [
        CompileCase(
            "mhc_post", f"D{dim}", post_kernel,
            {"f": "*bf16", "streams": "*bf16", "post": "*fp32", "comb": "*fp32", "out": "*bf16"},
            {"DIM": dim, "BLOCK": POST_BLOCK}, 4,
        )
        for dim in (4096, 7168)
    ]  # fmt: skip
    pre = [
        _pre_case(dim, split_block, norm, mixes)
        for dim in (4096, 7168)
        for split_block in _SPLIT_BLOCKS
        for norm, mixes in ((None, MIXES), ("*bf16", MIXES), ("*fp32", MIXES), (None, STREAMS))
    ]
    return [*prenorm_cases(), sinkhorn, *pre, *post]


def _pre_case(dim: int, split_block: int, norm: str | None, mixes: int) -> CompileCase:
    floats = dict.fromkeys(("partial", "sqrsum", "scale", "base"), "*fp32")
    block = triton.next_power_of_2(dim)
    return CompileCase(
        "mhc_pre" if mixes == MIXES else "mhc_head",
        f"D{dim} S{split_block} norm {norm}",
        pre_kernel,
        {
            "streams": "*bf16", **floats, "norm_weight": norm or "*fp32", "layer_input": "*bf16", "post": "*fp32",
            "comb": "*fp32", "tokens": "i32", "splits": "i32", "iterations": "i32", "norm_eps": "fp32", "hc_eps": "fp32",
        },
        {"DIM": dim, "DIM_BLOCK": block, "SPLIT_BLOCK": split_block, "MIXES": mixes, "NORM": norm is not None},
        _pre_warps(block),
    )  # fmt: skip
