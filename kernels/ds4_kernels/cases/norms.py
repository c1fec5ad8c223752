"""Cases of the RMS norms."""

from __future__ import annotations

import torch

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randn

_CLOSE = Tolerance("close", 1e-6, rtol=2**-7)
"""One unit in the last place of BF16."""
EPS = 1e-6


def check_cases() -> list[CheckCase]:
    """Every row length of the model, the three kinds of weight, strided rows, the MTP block's two norms."""
    cases = []
    for rows, dim, weight, stride in (
        (1, 4096, "bf16", 0), (3, 512, "fp32", 0), (5, 1536, "none", 64), (33, 128, "bf16", 3), (2, 7168, "bf16", 0),
        (4096, 4096, "bf16", 0), (1000, 1024, "fp32", 512), (4097, 512, "none", 0), (300, 7168, "fp32", 1),
    ):  # fmt: skip
        large = " large" if rows * dim > 50_000 else ""
        label = f"T={rows} D={dim} weight {weight} gap {stride}{large}"
        cases.append(CheckCase("rms_norm", label, _build(rows, dim, weight, stride), ("out",), (_CLOSE,)))
    for tokens, dim in ((2, 512), (777, 4096)):
        large = " large" if tokens > 100 else ""
        cases.append(
            CheckCase("mtp_fuse", f"T={tokens} D={dim}{large}", _mtp(tokens, dim), ("e", "h"), (_CLOSE, _CLOSE))
        )
    return cases


def bench_cases() -> list[BenchCase]:
    """The hidden state, the query's and the keys' latent rows."""
    cases = [
        BenchCase("rms_norm", f"T={tokens} D={dim}", _build(tokens, dim, "bf16", 0), moved=4 * tokens * dim)
        for dim in (4096, 1024, 512)
        for tokens in (1, 4, 32, 512, 4096)
    ]
    return cases + [
        BenchCase("mtp_fuse", f"T={tokens} D=4096", _mtp(tokens, 4096), moved=4 * 5 * tokens * 4096)
        for tokens in (1, 32, 4096)
    ]


def _build(rows: int, dim: int, weight: str, gap: int) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        x = torch.full((rows, dim + gap), torch.nan, dtype=torch.bfloat16, device=device)
        x[:, :dim] = randn(generator, device, rows, dim)
        x[0] *= 1e-4  # eps matters
        dtype = {"bf16": torch.bfloat16, "fp32": torch.float32, "none": None}[weight]
        drawn = None if dtype is None else randn(generator, device, dim, dtype=dtype)
        return {"x": x[:, :dim], "weight": drawn, "eps": EPS}

    return build


def _mtp(tokens: int, dim: int) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        return {
            "embeds": randn(generator, device, tokens, dim), "streams": randn(generator, device, tokens, 4, dim),
            "embed_weight": randn(generator, device, dim), "stream_weight": randn(generator, device, dim), "eps": EPS,
        }  # fmt: skip

    return build
