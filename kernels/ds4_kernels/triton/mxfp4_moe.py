"""The routed experts with MXFP4 weights: the choice between three sets of kernels.

``y[t] = sum over slots of w2 (weight * silu(min(w1 x, limit)) * clamp(w3 x, -limit, limit))``, w13 = [w1; w3].

* ``mxfp4_decode``, up to ``mxfp4_decode.MAX_TOKENS`` tokens: memory-bound, nothing is sorted.
* ``mxfp4_grouped``: pairs grouped by expert, BF16 MMA; ``w4a8`` numbers are exact in BF16, so both modes share it.
* ``mxfp4_native``: the same by block-scaled FP8 MMA, ``w4a8`` only, for SM12x and on request.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ds4_kernels.reference.mxfp4_moe import Mode, check_arguments
from ds4_kernels.triton import mxfp4_decode, mxfp4_grouped, mxfp4_native
from ds4_kernels.triton.mxfp4_values import input_planes

NATIVE_VARIABLE = "DS4_KERNELS_NATIVE_MXFP4"


def mxfp4_moe(
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    w13: Tensor,
    s13: Tensor,
    w2: Tensor,
    s2: Tensor,
    limit: float,
    mode: Mode = "w4a8",
    out: Tensor | None = None,
    native: bool | None = None,
) -> Tensor:
    """Sum of each token's experts, BF16 ``[T, D]``: shapes, dtypes and numerics as ``reference.mxfp4_moe.mxfp4_moe``.

    ``native`` asks for the block-scaled MMA where more than ``mxfp4_decode.MAX_TOKENS`` tokens are given: None follows
    the environment variable DS4_KERNELS_NATIVE_MXFP4=1 on SM12x and is off elsewhere; True takes it on any GPU (emulated
    but on SM12x). Never waits for the device; capturable. Raises ValueError for shapes, dtypes, a mode that do not fit,
    weights that are not contiguous, and native with ``w4a16``.
    """
    check_arguments(x, topk_ids, topk_weights, w13, s13, w2, s2, mode, out)
    for name, weight in (("w13", w13), ("s13", s13), ("w2", w2), ("s2", s2)):
        if not weight.is_contiguous():
            raise ValueError(f"mxfp4_moe: {name} must be contiguous, its strides are {weight.stride()}")
    if native and mode != "w4a8":
        raise ValueError(f"mxfp4_moe: native needs mode 'w4a8', got {mode!r}")
    result = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    if not result.is_contiguous():
        raise ValueError(f"mxfp4_moe: out must be contiguous, its strides are {result.stride()}")
    x, ids, weights = x.contiguous(), topk_ids.contiguous(), topk_weights.contiguous()
    if x.shape[0] == 0 or ids.shape[1] == 0:
        return result.zero_()
    decode = x.shape[0] <= mxfp4_decode.MAX_TOKENS
    if not decode and mode == "w4a8" and (native if native is not None else _native_wanted(x.device)):
        mxfp4_native.experts(x, ids, weights, w13, s13, w2, s2, float(limit), result)
        return result
    fp8 = mode == "w4a8"
    words13, words2 = w13.view(torch.int16), w2.view(torch.int16)
    if decode:
        four13, four2 = s13.view(torch.int32), s2.view(torch.int32)
        mxfp4_decode.experts(x, ids, weights, words13, four13, words2, four2, float(limit), fp8, result)
    else:
        planes = input_planes(x, fp8)
        mxfp4_grouped.experts(planes, ids, weights, words13, s13, words2, s2, float(limit), fp8, result)
    return result


def _native_wanted(device: torch.device) -> bool:
    """Whether the environment asks for the block-scaled MMA and the device has it."""
    if os.environ.get(NATIVE_VARIABLE, "0") != "1" or device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device)[0] == 12
