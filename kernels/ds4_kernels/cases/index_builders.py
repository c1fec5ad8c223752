"""Cases of the index builders. Integers: every comparison is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint

_EXACT = Tolerance("exact")
_BOTH = (_EXACT, _EXACT)
WINDOW = 128


def check_cases() -> list[CheckCase]:
    """Padding tokens, missing blocks, short rows, wide strided buffers, empty queries, window-only layers."""
    cases = []
    for tokens, width, block_size, buffer in (
        (1, 512, 64, 0), (5, 70, 64, 0), (9, 16, 2, 40), (3, 600, 256, 1024), (517, 512, 64, 0), (4096, 1024, 64, 2048),
    ):  # fmt: skip
        label = f"T={tokens} K={width} block {block_size}{' buffer' if buffer else ''}{_large(tokens)}"
        build = topk_build(tokens, width, block_size, buffer)
        cases.append(CheckCase("global_topk_slots", label, build, ("slots", "lens"), _BOTH))
    for queries, prefix, ratio, topk in (
        ([3, 1], [0, 200], 4, 16), ([5], [0], 4, 512), ([2, 0, 4], [127, 9, 60], 1, 0), ([1, 6, 1], [700, 0, 3], 128, 128),
        ([1500, 3, 0, 900], [0, 5000, 0, 131], 4, 512), ([4096], [28_672], 128, 256), ([2048, 2048], [0, 100], 0, 0),
    ):  # fmt: skip
        tokens = sum(queries)
        label = f"R={len(queries)} T={tokens} ratio {ratio} topk {topk}{_large(tokens)}"
        build = combine_build(queries, prefix, ratio, topk)
        cases.append(CheckCase("combine_topk_swa", label, build, ("indices", "lens"), _BOTH))
    for decode, prefill, width, max_width in (
        (3, 2, 128, 128), (0, 4, 256, 128), (5, 0, 256, 256), (37, 600, 2176, 1024), (4, 4, 8192, 8192),
    ):  # fmt: skip
        large = " large" if width > 500 else ""
        label = f"decode {decode} prefill {prefill} width {width} of {max_width}{large}"
        names = ("slots", "lens", "local", "decode_slots", "decode_lens", "prefill_indices")
        build = c128a_build(decode, prefill, width, max_width)
        cases.append(CheckCase("c128a_metadata", label, build, names, (_EXACT,) * 6))
    for tokens, block_size, window, buffer in (
        (1, 64, 128, 0), (6, 64, 128, 0), (5, 256, 16, 128), (3, 2, 128, 256), (517, 64, 128, 0), (4096, 256, 128, 192),
    ):  # fmt: skip
        label = f"T={tokens} block {block_size} window {window}{' buffer' if buffer else ''}{_large(tokens)}"
        build = swa_build(tokens, block_size, window, buffer)
        cases.append(CheckCase("decode_swa_slots", label, build, ("slots", "lens"), _BOTH))
    return cases


def bench_cases() -> list[BenchCase]:
    """Decode batches and prefill chunks; C128A rows at 128 K and at the full million positions."""
    cases = []
    for tokens in (1, 32, 512, 4096):
        moved = tokens * (2 * 512 * 4 + 9)
        cases.append(BenchCase("global_topk_slots", f"T={tokens} K=512", topk_build(tokens, 512, 64, 0), moved))
        build = swa_build(tokens, 64, WINDOW, 0)
        cases.append(BenchCase("decode_swa_slots", f"T={tokens}", build, tokens * (WINDOW * 4 + 17)))
    for tokens in (512, 4096):
        build = combine_build([tokens // 4] * 4, [8192] * 4, 4, 512)
        cases.append(BenchCase("combine_topk_swa", f"T={tokens} topk 512", build, tokens * (512 * 4 + 640 * 4 + 4)))
        build = combine_build([tokens // 4] * 4, [8192] * 4, 0, 0)
        cases.append(BenchCase("combine_topk_swa", f"T={tokens} window only", build, tokens * (128 * 4 + 4)))
    for decode, prefill, width in ((1, 0, 1024), (32, 0, 1024), (32, 0, 8192), (0, 4096, 1024), (0, 4096, 8192)):
        build = c128a_build(decode, prefill, width, width)
        moved = (decode + prefill) * (width * 4 + 20)
        cases.append(BenchCase("c128a_metadata", f"decode {decode} prefill {prefill} width {width}", build, moved))
    return cases


def topk_build(tokens: int, width: int, block_size: int, buffer: int) -> Build:
    """Entries of rows of every length, some of them in missing blocks or beyond the table; some tokens are padding."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        requests, blocks = max(1, min(32, tokens // 2)), 40
        table = _table(generator, device, requests, blocks)
        topk = randint(generator, device, 0, (blocks - 1) * block_size, tokens, width)
        lens = randint(generator, device, 0, width + 1, tokens, 1)
        topk = torch.where(torch.arange(width, device=device) < lens, topk, -1)
        topk[randint(generator, device, 0, tokens, 1), 0] = blocks * block_size
        valid = randint(generator, device, 0, 4, tokens) > 0
        token_to_req = randint(generator, device, 0, requests, tokens)
        token_to_req[~valid] = 99_999
        topk[~valid] = 2**30
        return {
            "topk_indices": topk,
            "token_to_req": token_to_req,
            "block_table": table,
            "block_size": block_size,
            "is_valid": valid,
            "out": _buffers(device, tokens, buffer),
        }

    return build


def combine_build(queries: list[int], prefix: list[int], ratio: int, topk: int) -> Build:
    """Four padding tokens follow the queries; query_start_loc begins at 10, as in a later chunk."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        query, before = torch.tensor(queries), torch.tensor(prefix)
        tokens = sum(queries) + 4
        start = torch.cat((torch.zeros(1, dtype=torch.int64), torch.cumsum(query, 0))) + 10
        entries = max(1, (max(q + p for q, p in zip(queries, prefix, strict=True)) + 1) // max(ratio, 1))
        return {
            "topk_indices": randint(generator, device, 0, entries, tokens, max(topk, 1)),
            "query_start_loc": start.to(torch.int32).to(device),
            "seq_lens": (query + before).to(torch.int32).to(device),
            "gather_lens": (query + before.clamp_max(WINDOW - 1)).to(torch.int32).to(device),
            "window": WINDOW,
            "ratio": ratio,
            "topk": topk,
            "workspace_rows": entries + max(queries) + WINDOW,
            "swa_row": entries,
        }

    return build


def c128a_build(decode: int, prefill: int, width: int, max_width: int) -> Build:
    """Positions from 0 to beyond the widest row; buffers have rows to spare that must stay as they were."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        tokens, requests = decode + prefill, max(1, decode)
        positions = randint(generator, device, 0, 128 * (max_width + 64), tokens, dtype=torch.int64)
        positions[0] = 126
        slots = randint(generator, device, -1, 5, max(1, tokens), dtype=torch.int64)
        rows = decode + 2, prefill + 1
        return {
            "positions": positions,
            "ratio": 128,
            "num_decode_tokens": decode,
            "token_to_req": randint(generator, device, 0, requests, tokens),
            "block_table": _table(generator, device, requests, width // 2 + 1),
            "block_size": 2,
            "slot_mapping": slots,
            "decode_slots": torch.full((rows[0], width), 77, dtype=torch.int32, device=device),
            "decode_lens": torch.full((rows[0],), 77, dtype=torch.int32, device=device),
            "prefill_indices": torch.full((rows[1], width), 77, dtype=torch.int32, device=device),
            "max_width": max_width,
        }

    return build


def swa_build(tokens: int, block_size: int, window: int, buffer: int) -> Build:
    """Positions 0 and up; some tokens are padding with a position outside every table."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        requests, blocks = max(1, min(32, tokens)), 50
        positions = randint(generator, device, 0, blocks * block_size, tokens, dtype=torch.int64)
        positions[0] = 0
        valid = randint(generator, device, 0, 4, tokens) > 0
        positions[~valid] = 10**6
        return {
            "positions": positions,
            "token_to_req": randint(generator, device, 0, requests, tokens),
            "block_table": _table(generator, device, requests, blocks),
            "block_size": block_size,
            "is_valid": valid,
            "window": window,
            "out": _buffers(device, tokens, buffer),
        }

    return build


def _table(generator: torch.Generator, device: torch.device, requests: int, blocks: int) -> Tensor:
    """A block table with a tenth of the blocks missing."""
    table = randint(generator, device, 0, 5000, requests, blocks)
    return torch.where(randint(generator, device, 0, 10, requests, blocks) == 0, -1, table)


def _buffers(device: torch.device, tokens: int, width: int) -> tuple[Tensor, Tensor] | None:
    """Outputs as views of a wider buffer, full of numbers that must go; None for width 0."""
    if width == 0:
        return None
    slots = torch.full((tokens, width + 16), 77, dtype=torch.int32, device=device)[:, :width]
    return slots, torch.full((tokens,), 77, dtype=torch.int32, device=device)


def _large(tokens: int) -> str:
    return " large" if tokens > 50 else ""
