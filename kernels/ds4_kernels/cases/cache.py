"""Cases of the cache writers and readers."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn
from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM, INDEX_DIM, INDEXER_FP8, PlanarLayout

_EXACT = Tolerance("exact")
_GARBAGE = 0xFF
"""NaN as e4m3, 2^128 as a scale: what no reader may take from a slot that was not written."""

MLA_SLOT, INDEX_SLOT = FP8_DS_MLA.slot_bytes, INDEXER_FP8.slot_bytes


def check_cases() -> list[CheckCase]:
    """Both inserts and both gathers: skipped tokens, all block sizes, empty requests, missing blocks, long rows."""
    cases = []
    for tokens, block_size, dtype in (
        (1, 64, torch.bfloat16), (7, 2, torch.bfloat16), (13, 64, torch.float32), (9, 256, torch.bfloat16),
        (517, 64, torch.bfloat16), (4096, 256, torch.bfloat16), (4096, 2, torch.float32),
    ):  # fmt: skip
        cases.append(_insert("cache_insert", FP8_DS_MLA, HEAD_DIM, tokens, block_size, dtype))
        cases.append(_insert("indexer_insert", INDEXER_FP8, INDEX_DIM, tokens, block_size, dtype))
    for name, width, start in (("gaps between keys", HEAD_DIM + 64, 0), ("keys start at 4 bytes", HEAD_DIM, 2)):
        build = _placed(insert_build(FP8_DS_MLA, HEAD_DIM, 37, 64, torch.bfloat16), width, start)
        cases.append(CheckCase("cache_insert", f"T=37 block 64 bfloat16 {name}", build, ("cache",), (_EXACT,)))
    for lens, gather, block_size, offset in (
        ([5, 0, 17], None, 2, 3), ([1], [1], 64, 0), ([40, 130, 7], [9, 12, 0], 64, 5), ([300, 20], [18, 20], 256, 0),
        ([3000, 1, 0, 1777], None, 64, 11), ([70_000, 128, 4099], [255, 128, 4000], 256, 1),
    ):  # fmt: skip
        large = " large" if max(lens) > 400 else ""
        label = f"R={len(lens)} block {block_size} {'all' if gather is None else 'last'} offset {offset}{large}"
        build = gather_build(lens, gather, block_size, offset)
        cases.append(CheckCase("cache_gather", label, build, ("out",), (_EXACT,)))
    for lens, block_size, whole in (([3, 0, 9], 64, True), ([70], 64, False), ([2, 31, 0, 0, 6], 2, True)):
        cases.append(_indexer_gather(lens, block_size, whole, ""))
    cases.append(_indexer_gather([5000, 0, 1, 262, 3000], 64, True, " large"))
    cases.append(_indexer_gather([1000] * 40, 64, False, " large"))
    return cases


def bench_cases() -> list[BenchCase]:
    """Prefill and decode sizes; 32 768 gathered rows are four requests' chunks (kernels.md 5.3)."""
    cases = []
    for tokens in (1, 4, 32, 512, 4096, 32_768):
        moved = tokens * (HEAD_DIM * 2 + MLA_SLOT + 8)
        build = insert_build(FP8_DS_MLA, HEAD_DIM, tokens, 64, torch.bfloat16, skipped=False)
        cases.append(BenchCase("cache_insert", f"T={tokens} bf16 block 64", build, moved))
    for tokens in (1, 32, 1024, 32_768):
        build = insert_build(INDEXER_FP8, INDEX_DIM, tokens, 64, torch.bfloat16, skipped=False)
        moved = tokens * (INDEX_DIM * 2 + INDEX_SLOT + 8)
        cases.append(BenchCase("indexer_insert", f"T={tokens} bf16 block 64", build, moved))
    for requests, rows, block_size in ((1, 128, 64), (4, 1024, 64), (4, 8192, 64), (4, 8192, 2)):
        build = gather_build([rows] * requests, None, block_size, 0)
        label = f"R={requests} rows={rows} block {block_size}"
        cases.append(BenchCase("cache_gather", label, build, requests * rows * (MLA_SLOT + HEAD_DIM * 2)))
    for requests, rows in ((1, 1024), (4, 8192), (1, 262_144)):
        build = indexer_gather_build([rows] * requests, 64, whole=True)
        cases.append(BenchCase("indexer_gather", f"R={requests} rows={rows}", build, requests * rows * 2 * INDEX_SLOT))
    return cases


def some_slots(generator: torch.Generator, device: torch.device, count: int, total: int) -> Tensor:
    """``count`` different slots of ``total``, int64, in random order."""
    return torch.randperm(total, generator=generator)[:count].to(device)


def garbage_cache(layout: PlanarLayout, blocks: int, block_size: int, device: torch.device) -> Tensor:
    """A cache in which every byte is garbage."""
    return layout.allocate(blocks, block_size, str(device)).fill_(_GARBAGE)


def insert_build(
    layout: PlanarLayout, dim: int, tokens: int, block_size: int, dtype: torch.dtype, *, skipped: bool = True
) -> Build:
    """Keys of very different sizes, slots in random order; ``skipped``: some are -1 (their keys NaN), and N < T."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        blocks = -(-tokens // block_size) + 2
        cache = garbage_cache(layout, blocks, block_size, device)
        slots = some_slots(generator, device, tokens, blocks * block_size)
        size = torch.exp2(randint(generator, device, -20, 12, tokens, 1).float())
        k = randn(generator, device, tokens, dim, dtype=torch.float32) * size
        k[randint(generator, device, 0, tokens, 1)] = 0
        if skipped:
            gone = randint(generator, device, 0, 4, tokens) == 0
            slots = torch.where(gone, -1, slots)[: max(1, tokens - 2)]
            k[gone] = torch.nan
        return {"k": k.to(dtype), "cache": cache, "slot_mapping": slots, "block_size": block_size}

    return build


def _placed(build: Build, width: int, start: int) -> Build:
    """The same keys, but ``width`` elements apart and the first one at element ``start`` of its memory."""

    def placed(generator: torch.Generator, device: torch.device) -> Inputs:
        inputs = build(generator, device)
        k = inputs["k"]
        memory = torch.full((start + len(k) * width,), torch.nan, dtype=k.dtype, device=device)
        rows = memory[start:].view(len(k), width)[:, : k.shape[1]]
        rows.copy_(k)
        return {**inputs, "k": rows}

    return placed


def gather_build(lens: list[int], gather: list[int] | None, block_size: int, offset: int) -> Build:
    """Written slots for all positions, garbage elsewhere; ``out`` holds a number that must survive."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        cache, table = _paged(generator, device, FP8_DS_MLA, lens, block_size)
        longest = max(gather or lens)
        out = torch.full((len(lens), offset + longest + 3, HEAD_DIM), 7.0, dtype=torch.bfloat16, device=device)
        return {
            "cache": cache,
            "block_size": block_size,
            "seq_lens": torch.tensor(lens, dtype=torch.int32, device=device),
            "gather_lens": None if gather is None else torch.tensor(gather, dtype=torch.int32, device=device),
            "block_table": table,
            "offset": offset,
            "out": out,
        }

    return build


def indexer_gather_build(lens: list[int], block_size: int, *, whole: bool) -> Build:
    """``whole``: cumulative lengths ``[R + 1]``; else start rows ``[R]`` with a gap of two rows after each request."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        cache, table = _paged(generator, device, INDEXER_FP8, lens, block_size)
        seq_lens = torch.tensor(lens, dtype=torch.int32)
        ends = torch.cumsum(seq_lens if whole else seq_lens + 2, 0, dtype=torch.int32)
        starts = torch.cat((torch.zeros(1, dtype=torch.int32), ends))
        rows = int(ends[-1]) + (0 if whole else 4)
        return {
            "cache": cache,
            "block_size": block_size,
            "seq_lens": seq_lens.to(device),
            "block_table": table,
            "starts": (starts if whole else starts[:-1]).to(device),
            "k_out": torch.full((rows, INDEX_DIM), 3.0, device=device).to(torch.float8_e4m3fn),
            "scale_out": torch.full((rows,), 5.0, device=device),
        }

    return build


def _paged(
    generator: torch.Generator, device: torch.device, layout: PlanarLayout, lens: list[int], block_size: int
) -> tuple[Tensor, Tensor]:
    """(cache, block table int32 ``[R, B]``): random blocks, random keys in the slots of the requests' positions."""
    counts = [-(-length // block_size) for length in lens]
    width, blocks = max(1, *counts) + 1, sum(counts) + 3
    free = torch.randperm(blocks, generator=generator).to(torch.int32)
    table = torch.full((len(lens), width), -1, dtype=torch.int32)
    slots = [torch.zeros(0, dtype=torch.int64)]
    used = 0
    for request, (count, length) in enumerate(zip(counts, lens, strict=True)):
        table[request, :count] = free[used : used + count]
        used += count
        position = torch.arange(length)
        slots.append(table[request].long()[position // block_size] * block_size + position % block_size)
    slot = torch.cat(slots).to(device)
    cache = garbage_cache(layout, blocks, block_size, device)
    dim = HEAD_DIM if layout is FP8_DS_MLA else INDEX_DIM
    pack = layouts.pack_fp8_ds_mla if layout is FP8_DS_MLA else layouts.pack_indexer_fp8
    data, scales = pack(randn(generator, device, len(slot), dim, dtype=torch.float32) * 3)
    layout.write(cache, block_size, slot, data, scales)
    return cache, table.to(device)


def _insert(op: str, layout: PlanarLayout, dim: int, tokens: int, block_size: int, dtype: torch.dtype) -> CheckCase:
    label = f"T={tokens} block {block_size} {str(dtype).removeprefix('torch.')}{' large' if tokens > 100 else ''}"
    build = insert_build(layout, dim, tokens, block_size, dtype)
    return CheckCase(op, label, build, ("cache",), (_EXACT,))


def _indexer_gather(lens: list[int], block_size: int, whole: bool, large: str) -> CheckCase:
    label = f"R={len(lens)} N={sum(lens)} block {block_size} {'cumulative' if whole else 'starts'}{large}"
    build = indexer_gather_build(lens, block_size, whole=whole)
    return CheckCase("indexer_gather", label, build, ("k_out", "scale_out"), (_EXACT, _EXACT))
