"""Power-of-two-scaled FP8 and FP4 quantisation: the one rule that caches, activations and weights share.

A group's scale is the smallest power of two that brings its absolute maximum inside the format's range:
``scale = 2 ** ceil(log2(amax / qmax))``. It is rounded up by exponent bits, which is exact at powers of two, where
``ceil(log2(x))`` in floating point can be off by one. A scale is stored as its E8M0 byte: ``b`` is 2^(b-127).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

E4M3_MAX = 448.0
E2M1_MAX = 6.0
FP8_AMAX_FLOOR = 1e-4
FP4_AMAX_FLOOR = E2M1_MAX * 2.0**-126
E8M0_BIAS = 127
FP4_GROUP = 32
WEIGHT_BLOCK = 128

_E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


_MANTISSA = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def pow2_ceil(x: Tensor) -> Tensor:
    """The smallest power of two that is not below ``x`` (positive, normal, FP32 or FP64): exact, by exponent bits."""
    integer, bits, _ = _MANTISSA[x.dtype]
    ones = (1 << bits) - 1
    return x.contiguous().view(integer).add(ones).bitwise_and_(~ones).view(x.dtype)


def group_scale(amax: Tensor, qmax: float, floor: float) -> Tensor:
    """Power-of-two scales (same dtype and shape) for group maxima; ``amax`` is raised to ``floor`` first."""
    return pow2_ceil(amax.clamp_min(floor).div_(qmax))


def e8m0_encode(scale: Tensor) -> Tensor:
    """E8M0 bytes (uint8) of powers of two between 2^-126 and 2^127."""
    integer, bits, bias = _MANTISSA[scale.dtype]
    return (scale.contiguous().view(integer) >> bits).sub_(bias - E8M0_BIAS).to(torch.uint8)


def e8m0_value(scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The powers of two that E8M0 bytes stand for."""
    return _e8m0_table(dtype, scale.device)[scale.to(torch.int32)]


@functools.cache
def _e8m0_table(dtype: torch.dtype, device: torch.device) -> Tensor:
    exponent = torch.arange(256, dtype=torch.float64) - E8M0_BIAS
    return torch.exp2(exponent).to(dtype).to(device)


def fp8_quantize(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Quantise the last dimension in groups: ``[..., n] -> (e4m3 [..., n], E8M0 uint8 [..., n / group])``.

    Rounding is to nearest even, saturating. Raises ValueError when n is not a multiple of ``group``.
    """
    groups = _grouped(x, group)
    scale = group_scale(groups.abs().amax(dim=-1), E4M3_MAX, FP8_AMAX_FLOOR)
    q = (groups / scale.unsqueeze(-1)).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return q.view(x.shape), e8m0_encode(scale)


def fp8_dequantize(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of ``fp8_quantize``: exact, because a scale is a power of two."""
    groups = e4m3_to_float(q, dtype).view(*scale.shape, q.shape[-1] // scale.shape[-1])
    return (groups * e8m0_value(scale, dtype).unsqueeze(-1)).view(q.shape)


def e4m3_to_float(q: Tensor, dtype: torch.dtype) -> Tensor:
    """Widen e4m3 exactly. On a CPU through float16 bits, several times faster than the scalar cast.

    Shifting the seven magnitude bits left by seven gives the float16 number that is 2^8 times smaller, subnormals
    included; only the NaN code (0x7f) would differ, and the quantiser never writes it.
    """
    if q.device.type != "cpu":
        return q.to(dtype)
    bits = q.view(torch.int8).to(torch.int16)
    half = ((bits & 0x7F) << 7) | (bits & -0x8000)
    return half.view(torch.float16).to(dtype).mul_(256.0)


def fp8_simulate(x: Tensor, group: int) -> Tensor:
    """Quantise and dequantise: what an FP8 GEMM sees of its activation ``[..., n]``."""
    groups = _grouped(x, group)
    scale = group_scale(groups.abs().amax(dim=-1, keepdim=True), E4M3_MAX, FP8_AMAX_FLOOR)
    q = (groups / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return (e4m3_to_float(q, x.dtype).mul_(scale)).view(x.shape)


def fp8_quantize_weight(w: Tensor) -> tuple[Tensor, Tensor]:
    """Block-quantise a weight ``[out, in] -> (e4m3 [out, in], E8M0 [ceil(out / 128), ceil(in / 128)])``."""
    blocks = _weight_blocks(w)
    scale = group_scale(blocks.abs().amax(dim=(1, 3)), E4M3_MAX, FP8_AMAX_FLOOR)
    q = (blocks / scale[:, None, :, None]).clamp_(-E4M3_MAX, E4M3_MAX)
    rows, cols = blocks.shape[0] * WEIGHT_BLOCK, blocks.shape[2] * WEIGHT_BLOCK
    return q.reshape(rows, cols)[: w.shape[0], : w.shape[1]].to(torch.float8_e4m3fn).contiguous(), e8m0_encode(scale)


def fp8_dequantize_weight(q: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of ``fp8_quantize_weight``."""
    factor = e8m0_value(scale, dtype).repeat_interleave(WEIGHT_BLOCK, 0).repeat_interleave(WEIGHT_BLOCK, 1)
    return e4m3_to_float(q, dtype) * factor[: q.shape[0], : q.shape[1]]


def mxfp4_quantize(w: Tensor) -> tuple[Tensor, Tensor]:
    """MXFP4: ``[..., n] -> (packed E2M1 uint8 [..., n / 2], E8M0 uint8 [..., n / 32])``; low nibble = even index."""
    groups = _grouped(w, FP4_GROUP)
    scale = group_scale(groups.abs().amax(dim=-1), E2M1_MAX, FP4_AMAX_FLOOR)
    code = _e2m1_code((groups / scale.unsqueeze(-1)).view(w.shape))
    return code[..., 0::2] | (code[..., 1::2] << 4), e8m0_encode(scale)


def mxfp4_dequantize(packed: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of ``mxfp4_quantize``."""
    table = _constant(_E2M1_VALUES + tuple(-v for v in _E2M1_VALUES), dtype, packed.device)
    code = torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)
    groups = table[code.to(torch.int32)].view(*scale.shape, FP4_GROUP)
    return (groups * e8m0_value(scale, dtype).unsqueeze(-1)).view(code.shape)


@functools.lru_cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: a copy from the host would break the capture of a CUDA graph."""
    return torch.tensor(values, dtype=dtype, device=device)


def _e2m1_code(x: Tensor) -> Tensor:
    """4-bit codes of the nearest E2M1 value, ties to the even code, saturating at 6."""
    mid = _constant((0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0), x.dtype, x.device)
    magnitude = x.abs()
    code = torch.bucketize(magnitude, mid)  # a tie goes to the lower code ...
    tie_up = (magnitude.unsqueeze(-1) == mid).any(-1) & (code % 2 == 1)  # ... unless that is odd
    return (code + tie_up).to(torch.uint8) | (torch.signbit(x).to(torch.uint8) << 3)


def _grouped(x: Tensor, group: int) -> Tensor:
    if x.shape[-1] % group:
        raise ValueError(f"last dimension {x.shape[-1]} is not a multiple of the group {group}")
    return x.reshape(*x.shape[:-1], x.shape[-1] // group, group)


def _weight_blocks(w: Tensor) -> Tensor:
    rows, cols = -w.shape[0] % WEIGHT_BLOCK, -w.shape[1] % WEIGHT_BLOCK
    padded = torch.nn.functional.pad(w, (0, cols, 0, rows))
    return padded.view(padded.shape[0] // WEIGHT_BLOCK, WEIGHT_BLOCK, padded.shape[1] // WEIGHT_BLOCK, WEIGHT_BLOCK)
