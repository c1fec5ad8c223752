"""Activation quantisation for the FP8 linears: power-of-two scales per token and group (kernels.md 1.5 and 2.11)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ds4_kernels.reference import quant

ScaleFormat = Literal["fp32", "ue8m0"]


def quant_fp8(x: Tensor, group: int = 128, scale_format: ScaleFormat = "fp32") -> tuple[Tensor, Tensor]:
    """Quantise BF16 ``[T, K]`` to (e4m3 ``[T, K]``, scale ``[T, K / group]``).

    The scale of a group is ``2^ceil(log2(max(amax, 1e-4) / 448))``, as FP32 or as its E8M0 byte (uint8, ``ue8m0``);
    rounding is to nearest even, saturating. Values must be finite. Raises ValueError for other shapes or dtypes.
    """
    check_quant_fp8(x, group, scale_format)
    q, byte = quant.fp8_quantize(x.to(torch.float32), group)
    return q, byte if scale_format == "ue8m0" else quant.e8m0_value(byte)


def check_quant_fp8(x: Tensor, group: int, scale_format: str) -> None:
    """The argument checks of ``quant_fp8``: ValueError with one line."""
    if x.dim() != 2 or x.dtype != torch.bfloat16:
        raise ValueError(f"x must be bfloat16 [T, K], not {x.dtype} {list(x.shape)}")
    if x.shape[1] % group:
        raise ValueError(f"last dimension {x.shape[1]} is not a multiple of the group {group}")
    if scale_format not in ("fp32", "ue8m0"):
        raise ValueError(f"scale_format must be 'fp32' or 'ue8m0', not {scale_format!r}")
