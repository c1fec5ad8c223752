"""Device helpers that several kernels share: exact power-of-two scales, FP8 and BF16 rounding, dots.

The Triton interpreter (``TRITON_INTERPRET=1``, CPU tests) multiplies BF16 wrongly, truncates FP32 to BF16 and rounds
FP32 to e4m3 wrongly. The helpers take an integer-arithmetic route there, and the native instruction on a GPU.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
E4M3_MAX = tl.constexpr(448.0)
FP8_AMAX_FLOOR = tl.constexpr(1e-4)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def dot(a, b, acc):
    """``acc + a @ b`` with FP32 accumulation; operands BF16 or e4m3."""
    if INTERPRETED:
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def to_bf16(x):
    """FP32 to BF16, to nearest even (finite values and infinities)."""
    if INTERPRETED:
        bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        finite = (bits & 0x7F800000) != 0x7F800000
        return tl.where(finite, rounded & 0xFFFF0000, bits).to(tl.float32, bitcast=True).to(tl.bfloat16)
    else:
        return x.to(tl.bfloat16)


@triton.jit
def scale_byte(amax, qmax, floor):
    """E8M0 byte (int32) of the smallest power of two >= max(amax, floor) / qmax: exact, by exponent bits."""
    ratio = tl.div_rn(tl.maximum(amax, floor), tl.full(amax.shape, qmax, tl.float32))
    bits = ratio.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFFFF) >> 23) & 0xFF


@triton.jit
def pow2(byte):
    """2^(byte - 127) as FP32 from int32 E8M0 bytes 1 .. 254."""
    return (byte << 23).to(tl.float32, bitcast=True)


@triton.jit
def inverse_pow2(byte):
    """2^(127 - byte) as FP32: the exact reciprocal of ``pow2``."""
    return ((254 - byte) << 23).to(tl.float32, bitcast=True)


@triton.jit
def to_e4m3(x):
    """FP32 to e4m3, to nearest even, saturating at 448 (finite values)."""
    if INTERPRETED:
        return _e4m3_code(x).to(tl.float8e4nv, bitcast=True)
    else:
        return tl.clamp(x, -448.0, 448.0).to(tl.float8e4nv)


@triton.jit
def _e4m3_code(x):
    bits = x.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 0x80
    magnitude = tl.minimum(tl.abs(x), 448.0)
    # Normal range: keep three mantissa bits, round to nearest even on the integer pattern, rebias the exponent.
    pattern = magnitude.to(tl.int32, bitcast=True)
    normal = ((pattern + 0x7FFFF + ((pattern >> 20) & 1)) >> 20) - ((127 - 7) << 3)
    # Below 2^-6: multiples of 2^-9. Adding 2^14 leaves exactly those in the last mantissa bit, rounded to even.
    shifted = (magnitude + 16384.0).to(tl.int32, bitcast=True)
    subnormal = shifted & 0xF
    code = tl.where(magnitude < 0.015625, subnormal, tl.minimum(normal, 0x7E))
    return (code | sign).to(tl.uint8)


@triton.jit
def e4m3_to_bf16(q):
    """Widen e4m3 to BF16: exact."""
    if INTERPRETED:
        return q.to(tl.float32).to(tl.bfloat16)
    else:
        return q.to(tl.bfloat16)
