"""Cases of the activation quantiser."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn

_EXACT = Tolerance("exact")


def check_cases() -> list[CheckCase]:
    """Both groups and formats; groups of zeros, of exact powers of two and of 2^-40 .. 2^40; rows with a gap."""
    cases = []
    for tokens, width, group, scale_format, gap in (
        (1, 128, 128, "fp32", 0), (3, 512, 128, "ue8m0", 0), (5, 192, 64, "fp32", 64), (33, 256, 64, "ue8m0", 0),
        (0, 256, 128, "fp32", 0), (9, 640, 128, "fp32", 128), (517, 4096, 128, "fp32", 0),
        (4096, 4096, 128, "ue8m0", 0), (511, 1024, 64, "fp32", 512), (4096, 8192, 128, "fp32", 64),
    ):  # fmt: skip
        large = " large" if tokens * width > 20_000 else ""
        label = f"T={tokens} K={width} group {group} {scale_format} gap {gap}{large}"
        build = quantize_build(tokens, width, group, scale_format, gap)
        cases.append(CheckCase("quant_fp8", label, build, ("q", "scale"), (_EXACT, _EXACT)))
    return cases


def bench_cases() -> list[BenchCase]:
    """Inputs of the model's linears: the hidden size, the q-LoRA rank, the shared expert, wo_b at TP1."""
    cases = []
    for width in (1024, 2048, 4096, 8192):
        for tokens in (1, 4, 32, 512, 4096):
            moved = tokens * (3 * width + width // 32)
            build = quantize_build(tokens, width, 128, "fp32", 0)
            cases.append(BenchCase("quant_fp8", f"T={tokens} K={width}", build, moved))
    return cases


def quantize_build(tokens: int, width: int, group: int, scale_format: str, gap: int) -> Build:
    """Rows of ``width`` with ``gap`` NaNs between them."""

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        values = varied(g, device, tokens, width // group, group).view(tokens, width)
        padded = torch.full((tokens, width + gap), torch.nan, dtype=torch.bfloat16, device=device)
        padded[:, :width] = values
        return {"x": padded[:, :width], "group": group, "scale_format": scale_format}

    return build


def varied(g: torch.Generator, device: torch.device, *shape: int) -> Tensor:
    """BF16 groups (last dimension): normal, times 2^-40 .. 2^40, all equal to a power of two or to 448 of it, or 0."""
    kind = randint(g, device, 0, 8, *shape[:-1], 1)
    power = torch.exp2(randint(g, device, -40, 41, *shape[:-1], 1).to(torch.float32))
    x = randn(g, device, *shape, dtype=torch.float32)
    x = torch.where(kind < 2, x * power, x)
    x = torch.where(kind == 2, power.expand_as(x), x)
    x = torch.where(kind == 3, x.clamp(-1, 1) * 448 * power, x)
    return torch.where(kind == 4, 0.0, x).to(torch.bfloat16)
