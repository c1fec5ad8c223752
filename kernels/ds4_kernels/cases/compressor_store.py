"""Cases of the compressor's state writes and entry stores."""

from __future__ import annotations

import torch

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn
from ds4_kernels.cases.cache import INDEX_SLOT, MLA_SLOT, garbage_cache, some_slots
from ds4_kernels.cases.query import rope_table
from ds4_kernels.reference.compressor import overlap
from ds4_kernels.reference.compressor_store import Kind, entry_dim, entry_layout

_EXACT = Tolerance("exact")
STATE_BLOCK = {4: 4, 128: 8}
ENTRY_BLOCK = {4: 64, 128: 2}


def check_cases() -> list[CheckCase]:
    """First windows, chunks that begin inside a window, many requests, skipped tokens, unused rows full of NaN."""
    cases = []
    for tokens, width, ratio in ((1, 1024, 4), (7, 256, 4), (9, 512, 128), (517, 1024, 4), (4096, 512, 128)):
        label = f"T={tokens} W={width}{' large' if tokens > 100 else ''}"
        cases.append(CheckCase("state_save", label, state_build(tokens, width, ratio), ("state",), (_EXACT,)))
    configs: list[tuple[Kind, int, list[tuple[int, int]]]] = [
        ("mla", 4, [(0, 9)]),
        ("mla", 4, [(6, 3), (0, 4), (11, 1)]),
        ("indexer", 4, [(0, 5), (21, 6)]),
        ("mla", 128, [(127, 1), (254, 3)]),
        ("indexer", 128, [(250, 7)]),
        ("mla", 4, [(0, 517), (1021, 300), (40, 0), (7, 1)]),
        ("mla", 128, [(0, 1500), (100, 400), (383, 1)]),
        ("indexer", 4, [(0, 517), (1021, 300), (3, 1)]),
        ("mla", 4, [(position, 1) for position in range(64)]),
        ("mla", 4, [(0, 4096)]),
    ]
    for kind, ratio, requests in configs:
        tokens = sum(count for _, count in requests)
        label = f"{kind} ratio {ratio} R={len(requests)} T={tokens}{' large' if tokens > 20 else ''}"
        build = compress_build(kind, ratio, requests)
        cases.append(CheckCase("compress_store", label, build, ("cache",), (_EXACT,)))
    return cases


def bench_cases() -> list[BenchCase]:
    """Decode steps that end a window, and prefill chunks. Bytes of a step are the rows of the windows that end."""
    cases = []
    for tokens in (1, 32, 512, 4096):
        for width, ratio in ((1024, 4), (512, 128)):
            build = state_build(tokens, width, ratio, skipped=False)
            cases.append(BenchCase("state_save", f"T={tokens} W={width}", build, tokens * (4 * width * 4 + 16)))
    configs: list[tuple[Kind, int]] = [("mla", 4), ("mla", 128), ("indexer", 4)]
    for kind, ratio in configs:
        slot = MLA_SLOT if kind == "mla" else INDEX_SLOT
        entry = overlap(ratio) * ratio * 2 * entry_dim(kind) * 4 + slot
        for requests, count in ((1, 1), (32, 1), (1, 512), (1, 4096)):
            ended = requests if count == 1 else count // ratio
            first = 4 * ratio - 1 if count == 1 else 0
            build = compress_build(kind, ratio, [(first, count)] * requests, skipped=False)
            label = f"{kind} ratio {ratio} T={requests * count}"
            cases.append(BenchCase("compress_store", label, build, ended * entry + requests * count * 16))
    return cases


def state_build(tokens: int, width: int, ratio: int, *, skipped: bool = True) -> Build:
    """kv and score are the halves of one projection, so their rows are strided."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        both = randn(generator, device, tokens, 2 * width, dtype=torch.float32)
        blocks = -(-tokens // STATE_BLOCK[ratio]) + 2
        slots = some_slots(generator, device, tokens, blocks * STATE_BLOCK[ratio])
        if skipped:
            gone = randint(generator, device, 0, 4, tokens) == 0
            both[gone] = torch.nan
            slots = torch.where(gone, -1, slots)
        return {
            "kv": both[:, :width],
            "score": both[:, width:],
            "ape": randn(generator, device, ratio, width, dtype=torch.float32),
            "positions": randint(generator, device, 0, 100_000, tokens, dtype=torch.int64),
            "slots": slots,
            "state": torch.full((blocks, STATE_BLOCK[ratio], 2 * width), -3.0, device=device),
        }

    return build


def compress_build(kind: Kind, ratio: int, requests: list[tuple[int, int]], *, skipped: bool = True) -> Build:
    """Requests as (first position, tokens). State rows that no window of the call needs, and later ones, are NaN."""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        dim, block = entry_dim(kind), STATE_BLOCK[ratio]
        reach = overlap(ratio) * ratio
        width = overlap(ratio) * dim
        blocks_each = max(-(-(first + count) // block) for first, count in requests) + 1
        table = torch.randperm(len(requests) * blocks_each, generator=generator).view(len(requests), -1)
        state = torch.full((table.numel(), block, 2 * width), torch.nan)
        for request, (first, count) in enumerate(requests):
            position = torch.arange(max(0, first - reach), first + count)
            rows = torch.randn(len(position), 2 * width, generator=generator)
            rows[:, width:] *= 4
            state[table[request][position // block], position % block] = rows
        positions = torch.cat([torch.arange(first, first + count) for first, count in requests])
        token_to_req = torch.repeat_interleave(torch.arange(len(requests)), torch.tensor([c for _, c in requests]))
        entry_blocks = -(-len(positions) // ENTRY_BLOCK[ratio]) + 1
        slots = some_slots(generator, torch.device("cpu"), len(positions), entry_blocks * ENTRY_BLOCK[ratio])
        ends = (positions + 1) % ratio == 0
        if skipped:  # some entries are not wanted, and some slots belong to tokens that end no window
            ends ^= torch.rand(len(slots), generator=generator) < 0.1
        slots = torch.where(ends, slots, -1)
        return {
            "state": state.to(device),
            "state_block_table": table.to(torch.int32).to(device),
            "token_to_req": token_to_req.to(torch.int32).to(device),
            "positions": positions.to(device),
            "slot_mapping": slots.to(device),
            "norm_weight": 1 + 0.2 * randn(generator, device, dim),
            "eps": 1e-6,
            "cos_sin": rope_table(device),
            "ratio": ratio,
            "cache": garbage_cache(entry_layout(kind), entry_blocks, ENTRY_BLOCK[ratio], device),
            "block_size": ENTRY_BLOCK[ratio],
            "kind": kind,
        }

    return build
