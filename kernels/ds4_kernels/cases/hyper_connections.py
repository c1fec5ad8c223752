"""Cases of the hyper-connections."""

from __future__ import annotations

import math

import torch

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randn
from ds4_kernels.reference.hyper_connections import mhc_split_weights

EPS, ITERATIONS = 1e-6, 20
_EXACT = (Tolerance("diff", 1e-8), Tolerance("close", 0.0, rtol=1e-5))
"""kernels.md 5.1: against FP64, under 1e-7 for plain TF32. Both BF16 splits are under 1e-10 where K is split; one chain of
16,384 FP32 additions alone costs 1.4e-9 (measured on an H200)."""
_MIX = Tolerance("close", 1e-5, rtol=1e-4)
_BF16 = Tolerance("close", 1e-4, rtol=2**-7)
_NORMED = Tolerance("close", 2e-3, rtol=2**-6)
_AFTER_ROUNDING = Tolerance("close", 5e-4, rtol=1e-3)
"""For mixes of streams that two backends rounded to BF16 on their own."""


def check_cases() -> list[CheckCase]:
    """Depths of DeepGEMM's test and of Pro, splits that do not divide, one token up to 8192, norm or none."""
    cases = []
    for tokens, depth, splits, outputs, exact in (
        (1, 1024, 8, 24, True), (13, 1024, 3, 24, False), (20, 512, 1, 4, True),
        (1, 16_384, 128, 24, True), (13, 7168, 16, 24, True), (137, 7680, 7, 24, False), (512, 28_672, 16, 24, True),
        (4096, 16_384, 8, 24, True), (4096, 16_384, 8, 24, False), (4096, 16_384, 1, 24, True), (300, 16_384, 50, 4, True),
        (8192, 7168, 4, 24, False),
    ):  # fmt: skip
        large = " large" if tokens * depth > 20_000 else ""
        label = f"T={tokens} K={depth} N={outputs} splits={splits} {'exact' if exact else 'two terms'}{large}"
        for ahead in (False, True):
            build = _prenorm(tokens, depth, splits, outputs, exact, ahead=ahead)
            name = label + (" split ahead" if ahead else "")
            cases.append(CheckCase("mhc_prenorm_gemm", name, build, ("out", "sqrsum"), _EXACT))
    for tokens in (1, 37, 5000):
        large = " large" if tokens > 1000 else ""
        names = ("pre", "post", "comb")
        cases.append(CheckCase("mhc_split_sinkhorn", f"T={tokens}{large}", _sinkhorn(tokens), names, (_MIX,) * 3))
    for tokens, dim in ((1, 256), (5, 96), (1, 4096), (17, 4096), (512, 4096), (4096, 4096), (40, 7168), (0, 4096)):
        large = " large" if tokens * dim > 1000 else ""
        for norm in (None, torch.bfloat16):
            label = f"T={tokens} D={dim}{'' if norm is None else ' norm'}{large}"
            tolerances = (_BF16 if norm is None else _NORMED, _MIX, _MIX)
            cases.append(
                CheckCase("mhc_pre", label, _pre(tokens, dim, norm), ("layer_input", "post", "comb"), tolerances)
            )
        label = f"T={tokens} D={dim}{large}"
        if tokens in (1, 17, 512):
            build, tolerances = _pre(tokens, dim, None, ahead=True), (_BF16, _MIX, _MIX)
            cases.append(
                CheckCase("mhc_pre", label + " split ahead", build, ("layer_input", "post", "comb"), tolerances)
            )
            cases.append(
                CheckCase("mhc_head", label + " split ahead", _head(tokens, dim, ahead=True), ("y",), (_BF16,))
            )
        cases.append(CheckCase("mhc_post", label, _post(tokens, dim), ("streams",), (_BF16,)))
        cases.append(CheckCase("mhc_head", label, _head(tokens, dim), ("y",), (_BF16,)))
        cases.append(
            CheckCase("mhc_post_pre", label, _post_pre(tokens, dim), ("streams", "layer_input", "post", "comb"),
                      (_BF16, _NORMED, _AFTER_ROUNDING, _AFTER_ROUNDING))
        )  # fmt: skip
    return cases


def bench_cases() -> list[BenchCase]:
    """kernels.md 5.3: D = 4096; both variants of the GEMM at the sizes of the peers' table."""
    depth, cases = 16_384, []
    for tokens, splits in ((1, 128), (4, 128), (32, 64), (512, 32), (4096, 8)):
        moved = 2 * tokens * depth + 96 * depth + 100 * splits * tokens
        for exact, ahead in ((True, False), (False, False), (True, True), (False, True)):
            build = _prenorm(tokens, depth, splits, 24, exact, ahead=ahead)
            form = f"{'exact' if exact else 'two terms'}{' split ahead' if ahead else ''}"
            label = f"T={tokens} K={depth} splits={splits} {form}"
            cases.append(BenchCase("mhc_prenorm_gemm", label, build, moved, flops=2 * 24 * tokens * depth))
    for tokens in (1, 4, 32, 512, 4096):
        streams, row, fn = 8 * tokens * 4096, 2 * tokens * 4096, 96 * depth
        label = f"T={tokens} D=4096"
        cases += [
            BenchCase("mhc_split_sinkhorn", f"T={tokens}", _sinkhorn(tokens), moved=192 * tokens),
            BenchCase("mhc_pre", label, _pre(tokens, 4096, None), moved=streams + row + fn),
            BenchCase(
                "mhc_pre", label + " split ahead", _pre(tokens, 4096, None, ahead=True), moved=streams + row + fn
            ),
            BenchCase("mhc_pre", label + " norm", _pre(tokens, 4096, torch.bfloat16), moved=streams + row + fn),
            BenchCase("mhc_post", label, _post(tokens, 4096), moved=2 * streams + row),
            BenchCase("mhc_post_pre", label, _post_pre(tokens, 4096), moved=2 * streams + 2 * row + fn),
            BenchCase("mhc_head", label, _head(tokens, 4096), moved=streams + row + 16 * depth),
        ]
    return cases


def _prenorm(tokens: int, depth: int, splits: int, outputs: int, exact: bool, *, ahead: bool = False) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        fn = randn(generator, device, outputs, depth, dtype=torch.float32) / math.sqrt(depth)
        if ahead:
            fn = mhc_split_weights(fn, exact)
        return {"x": randn(generator, device, tokens, depth), "fn": fn, "splits": splits, "exact": exact}

    return build


def _sinkhorn(tokens: int) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        mixes = randn(generator, device, tokens, 24, dtype=torch.float32) * 2
        return {"mixes": mixes, **_affine(generator, device, 3, 24), "iterations": ITERATIONS, "eps": EPS}

    return build


def _affine(generator: torch.Generator, device: torch.device, scales: int, outputs: int) -> Inputs:
    scale = randn(generator, device, scales, dtype=torch.float32).abs() + 0.3
    return {"scale": scale, "base": randn(generator, device, outputs, dtype=torch.float32)}


def _weights(
    generator: torch.Generator, device: torch.device, dim: int, outputs: int, *, ahead: bool = False
) -> Inputs:
    fn = randn(generator, device, outputs, 4 * dim, dtype=torch.float32) / math.sqrt(4 * dim)
    fn = mhc_split_weights(fn) if ahead else fn
    return {"fn": fn, **_affine(generator, device, 3 if outputs == 24 else 1, outputs)}


def _pre(tokens: int, dim: int, norm: torch.dtype | None, *, ahead: bool = False) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        return {
            "x": randn(generator, device, tokens, 4, dim), **_weights(generator, device, dim, 24, ahead=ahead),
            "iterations": ITERATIONS, "norm_eps": EPS, "hc_eps": EPS,
            "norm_weight": None if norm is None else randn(generator, device, dim, dtype=norm),
        }  # fmt: skip

    return build


def _post(tokens: int, dim: int) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        return {
            "f": randn(generator, device, tokens, dim), "streams": randn(generator, device, tokens, 4, dim),
            "post": randn(generator, device, tokens, 4, dtype=torch.float32).abs(),
            "comb": torch.softmax(randn(generator, device, tokens, 4, 4, dtype=torch.float32), dim=-1),
        }  # fmt: skip

    return build


def _post_pre(tokens: int, dim: int) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        return {
            **_post(tokens, dim)(generator, device), **_weights(generator, device, dim, 24),
            "iterations": ITERATIONS, "norm_eps": EPS, "hc_eps": EPS,
            "norm_weight": randn(generator, device, dim),
        }  # fmt: skip

    return build


def _head(tokens: int, dim: int, *, ahead: bool = False) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        streams = randn(generator, device, tokens, 4, dim)
        return {"x": streams, **_weights(generator, device, dim, 4, ahead=ahead), "norm_eps": EPS, "eps": EPS}

    return build
