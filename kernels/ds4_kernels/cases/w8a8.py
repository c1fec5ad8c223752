"""Cases of the block-FP8 GEMM, and the random operands that ``einsum`` shares."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn

SHAPES = (
    (1536, 4096), (2048, 4096), (4096, 4096), (4096, 1024), (8192, 1024), (16384, 1024),
    (4096, 2048), (1024, 4096), (4096, 512),
)  # fmt: skip
"""(N, K) of the model's FP8 linears at TP2, and the TP4 shapes that differ (kernels.md 2.6)."""

GEMM_LIMIT = Tolerance("diff", limit=5e-6)
"""BF16 rounding alone, of one side, differs by 6e-7; wgmma's short FP32 sums within 128 of K by less than that."""
_DRAWN = (1 << 20) - 3
_FP32_LIMIT = Tolerance("diff", limit=1e-6)


def check_cases() -> list[CheckCase]:
    """All scale forms, N beside the tiles, one token to many, a strided activation, ``out`` given."""
    cases = []
    for m, n, k, a_form, b_form, dtype in (
        (1, 64, 128, "fp32", "fp32", torch.bfloat16), (3, 200, 256, "e8m0", "e8m0", torch.bfloat16),
        (17, 129, 384, "fp32", "e8m0", torch.float32), (2, 1, 128, "e8m0", "fp32", torch.float32),
        (0, 128, 128, "fp32", "fp32", torch.bfloat16), (33, 96, 128, "odd", "fp32", torch.bfloat16),
    ):  # fmt: skip
        cases.append(_check("w8a8_gemm", m, n, k, a_form, b_form, dtype, ""))
    for m, n, k, dtype in ((1, 64, 128, torch.bfloat16), (5, 140, 256, torch.float32), (0, 128, 128, torch.bfloat16)):
        cases.append(_check("w8a8_gemm_mxfp8", m, n, k, "e8m0", "e8m0", dtype, ""))
    for n, k in SHAPES:
        large = partial(_check, n=n, k=k, b_form="e8m0", large=" large")
        cases += [large("w8a8_gemm", m, a_form="fp32", dtype=torch.bfloat16) for m in (1, 5, 16, 33, 64, 100, 200, 512)]
        cases += [large("w8a8_gemm", 1100, a_form="e8m0", dtype=torch.float32)]
        cases += [large("w8a8_gemm_mxfp8", m, a_form="e8m0", dtype=torch.bfloat16) for m in (7, 64, 300, 1000)]
    return cases + [
        _check("w8a8_gemm", m, n, 640, "odd", "fp32", torch.bfloat16, " large")
        for m, n in ((1, 1000), (16, 7000), (60, 4040), (700, 1000), (4096, 5001))
    ]


def bench_cases() -> list[BenchCase]:
    """Decode and prefill sizes of every shape (kernels.md 5.3: (4096, 4096), (16384, 1024) and (1536, 4096))."""
    cases = []
    for n, k in SHAPES:
        for m in (1, 4, 32, 512, 4096):
            moved = m * k + n * k + 2 * m * n + m * k // 32 + n * k // (128 * 128)
            build = gemm_build(m, n, k, "fp32", "e8m0", torch.bfloat16)
            cases.append(BenchCase("w8a8_gemm", f"M={m} N={n} K={k}", build, moved, 2 * m * n * k))
    for m in (1, 32, 512, 4096):
        moved = m * 4096 + 4096 * 4096 + 2 * m * 4096
        build = gemm_build(m, 4096, 4096, "e8m0", "e8m0", torch.bfloat16)
        cases.append(BenchCase("w8a8_gemm_mxfp8", f"M={m} N=4096 K=4096", build, moved, 2 * m * 4096 * 4096))
    return cases


def gemm_build(m: int, n: int, k: int, a_form: str, b_form: str, dtype: torch.dtype, *, given: bool = False) -> Build:
    """Operands of one GEMM; ``given`` adds an ``out`` full of NaN and takes a from a wider matrix."""

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        a = e4m3(g, device, m, k + (128 if given else 0))[:, :k]
        inputs: Inputs = {
            "a": a, "a_scale": scales(g, device, a_form, m, k // 128), "b": e4m3(g, device, n, k),
            "b_scale": scales(g, device, b_form, -(-n // 128), k // 128), "out_dtype": dtype,
        }  # fmt: skip
        if given:
            inputs["out"] = torch.full((m, n), torch.nan, dtype=dtype, device=device)
        return inputs

    return build


def e4m3(g: torch.Generator, device: torch.device, *shape: int) -> Tensor:
    """Normal e4m3 numbers of standard deviation 64, as a group's values are after scaling.

    Large tensors repeat ``_DRAWN`` numbers (no whole number of rows): drawing all would take longer than the op.
    """
    count = math.prod(shape)
    drawn = randn(g, device, min(count, _DRAWN), dtype=torch.float32).mul_(64).clamp_(-448, 448)
    codes = drawn.to(torch.float8_e4m3fn).view(torch.uint8)
    return codes.repeat(-(-count // max(len(codes), 1)))[:count].view(torch.float8_e4m3fn).view(shape)


def scales(g: torch.Generator, device: torch.device, form: str, *shape: int) -> Tensor:
    """Scales around 2^-8: E8M0 bytes (``e8m0``), FP32 powers of two (``fp32``) or any FP32 numbers (``odd``)."""
    if form == "odd":
        return randn(g, device, *shape, dtype=torch.float32).abs().add_(0.5).mul_(2.0**-8)
    byte = randint(g, device, 115, 124, *shape)
    return byte.to(torch.uint8) if form == "e8m0" else torch.exp2(byte.to(torch.float32) - 127)


def _check(op: str, m: int, n: int, k: int, a_form: str, b_form: str, dtype: torch.dtype, large: str) -> CheckCase:
    given = (m + n) % 2 == 1
    limit = GEMM_LIMIT if dtype == torch.bfloat16 else _FP32_LIMIT
    label = f"M={m} N={n} K={k} {a_form} {b_form} {str(dtype)[6:]}{' out given' if given else ''}{large}"
    build = gemm_build(m, n, k, a_form, b_form, dtype, given=given)
    return CheckCase(op, label, build, ("product",) if not given else ("out",), (limit,))
