"""RMS norms: a program holds whole rows in registers, several of them where rows are short."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.triton.common import to_bf16
from ds4_kernels.triton.compile_case import CompileCase

ELEMENTS = 4096
"""Elements of a program: 32 for each of 128 threads."""
_DIMS = (128, 512, 1024, 1536, 4096, 7168)


@triton.jit(do_not_specialize=["rows", "x_stride", "out_stride"])
def rms_norm_kernel(
    x, weight, out, rows, x_stride, out_stride, eps,
    DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, ROWS: tl.constexpr, WEIGHTED: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, DIM_BLOCK)[None, :]
    inside = column < DIM
    stored = inside & (row < rows)[:, None]
    source = tl.minimum(row, rows - 1).to(tl.int64)[:, None]
    from_row, to_row = source * x_stride * UNIT, source * out_stride * UNIT
    values = tl.load(x + from_row + column, mask=inside, other=0.0).to(tl.float32)
    result = values * tl.rsqrt(tl.sum(values * values, 1) / DIM + eps)[:, None]
    if WEIGHTED:
        # A row of its own: Triton 3.6 fails to coalesce the same load as a [1, DIM_BLOCK] tile.
        lane = tl.arange(0, DIM_BLOCK)
        result *= tl.load(weight + lane, mask=lane < DIM, other=0.0).to(tl.float32)[None, :]
    tl.store(out + to_row + column, to_bf16(result), mask=stored)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, out: Tensor | None = None) -> Tensor:
    """See ``ds4_kernels.reference.norms``. x and out BF16 with dense last dimension, weight BF16 or FP32.

    Two-dimensional x and out may have any row stride; more dimensions must be contiguous.
    """
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _check(x, weight, out)
    rows_in, rows_out = (tensor if tensor.dim() == 2 else tensor.view(-1, tensor.shape[-1]) for tensor in (x, out))
    rows, dim = rows_in.shape
    if rows:
        aligned = all(t.stride(0) % 8 == 0 and t.data_ptr() % 16 == 0 for t in (rows_in, rows_out))
        unit = 8 if aligned else 1
        constexprs = _constexprs(dim, weight is not None, unit)
        rms_norm_kernel[(triton.cdiv(rows, constexprs["ROWS"]),)](
            rows_in, rows_in if weight is None else weight, rows_out, rows, rows_in.stride(0) // unit,
            rows_out.stride(0) // unit, eps,
            **constexprs, num_warps=_warps(constexprs["DIM_BLOCK"]),
        )  # fmt: skip
    return out


def mtp_fuse(
    embeds: Tensor, streams: Tensor, embed_weight: Tensor, stream_weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See ``ds4_kernels.reference.norms``: two launches."""
    return rms_norm(embeds, embed_weight, eps), rms_norm(streams, stream_weight, eps)


def _check(x: Tensor, weight: Tensor | None, out: Tensor) -> None:
    if x.dtype != torch.bfloat16 or out.dtype != torch.bfloat16 or x.shape != out.shape or x.dim() < 2:
        raise ValueError(f"need x and out in bfloat16 of one shape, got {x.dtype}, {out.dtype}, {tuple(out.shape)}")
    for tensor in (x, out):
        if tensor.stride(-1) != 1 or not (tensor.dim() == 2 or tensor.is_contiguous()):
            raise ValueError("the last dimension must be dense, and x contiguous if it has more than two dimensions")
    if weight is None:
        return
    if (
        weight.shape != (x.shape[-1],)
        or weight.dtype not in (torch.bfloat16, torch.float32)
        or not weight.is_contiguous()
    ):
        raise ValueError(
            f"weight must be bfloat16 or float32 [{x.shape[-1]}], got {weight.dtype} {tuple(weight.shape)}"
        )


def _constexprs(dim: int, weighted: bool, unit: int) -> dict[str, int]:
    """``unit``: what both row strides are multiples of, 8 elements for 16-byte loads."""
    block = triton.next_power_of_2(dim)
    return {
        "DIM": dim, "DIM_BLOCK": block, "ROWS": max(1, ELEMENTS // block), "WEIGHTED": weighted, "UNIT": unit,
    }  # fmt: skip


def _warps(dim_block: int) -> int:
    return 4 if dim_block <= ELEMENTS else 8


def compile_cases() -> list[CompileCase]:
    """The model's row lengths, the three kinds of weight."""
    return [
        CompileCase(
            "rms_norm", f"D{dim} weight {weight} unit {unit}", rms_norm_kernel,
            {
                "x": "*bf16", "weight": weight or "*bf16", "out": "*bf16", "rows": "i32", "x_stride": "i32",
                "out_stride": "i32", "eps": "fp32",
            },
            dict(_constexprs(dim, weight is not None, unit)), _warps(triton.next_power_of_2(dim)),
        )
        for dim in _DIMS
        for weight, unit in (("*bf16", 8), ("*fp32", 8), (None, 8), ("*bf16", 1))
    ]  # fmt: skip
