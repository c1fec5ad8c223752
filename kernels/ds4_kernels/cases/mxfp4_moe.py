"""Cases of the routed experts with MXFP4 weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn

DIM, INTER, EXPERTS, TOPK, LIMIT = 4096, 2048, 256, 6, 10.0

_CLOSE = (Tolerance("diff", 1e-5),)
"""BF16 rounding of the output is 2e-6 of it; the rest is for FP8 or BF16 values that the order of a sum moves a step."""
_EXPERT_BYTES = 3 * DIM * INTER // 2 + 3 * DIM * INTER // 32


GROUPED = 256
"""Above so many tokens the Triton kernels group by expert: the native form exists there alone."""


def check_cases() -> list[CheckCase]:
    """Both modes and all three sets of kernels; -1 experts, one expert for all, a token without any, odd sizes."""
    small = [
        # T, D, I, E, k, routing
        (1, 256, 128, 8, 2, "random"), (3, 128, 128, 4, 3, "random"), (5, 256, 128, 6, 2, "holes"),
        (9, 128, 128, 4, 2, "one"), (4, 128, 128, 3, 2, "none"), (0, 128, 128, 4, 2, "random"),
        (258, 128, 128, 4, 1, "holes"), (260, 128, 128, 3, 1, "one"),
    ]  # fmt: skip
    big = [
        (1, 4096, 2048, 32, 6, "random"), (2, 4096, 2048, 32, 6, "random"), (8, 4096, 2048, 64, 6, "random"),
        (32, 4096, 2048, 64, 6, "holes"), (64, 4096, 2048, 16, 6, "one"), (256, 4096, 2048, 64, 6, "random"),
        (257, 4096, 2048, 64, 6, "random"),
        (512, 4096, 2048, 64, 6, "holes"), (1000, 2048, 1024, 24, 4, "random"), (700, 4096, 2048, 32, 2, "one"),
        (2048, 1024, 896, 64, 8, "random"),
    ]  # fmt: skip
    cases = [_check(sizes, mode, None) for sizes in small + big for mode in ("w4a8", "w4a16")]
    return cases + [_check(sizes, "w4a8", True) for sizes in small + big if sizes[0] > GROUPED]


def bench_cases() -> list[BenchCase]:
    """V4-Flash's layer, 256 experts, random routing (kernels.md 5.3), in the model's mode; W4A16 and native beside it."""
    cases = [_bench(tokens, "w4a8", None) for tokens in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)]
    cases += [_bench(tokens, "w4a16", None) for tokens in (1, 32, 512, 4096)]
    return cases + [_bench(tokens, "w4a8", True) for tokens in (512, 4096)]


def _check(sizes: tuple[int, int, int, int, int, str], mode: str, native: bool | None) -> CheckCase:
    tokens, dim, inter, experts, topk, routing = sizes
    large = " large" if tokens * dim * inter > 5e6 else ""
    label = f"T={tokens} D={dim} I={inter} E={experts} k={topk} {routing} {mode}{' native' if native else ''}{large}"
    build = moe_build(tokens, dim, inter, experts, topk, routing, mode, native)
    return CheckCase("mxfp4_moe", label, build, ("out",), _CLOSE)


def _bench(tokens: int, mode: str, native: bool | None) -> BenchCase:
    used = EXPERTS * (1 - (1 - TOPK / EXPERTS) ** tokens)  # experts that at least one token chose, on average
    moved = int(used * _EXPERT_BYTES) + tokens * DIM * 4
    build = moe_build(tokens, DIM, INTER, EXPERTS, TOPK, "random", mode, native)
    label = f"T={tokens} E={EXPERTS} {mode}{' native' if native else ''}"
    return BenchCase("mxfp4_moe", label, build, moved, 6 * tokens * TOPK * DIM * INTER)


def moe_build(
    tokens: int, dim: int, inter: int, experts: int, topk: int, routing: str, mode: str, native: bool | None
) -> Build:
    """Inputs of ``mxfp4_moe``; weights of slots without an expert are NaN, and so are tokens without any expert."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        x = randn(generator, device, tokens, dim)
        ids = _routes(generator, device, tokens, experts, topk, routing)
        weights = torch.rand(tokens, topk, generator=generator).to(device) + 0.1
        weights[(ids < 0) | (ids >= experts)] = float("nan")
        x[((ids < 0) | (ids >= experts)).all(dim=1)] = float("nan")
        seed = int(torch.randint(0, 2**31, (), generator=generator))
        inputs: Inputs = {
            "x": x, "topk_ids": ids, "topk_weights": weights,
            "w13": _bytes(seed, device, 0, 256, experts, 2 * inter, dim // 2),
            "s13": _bytes(seed + 1, device, 117, 123, experts, 2 * inter, dim // 32),
            "w2": _bytes(seed + 2, device, 0, 256, experts, dim, inter // 2),
            "s2": _bytes(seed + 3, device, 117, 123, experts, dim, inter // 32),
            "limit": LIMIT, "mode": mode,
        }  # fmt: skip
        return inputs if native is None else inputs | {"native": native}

    return build


def _routes(
    generator: torch.Generator, device: torch.device, tokens: int, experts: int, topk: int, routing: str
) -> Tensor:
    """int32 ``[T, k]``: distinct experts a token; ``holes``: a third -1 or past the end; ``one``: all the same first."""
    if routing == "none":
        return torch.full((tokens, topk), -1, dtype=torch.int32, device=device)
    ids = torch.rand(tokens, experts, generator=generator).topk(topk, dim=1).indices.to(torch.int32).to(device)
    if routing == "one":
        ids[:, 0] = experts - 1
    if routing == "holes":
        ids[randint(generator, device, 0, 3, tokens, topk) == 0] = -1
        ids[0] = -1
        ids[-1, -1] = experts
    return ids


def _bytes(seed: int, device: torch.device, low: int, high: int, *shape: int) -> Tensor:
    """Random bytes in [low, high), made on the device: the weights of 256 experts would take a CPU too long."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(low, high, shape, dtype=torch.uint8, device=device, generator=generator)
