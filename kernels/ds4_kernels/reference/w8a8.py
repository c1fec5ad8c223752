"""Block-FP8 GEMM: e4m3 activations with a scale per token and 128 of K, e4m3 weights with one per 128x128 block.

``out[m, n] = sum over blocks kb of a_scale[m, kb] * b_scale[n // 128, kb] * sum over k in kb of a[m, k] b[n, k]``
(kernels.md 2.6). Every product of two e4m3 numbers is exact in FP32; only the sums round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.reference import quant

BLOCK = quant.WEIGHT_BLOCK
OUT_DTYPES = (torch.bfloat16, torch.float32)


def w8a8_gemm(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``[M, N]`` from a e4m3 ``[M, K]``, a_scale ``[M, K/128]``, b e4m3 ``[N, K]``, b_scale ``[ceil(N/128), K/128]``.

    Scales are FP32 or E8M0 bytes (uint8 or float8_e8m0fnu), each side on its own; ``out`` (dtype ``out_dtype``) is
    written and returned if given. K must be a multiple of 128; N need not. Raises ValueError for other arguments.
    """
    check_gemm(a, a_scale, b, b_scale, out_dtype, out)
    product = dequantized(a, a_scale) @ dequantized(b, b_scale, rows=BLOCK).T
    return product.to(out_dtype) if out is None else out.copy_(product)


def w8a8_gemm_mxfp8(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``w8a8_gemm`` for E8M0 scales only: the contract of the kernel for SM12x's block-scaled MMA."""
    check_e8m0(a_scale, b_scale)
    return w8a8_gemm(a, a_scale, b, b_scale, out_dtype, out)


def dequantized(q: Tensor, scale: Tensor, rows: int = 1) -> Tensor:
    """FP32 ``[..., R, K]`` from e4m3 (K innermost) and ``[..., ceil(R / rows), K / 128]``, a scale per rows x 128."""
    factor = scale_value(scale)
    if rows > 1:
        factor = factor.repeat_interleave(rows, -2)[..., : q.shape[-2], :]
    blocks = quant.e4m3_to_float(q, torch.float32).view(*factor.shape, BLOCK)
    return (blocks * factor.unsqueeze(-1)).view(q.shape)


def scale_value(scale: Tensor) -> Tensor:
    """FP32 scales from FP32 or from E8M0 bytes."""
    return scale if scale.dtype == torch.float32 else quant.e8m0_value(as_bytes(scale))


def as_bytes(scale: Tensor) -> Tensor:
    """The E8M0 bytes of a float8_e8m0fnu tensor; any other tensor as it is."""
    return scale.view(torch.uint8) if scale.dtype == torch.float8_e8m0fnu else scale


def check_e8m0(a_scale: Tensor, b_scale: Tensor) -> None:
    """ValueError unless both scales are E8M0 bytes."""
    for name, scale in (("a_scale", a_scale), ("b_scale", b_scale)):
        if as_bytes(scale).dtype != torch.uint8:
            raise ValueError(f"the native block-scaled MMA needs E8M0 scales: {name} is {scale.dtype}")


def check_gemm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, out_dtype: torch.dtype, out: Tensor | None
) -> None:
    """The argument checks of ``w8a8_gemm``: ValueError with one line."""
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or a.shape[1] % BLOCK or not a.shape[1]:
        raise ValueError(f"need a [M, K] and b [N, K], K a multiple of 128: a {list(a.shape)}, b {list(b.shape)}")
    check_operands(a, a_scale, b, b_scale)
    (m, k), n = a.shape, b.shape[0]
    if a_scale.shape != (m, k // BLOCK) or b_scale.shape != (-(-n // BLOCK), k // BLOCK):
        raise ValueError(
            f"a_scale must be [{m}, {k // BLOCK}] and b_scale [{-(-n // BLOCK)}, {k // BLOCK}], "
            f"not {list(a_scale.shape)} and {list(b_scale.shape)}"
        )
    if out_dtype not in OUT_DTYPES:
        raise ValueError(f"out_dtype must be bfloat16 or float32, not {out_dtype}")
    if out is not None and (out.shape != (m, n) or out.dtype != out_dtype):
        raise ValueError(f"out must be {out_dtype} [{m}, {n}], not {out.dtype} {list(out.shape)}")


def check_operands(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> None:
    """ValueError unless the operands are e4m3 and their scales FP32 or E8M0."""
    for name, operand in (("a", a), ("b", b)):
        if operand.dtype != torch.float8_e4m3fn:
            raise ValueError(f"{name} must be float8_e4m3fn, not {operand.dtype}")
    for name, scale in (("a_scale", a_scale), ("b_scale", b_scale)):
        if as_bytes(scale).dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"{name} must be float32 or E8M0 (uint8), not {scale.dtype}")
