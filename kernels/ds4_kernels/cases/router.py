"""Cases of the router and of the clamped SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn

EXPERTS, TOPK, SCALE, LIMIT, INTER = 256, 6, 1.5, 10.0, 2048
_ROUTED = (Tolerance("exact"), Tolerance("close", 1e-6, 2e-6))
_BF16 = (Tolerance("close", 1e-6, 2.0**-7),)
_FP32 = (Tolerance("close", 1e-6, 1e-5),)


def check_cases() -> list[CheckCase]:
    """Bias, none and hash lookup (with -1), one row to many, few experts; SwiGLU of both dtypes at and past the limit."""
    cases = [
        CheckCase("route", f"T={rows} E={experts} k={topk} {kind}{' large' if rows > 64 else ''}",
                  route_build(rows, experts, topk, kind), ("ids", "weights"), _ROUTED)
        for rows, experts, topk in ((1, 256, 6), (5, 12, 3), (33, 8, 8), (4096, 256, 6))
        for kind in ("plain", "bias", "hash", "hash int64")
    ]  # fmt: skip
    for rows, inter in ((1, 128), (3, 200), (7, 2048), (4096, 2048)):
        large = " large" if rows > 64 else ""
        for dtype, tolerance in ((torch.bfloat16, _BF16), (torch.float32, _FP32)):
            label = f"T={rows} I={inter} {str(dtype)[6:]}{large}"
            cases.append(CheckCase("swiglu_clamped", label, swiglu_build(rows, inter, dtype), ("out",), tolerance))
    return cases


def bench_cases() -> list[BenchCase]:
    """V4-Flash's router and SwiGLU (the shared expert's, and what an unfused expert would need)."""
    cases = []
    for rows in (1, 4, 32, 512, 4096):
        moved = rows * (EXPERTS * 4 + TOPK * 8)
        cases.append(BenchCase("route", f"T={rows} bias", route_build(rows, EXPERTS, TOPK, "bias"), moved))
        cases.append(BenchCase("route", f"T={rows} hash", route_build(rows, EXPERTS, TOPK, "hash"), rows * TOPK * 16))
        build = swiglu_build(rows, INTER, torch.bfloat16)
        cases.append(BenchCase("swiglu_clamped", f"T={rows} I={INTER}", build, rows * INTER * 6))
    return cases


def route_build(rows: int, experts: int, topk: int, kind: str) -> Build:
    """Inputs of ``route``. Scores lie on a grid, so that rounding cannot swap two experts."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        order = torch.argsort(torch.rand(rows, experts, generator=generator), dim=1)
        score = (order + 8).double() / 64  # distinct in a row
        inputs: Inputs = {"logits": _inverse_score(score).to(device), "topk": topk, "route_scale": SCALE}
        if kind == "bias":
            # Multiples of the grid plus a fraction of a step that differs between experts: no two sums are equal.
            steps = torch.randint(-experts, experts, (experts,), generator=generator)
            inputs["bias"] = ((steps + torch.arange(experts) / experts) / 64).float().to(device)
        if kind.startswith("hash"):
            dtype = torch.int64 if kind.endswith("int64") else torch.int32
            ids = randint(generator, device, -1, experts, rows, topk, dtype=dtype)
            ids[0] = -1
            inputs["expert_ids"] = ids
        return inputs

    return build


def swiglu_build(rows: int, inter: int, dtype: torch.dtype) -> Build:
    """Inputs of ``swiglu_clamped`` that pass the limit on both sides."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        gate_up = randn(generator, device, rows, 2 * inter, dtype=torch.float32) * 8
        gate_up[0, :2] = torch.tensor([-200.0, 200.0], device=device)
        return {"gate_up": gate_up.to(dtype), "limit": LIMIT}

    return build


def _inverse_score(score: Tensor) -> Tensor:
    """The logit whose ``sqrt(softplus(logit))`` is ``score``, FP32."""
    squared = score.square()
    return (squared + torch.log(-torch.expm1(-squared))).float()
