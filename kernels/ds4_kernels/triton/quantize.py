"""Activation quantisation to FP8: see ``ds4_kernels.reference.quantize``. Bound by memory: 3 bytes a value."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference.quantize import ScaleFormat, check_quant_fp8
from ds4_kernels.triton.common import E4M3_MAX, FP8_AMAX_FLOOR, inverse_pow2, pow2, scale_byte, to_e4m3
from ds4_kernels.triton.compile_case import CompileCase

GROUPS = (64, 128)
VALUES = 4096
"""Values a program quantises: 16 KiB of loads in flight on a multiprocessor with two programs or more."""


def quant_fp8(x: Tensor, group: int = 128, scale_format: ScaleFormat = "fp32") -> tuple[Tensor, Tensor]:
    """See ``ds4_kernels.reference.quantize.quant_fp8``. x has K innermost; group is 64 or 128."""
    check_quant_fp8(x, group, scale_format)
    if group not in GROUPS or x.stride(1) != 1:
        raise ValueError(f"group must be 64 or 128 and K innermost, not {group} and strides {x.stride()}")
    tokens, width = x.shape
    q = torch.empty(tokens, width, dtype=torch.float8_e4m3fn, device=x.device)
    dtype = torch.float32 if scale_format == "fp32" else torch.uint8
    scale = torch.empty(tokens, width // group, dtype=dtype, device=x.device)
    if x.numel():
        rows = VALUES // group
        _quant[(triton.cdiv(scale.numel(), rows),)](
            x, q, scale, scale.numel(), width // group, x.stride(0),
            GROUP=group, BLOCK_ROWS=rows, FP32_SCALE=scale_format == "fp32", num_warps=4,
        )  # fmt: skip
    return q, scale


@triton.jit(do_not_specialize=["total"])
def _quant(
    x, q, scale, total, per_token, x_token,
    GROUP: tl.constexpr, BLOCK_ROWS: tl.constexpr, FP32_SCALE: tl.constexpr,
):  # fmt: skip
    # A row is one group of one token; rows of all tokens are numbered through.
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = row < total
    safe = tl.minimum(row, total - 1)
    lane = tl.arange(0, GROUP)
    source = (safe // per_token).to(tl.int64) * x_token + (safe % per_token) * GROUP
    target = safe.to(tl.int64) * GROUP
    values = tl.load(x + source[:, None] + lane[None, :]).to(tl.float32)
    byte = scale_byte(tl.max(tl.abs(values), axis=1), E4M3_MAX, FP8_AMAX_FLOOR)
    tl.store(q + target[:, None] + lane[None, :], to_e4m3(values * inverse_pow2(byte)[:, None]), mask=inside[:, None])
    if FP32_SCALE:
        tl.store(scale + safe, pow2(byte), mask=inside)
    else:
        tl.store(scale + safe, byte.to(tl.uint8), mask=inside)


def compile_cases() -> list[CompileCase]:
    """Both groups with both scale formats."""
    return [
        CompileCase(
            op="quant_fp8",
            config=f"group {group} {pointer}",
            kernel=_quant,
            signature={
                "x": "*bf16", "q": "*fp8e4nv", "scale": pointer, "total": "i32", "per_token": "i32", "x_token": "i32",
            },
            constexprs={"GROUP": group, "BLOCK_ROWS": VALUES // group, "FP32_SCALE": pointer == "*fp32"},
            num_warps=4,
            divisible=("x_token",),
        )
        for group in GROUPS
        for pointer in ("*fp32", "*u8")
    ]  # fmt: skip
