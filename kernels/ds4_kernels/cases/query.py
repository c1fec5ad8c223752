"""Cases of the query side: norm and rope of q, rope and insert of kv, indexer queries."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn
from ds4_kernels.cases.cache import MLA_SLOT, garbage_cache, some_slots
from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM, INDEX_DIM, ROPE_DIM
from ds4_kernels.reference.norm_rope import cos_sin_table, rope_frequencies

_EXACT = Tolerance("exact")
MAX_POSITION = 8192


def check_cases() -> list[CheckCase]:
    """Heads 4 to 128 with and without padding, all-zero heads, skipped tokens, very small and large queries."""
    cases = []
    for tokens, heads, out_heads in (
        (1, 4, 4), (3, 8, 16), (2, 16, 64), (2, 32, 32), (1, 128, 128), (3, 5, 8), (517, 64, 64), (300, 32, 64),
        (4096, 16, 16), (64, 128, 128),
    ):  # fmt: skip
        label = f"T={tokens} H={heads} out {out_heads}{_large(tokens)}"
        cases.append(CheckCase("query_norm_rope", label, query_build(tokens, heads, out_heads), ("out",), (_EXACT,)))
    for tokens, block_size in ((1, 64), (6, 64), (11, 2), (9, 256), (517, 64), (4096, 256)):
        label = f"T={tokens} block {block_size}{_large(tokens)}"
        cases.append(CheckCase("kv_rope_insert", label, kv_build(tokens, block_size), ("cache",), (_EXACT,)))
    for tokens, heads in ((1, 64), (3, 8), (2, 32), (2, 4), (2, 100), (517, 64), (4096, 64)):
        label = f"T={tokens} H={heads}{_large(tokens)}"
        build = indexer_query_build(tokens, heads)
        cases.append(CheckCase("indexer_query", label, build, ("q", "weights"), (_EXACT, _EXACT)))
    return cases


def bench_cases() -> list[BenchCase]:
    """Decode batches and prefill chunks of the real model."""
    cases = []
    for tokens in (1, 4, 32, 512, 4096):
        moved = 2 * tokens * 64 * HEAD_DIM * 2 + tokens * (8 + 4 * ROPE_DIM)
        cases.append(BenchCase("query_norm_rope", f"T={tokens} H=64", query_build(tokens, 64, 64), moved))
    for tokens in (1, 4, 32, 512, 4096):
        moved = tokens * (HEAD_DIM * 2 + MLA_SLOT + 16 + 4 * ROPE_DIM)
        build = kv_build(tokens, 64, skipped=False)
        cases.append(BenchCase("kv_rope_insert", f"T={tokens} block 64", build, moved))
    for tokens in (1, 4, 32, 512, 4096):
        moved = tokens * 64 * (INDEX_DIM * 3 + 8) + tokens * (8 + 4 * ROPE_DIM)
        cases.append(BenchCase("indexer_query", f"T={tokens} H=64", indexer_query_build(tokens, 64), moved))
    return cases


def rope_table(device: torch.device) -> Tensor:
    """The cos/sin table of the compressed layers' rope, FP32 ``[8192, 64]``."""
    frequencies = rope_frequencies(ROPE_DIM, 160_000.0, yarn_factor=16.0)
    return cos_sin_table(frequencies, MAX_POSITION, torch.float32).to(device)


def query_build(tokens: int, heads: int, out_heads: int) -> Build:
    """Queries whose heads differ in size by 2^40; one head is 0."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        size = torch.exp2(randint(generator, device, -20, 20, tokens, heads, 1).float())
        q = randn(generator, device, tokens, heads, HEAD_DIM, dtype=torch.float32) * size
        q[0, heads // 2] = 0
        return {
            "q": q.to(torch.bfloat16),
            "positions": randint(generator, device, 0, MAX_POSITION, tokens, dtype=torch.int64),
            "cos_sin": rope_table(device),
            "eps": 1e-6,
            "out": torch.full((tokens, out_heads, HEAD_DIM), 9.0, dtype=torch.bfloat16, device=device),
        }

    return build


def kv_build(tokens: int, block_size: int, *, skipped: bool = True) -> Build:
    """Normed keys; ``skipped``: a quarter of the tokens has slot -1, NaN keys and a position outside the table."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        blocks = -(-tokens // block_size) + 2
        slots = some_slots(generator, device, tokens, blocks * block_size)
        kv = randn(generator, device, tokens, HEAD_DIM)
        positions = randint(generator, device, 0, MAX_POSITION, tokens, dtype=torch.int64)
        if skipped:
            gone = randint(generator, device, 0, 4, tokens) == 0
            slots = torch.where(gone, -1, slots)[: max(1, tokens - 1)]
            kv[gone] = torch.nan
            positions[gone] = 10**9
        return {
            "kv": kv,
            "positions": positions,
            "cos_sin": rope_table(device),
            "cache": garbage_cache(FP8_DS_MLA, blocks, block_size, device),
            "slot_mapping": slots,
            "block_size": block_size,
        }

    return build


def indexer_query_build(tokens: int, heads: int) -> Build:
    """Indexer queries whose heads differ in size, some below the floor of the maximum."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        size = torch.exp2(randint(generator, device, -24, 8, tokens, heads, 1).float())
        q = randn(generator, device, tokens, heads, INDEX_DIM, dtype=torch.float32) * size
        return {
            "index_q": q.to(torch.bfloat16),
            "weights": randn(generator, device, tokens, heads, dtype=torch.float32),
            "positions": randint(generator, device, 0, MAX_POSITION, tokens, dtype=torch.int64),
            "cos_sin": rope_table(device),
        }

    return build


def _large(tokens: int) -> str:
    return " large" if tokens > 50 else ""
