"""Cases of the grouped output projection."""

from __future__ import annotations

import torch

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint
from ds4_kernels.cases.quantize import varied
from ds4_kernels.cases.query import MAX_POSITION, rope_table
from ds4_kernels.cases.w8a8 import GEMM_LIMIT, e4m3, scales
from ds4_kernels.reference.einsum import token_major

K, N = 4096, 1024
_EXACT = Tolerance("exact")


def check_cases() -> list[CheckCase]:
    """Both scale forms; H from 4 to 128; tokens beside every tile; an activation that is not group-major."""
    cases = []
    for tokens, heads, groups, scale_format, positions in (
        (1, 4, 1, "fp32", torch.int64), (3, 8, 2, "packed", torch.int32), (9, 4, 4, "packed", torch.int64),
        (5, 16, 2, "fp32", torch.int32), (0, 8, 1, "fp32", torch.int64), (1, 64, 8, "packed", torch.int64),
        (517, 64, 8, "fp32", torch.int64), (1000, 128, 16, "packed", torch.int64), (4096, 64, 8, "packed", torch.int32),
        (130, 32, 4, "fp32", torch.int64), (63, 8, 1, "fp32", torch.int64),
    ):  # fmt: skip
        large = " large" if tokens > 16 else ""
        label = f"T={tokens} H={heads} G={groups} {scale_format} {str(positions)[6:]}{large}"
        build = inverse_rope_build(tokens, heads, groups, scale_format, positions)
        cases.append(CheckCase("inverse_rope_quant", label, build, ("a", "a_scale"), (_EXACT, _EXACT)))
    for tokens, groups, n, k, a_form, b_form, token_rows in (
        (1, 2, 64, 512, "fp32", "fp32", False), (3, 1, 200, 512, "packed", "e8m0", False),
        (18, 2, 130, 128, "odd", "fp32", True), (0, 2, 128, 128, "fp32", "fp32", False),
        (5, 3, 64, 1024, "packed", "fp32", True),
    ):  # fmt: skip
        cases.append(_einsum(tokens, groups, n, k, a_form, b_form, token_rows, ""))
    for tokens in (1, 2, 16, 17, 32, 33, 64, 65, 128, 129, 256, 300, 512, 1000, 4096):
        a_form, b_form = (("fp32", "fp32"), ("packed", "e8m0"), ("fp32", "e8m0"))[tokens % 3]
        cases += [_einsum(tokens, groups, N, K, a_form, b_form, tokens == 300, " large") for groups in (8, 4, 1)]
    return cases


def bench_cases() -> list[BenchCase]:
    """The sizes of kernels.md 5.3 and of the DeepGEMM peer table (G=8), and G=4 (TP2)."""
    cases = []
    for tokens in (1, 4, 32, 64, 128, 256, 512, 1024, 4096):
        for groups in (8, 4):
            moved = groups * (tokens * (K + K // 32 + 2 * N) + N * K + N * K // 4096)
            build = einsum_build(tokens, groups, N, K, "fp32", "fp32")
            label = f"T={tokens} G={groups}"
            cases.append(BenchCase("fp8_einsum", label, build, moved, 2 * tokens * groups * N * K))
    for tokens in (1, 4, 32, 512, 4096):
        moved = tokens * (64 * 512 * 3 + 64 * 4 * 4 + 8 + 64 * 4)
        for scale_format in ("fp32", "packed"):
            build = inverse_rope_build(tokens, 64, 8, scale_format, torch.int64)
            cases.append(BenchCase("inverse_rope_quant", f"T={tokens} H=64 G=8 {scale_format}", build, moved))
    return cases


def inverse_rope_build(tokens: int, heads: int, groups: int, scale_format: str, positions: torch.dtype) -> Build:
    """Heads of an attention output, 64 NaN elements between tokens; positions anywhere in the table, some beyond it."""

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        values = varied(g, device, tokens, heads, 4, 128).view(tokens, heads * 512)
        padded = torch.full((tokens, heads * 512 + 64), torch.nan, dtype=torch.bfloat16, device=device)
        padded[:, : heads * 512] = values
        return {
            "o": padded[:, : heads * 512].view(tokens, heads, 512),
            "positions": randint(g, device, -2, MAX_POSITION + 2, tokens, dtype=positions),
            "cos_sin": rope_table(device), "groups": groups, "scale_format": scale_format,
        }  # fmt: skip

    return build


def einsum_build(
    tokens: int, groups: int, n: int, k: int, a_form: str, b_form: str, *, token_rows: bool = False, given: bool = False
) -> Build:
    """Operands of one einsum; the activation group-major, or with ``token_rows`` token by token."""

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        a = e4m3(g, device, tokens, groups, k) if token_rows else e4m3(g, device, groups, tokens, k).transpose(0, 1)
        a_scale = scales(g, device, "e8m0" if a_form == "packed" else a_form, tokens, groups, k // 128)
        if a_form == "packed":
            a_scale = a_scale.view(torch.int32)
        inputs: Inputs = {
            "a": a, "a_scale": token_major(a_scale), "b": e4m3(g, device, groups, n, k),
            "b_scale": scales(g, device, b_form, groups, -(-n // 128), k // 128),
        }  # fmt: skip
        if given:
            inputs["out"] = torch.full((tokens, groups, n), torch.nan, dtype=torch.bfloat16, device=device)
        return inputs

    return build


def _einsum(
    tokens: int, groups: int, n: int, k: int, a_form: str, b_form: str, token_rows: bool, large: str
) -> CheckCase:
    given = tokens % 2 == 1
    label = (
        f"T={tokens} G={groups} N={n} K={k} {a_form} {b_form}"
        f"{' token rows' if token_rows else ''}{' out given' if given else ''}{large}"
    )
    build = einsum_build(tokens, groups, n, k, a_form, b_form, token_rows=token_rows, given=given)
    return CheckCase("fp8_einsum", label, build, ("out",), (GEMM_LIMIT,))
