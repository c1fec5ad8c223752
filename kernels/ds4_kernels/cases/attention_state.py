"""Cases of ``attention_state``: streaming states, what finishes them, the fused decode, the materialised path."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn
from ds4_kernels.reference.attention import SoftmaxState
from ds4_kernels.reference.attention_state import HEAD_BLOCKS, EmptyLse, empty_state

DIM = layouts.HEAD_DIM
SCALE = DIM**-0.5
WINDOW = 128
_LOG = Tolerance("close", limit=2e-5, rtol=1e-5)
"""Scores and lse: sums of 512 FP32 products of order 1, in another order."""
_SUM = Tolerance("close", limit=1e-4, rtol=1e-4)
_OUT = Tolerance("close", limit=1e-5, rtol=2.0**-7)
"""BF16 results: one unit in the last place, where the FP32 values before rounding lie on two sides of a tie."""
_POISON = 0xFF  # as e4m3 and BF16 a NaN, as E8M0 the NaN code
_SINKS = {"none": None, "finite": 0.0, "+inf": math.inf, "-inf": -math.inf}


def _state(g: torch.Generator, device: torch.device, tokens: int, heads: int) -> SoftmaxState:
    """What earlier subsets may have left; every third row is still empty."""
    empty = (torch.arange(tokens * heads, device=device) % 3 == 1).view(tokens, heads)
    maximum = torch.where(empty, -torch.inf, randn(g, device, tokens, heads, dtype=torch.float32))
    denominator = torch.where(empty, 0.0, 1 + randn(g, device, tokens, heads, dtype=torch.float32).abs())
    accumulator = torch.where(empty.unsqueeze(-1), 0.0, randn(g, device, tokens, heads, DIM, dtype=torch.float32))
    return SoftmaxState(maximum, denominator, accumulator)


def _lens(g: torch.Generator, device: torch.device, tokens: int, width: int) -> Tensor:
    """Lengths 0 .. width; the last token has none, the first has all (one token: all)."""
    lens = randint(g, device, 0, width + 1, tokens)
    lens[-1] = 0
    lens[0] = width + 3  # longer than the row: capped
    return lens


def _ids(g: torch.Generator, device: torch.device, tokens: int, width: int, count: int) -> Tensor:
    """Ids in [0, count) with duplicates, and some that name nothing: -1 and values beyond the end."""
    ids = randint(g, device, 0, count, tokens, width)
    kind = randint(g, device, 0, 8, tokens, width)
    return torch.where(kind == 0, -1, torch.where(kind == 1, count + kind, ids))


def _unused(ids: Tensor, lens: Tensor, count: int) -> Tensor:
    """Which of ``count`` rows no valid candidate names, bool on the CPU."""
    valid = (torch.arange(ids.shape[1], device=ids.device) < lens.unsqueeze(-1)) & (ids >= 0) & (ids < count)
    unused = torch.ones(count, dtype=torch.bool)
    unused[ids[valid].long().cpu()] = False
    return unused


def _cache(
    g: torch.Generator, device: torch.device, blocks: int, block_size: int, unused: Tensor | None = None
) -> Tensor:
    """A cache of random keys of several magnitudes; slots ``unused`` bool ``[blocks * block_size]`` are poisoned."""
    cpu = torch.device("cpu")
    slots = blocks * block_size
    keys = randn(g, cpu, min(slots, 2048), DIM, dtype=torch.float32)
    keys *= torch.exp2(randint(g, cpu, -3, 2, keys.shape[0], DIM // 64).repeat_interleave(64, 1))
    rows = torch.arange(slots) % keys.shape[0]
    data, scales = (plane[rows] for plane in layouts.pack_fp8_ds_mla(keys))
    if unused is not None:
        data[unused] = _POISON
        scales[unused] = _POISON
    cache = layouts.FP8_DS_MLA.allocate(blocks, block_size)
    layouts.FP8_DS_MLA.write(cache, block_size, torch.arange(slots), data, scales)
    return cache.to(device)


def _sink(g: torch.Generator, device: torch.device, heads: int, value: float | None) -> Tensor | None:
    """None; for 0 random finite logits; for +-inf that value in every second head."""
    if value is None:
        return None
    sink = randn(g, device, heads, dtype=torch.float32)
    if value:
        sink[::2] = value
    return sink


def _gathered(tokens: int, heads: int, width: int, ids: bool, block: int | None = None) -> Build:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        lens = _lens(g, device, tokens, width)
        valid = torch.arange(width, device=device) < lens.unsqueeze(-1)
        slot_ids = _ids(g, device, tokens, width, 1000) if ids else None
        if slot_ids is not None:
            valid = valid & (slot_ids >= 0)
        kv = torch.where(valid.unsqueeze(-1), randn(g, device, tokens, width, DIM), torch.nan)
        return {
            "q": randn(g, device, tokens, heads, DIM), "kv": kv, "lens": lens, "slot_ids": slot_ids, "scale": SCALE,
            "state": _state(g, device, tokens, heads), "head_block": block,
        }  # fmt: skip

    return build


def _indexed(tokens: int, heads: int, width: int, rows: int, block: int | None = None) -> Build:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        kv, lens = randn(g, device, rows, DIM), _lens(g, device, tokens, width)
        indices = _ids(g, device, tokens, width, rows)
        kv[_unused(indices, lens, rows).to(device)] = torch.nan
        return {
            "q": randn(g, device, tokens, heads, DIM), "kv": kv, "indices": indices, "lens": lens, "scale": SCALE,
            "state": _state(g, device, tokens, heads), "head_block": block,
        }  # fmt: skip

    return build


def _slots(tokens: int, heads: int, width: int, blocks: int, block_size: int, block: int | None = None) -> Build:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        count = blocks * block_size
        ids, lens = _ids(g, device, tokens, width, count), _lens(g, device, tokens, width)
        cache = _cache(g, device, blocks, block_size, _unused(ids, lens, count))
        return {
            "q": randn(g, device, tokens, heads, DIM), "cache": cache, "block_size": block_size, "slot_ids": ids,
            "lens": lens, "scale": SCALE, "state": _state(g, device, tokens, heads), "head_block": block,
        }  # fmt: skip

    return build


def _paged(
    requests: int, next_n: int, heads: int, reach: int, block_size: int, per_token: bool = True, block: int | None = None
) -> Build:  # fmt: skip
    """Sequences of up to ``reach`` tokens: the first as short as can be, the second without its first page, the last
    without candidates if there are three."""

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        seq = randint(g, device, next_n, reach + 1, requests)
        seq[0] = next_n
        if per_token:
            token = torch.arange(requests * next_n, device=device)
            seq = (seq[token // next_n] - (next_n - 1 - token % next_n)).to(torch.int32)
        gather = seq.clamp_max(WINDOW)
        if requests > 2:
            gather[-1] = 0
        columns = -(-reach // block_size)
        blocks = requests * columns + 1
        pages = torch.randperm(blocks, generator=g)[: requests * columns]
        table = pages.view(requests, columns).to(torch.int32).to(device)
        if requests > 1:
            table[1, 0] = -1
        unused = torch.ones(blocks, block_size, dtype=torch.bool)
        unused[table[table >= 0].long().cpu()] = False
        return {
            "q": randn(g, device, requests * next_n, heads, DIM),
            "cache": _cache(g, device, blocks, block_size, unused.flatten()), "block_size": block_size,
            "seq_lens": seq, "gather_lens": gather, "block_table": table, "next_n": next_n, "scale": SCALE,
            "state": _state(g, device, requests * next_n, heads), "head_block": block,
        }  # fmt: skip

    return build


def _fused(
    requests: int, next_n: int, heads: int, reach: int, width: int, page: int, sink: float | None, block: int | None = None
) -> Build:  # fmt: skip
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        window = _paged(requests, next_n, heads, reach, 64)(g, device)
        blocks = max(2, -(-2 * width // page))
        slots = _slots(requests * next_n, heads, width, blocks, page)(g, device)
        inputs = {name: window[name] for name in ("q", "seq_lens", "gather_lens", "block_table", "next_n", "scale")}
        return {
            **inputs, "swa_cache": window["cache"], "swa_block_size": 64, "slot_cache": slots["cache"],
            "slot_block_size": page, "slot_ids": slots["slot_ids"], "lens": slots["lens"],
            "sink": _sink(g, device, heads, sink), "head_block": block,
        }  # fmt: skip

    return build


def _finish(tokens: int, heads: int, sink: float | None, out_heads: int | None, empty: EmptyLse = "-inf") -> Build:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        return {
            "state": _state(g, device, tokens, heads), "sink": _sink(g, device, heads, sink), "empty_lse": empty,
            "out_heads": out_heads,
        }  # fmt: skip

    return build


def _finish_two(tokens: int, heads: int, sink: float | None, out_heads: int | None) -> Build:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        state_b = _state(g, device, tokens, heads)
        for part, empty in zip(state_b, empty_state(1, heads, device), strict=True):
            part[0] = empty[0]  # with the empty rows of state_a: one empty, and both
        return {
            "state_a": _state(g, device, tokens, heads), "state_b": state_b, "sink": _sink(g, device, heads, sink),
            "out_heads": out_heads,
        }  # fmt: skip

    return build


def _merge(tokens: int, heads: int, count: int, sink: float | None) -> Build:
    """Subsets in which some rows are empty, in each engine's way of saying so, with NaN as their out."""

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        outs, lses = [], []
        for index in range(count):
            lse = randn(g, device, tokens, heads, dtype=torch.float32)
            hole = randint(g, device, 0, 3, tokens, heads) == 0
            hole[0] = True  # empty in every subset
            lse[hole] = (-torch.inf, torch.inf, -1e30)[index % 3]
            outs.append(torch.where(hole.unsqueeze(-1), torch.nan, randn(g, device, tokens, heads, DIM)))
            lses.append(lse)
        return {"outs": outs, "lses": lses, "sink": _sink(g, device, heads, sink)}

    return build


def _materialised(
    tokens: int, heads: int, width: int, dim: int, sink: float | None, block_d: int | None = None
) -> Build:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        lens = _lens(g, device, tokens, width)
        valid = torch.arange(width, device=device) < lens.unsqueeze(-1)
        kv = torch.where(valid.unsqueeze(-1), randn(g, device, tokens, width, dim), torch.nan)
        return {
            "q": randn(g, device, tokens, heads, dim), "kv": kv, "lens": lens, "scale": dim**-0.5,
            "sink": _sink(g, device, heads, sink), "block_d": block_d,
        }  # fmt: skip

    return build


def check_cases() -> list[CheckCase]:
    """Edge rules at small sizes for every head block, and real sizes ("large") of the model."""
    return [*_accumulate_checks(), *_finish_checks()]


def _state_case(op: str, label: str, build: Build) -> CheckCase:
    return CheckCase(op, label, build, ("maximum", "denominator", "accumulator"), (_LOG, _SUM, _SUM))


def _out_case(op: str, label: str, build: Build) -> CheckCase:
    return CheckCase(op, label, build, ("out", "lse"), (_OUT, _LOG))


def _accumulate_checks() -> list[CheckCase]:
    cases = [
        _state_case("accumulate_gathered", "T=1 H=1 K=1", _gathered(1, 1, 1, True)),
        _state_case("accumulate_gathered", "K=0", _gathered(2, 4, 0, False)),
        _state_case("accumulate_slots", "K=0", _slots(2, 4, 0, 2, 64)),
    ]
    for block in HEAD_BLOCKS:
        for heads, ids, block_size in ((4, False, 64), (6, True, 2)):  # 6: the last program has heads to spare
            size = f"T=3 H={heads} h{block}"
            cases += [
                _state_case("accumulate_gathered", size, _gathered(3, heads, 9, ids, block)),
                _state_case("accumulate_indexed", size, _indexed(3, heads, 21, 17, block)),
                _state_case("accumulate_slots", size, _slots(3, heads, 13, 4, block_size, block)),
            ]
        for next_n, per_token in ((1, True), (2, False), (2, True)):
            label = f"R=3 next_n={next_n} H=4 h{block} lens per {'token' if per_token else 'request'}"
            cases.append(_state_case("accumulate_paged", label, _paged(3, next_n, 4, 24, 16, per_token, block)))
    for tokens in (1, 4, 15, 32, 300):
        for heads in (4, 8, 16, 32, 64, 128):
            size = f"large T={tokens} H={heads}"
            cases += [
                _state_case("accumulate_gathered", size, _gathered(tokens, heads, 200, True)),
                _state_case("accumulate_indexed", size, _indexed(tokens, heads, 640, 3000)),
                _state_case("accumulate_slots", f"{size} C4A", _slots(tokens, heads, 512, 40, 64)),
                _state_case("accumulate_slots", f"{size} C128A", _slots(tokens, heads, 1024, 700, 2)),
                _state_case("accumulate_paged", size, _paged(tokens, 1, heads, 300, 64)),
            ]
    for next_n in (2, 3):
        build = _paged(12, next_n, 32, 700, 256, per_token=False)
        cases.append(_state_case("accumulate_paged", f"large R=12 next_n={next_n}", build))
    return cases


def _finish_checks() -> list[CheckCase]:
    cases = []
    for name, sink in _SINKS.items():
        cases += [
            _out_case("finish", f"T=3 H=4 sink {name}", _finish(3, 4, sink, None)),
            _out_case("finish", f"large T=700 H=64 sink {name}", _finish(700, 64, sink, 64)),
            _out_case("finish_two", f"T=3 H=4 of 6 sink {name}", _finish_two(3, 4, sink, 6)),
            _out_case("finish_two", f"large T=700 H=12 of 16 sink {name}", _finish_two(700, 12, sink, 16)),
            _out_case("attend_materialised", f"T=3 H=5 sink {name}", _materialised(3, 5, 10, DIM, sink)),
            _out_case("attend_paged_and_slots", f"T=4 H=4 sink {name}", _fused(2, 2, 4, 70, 9, 2, sink, 4)),
        ]
        for count in (1, 2, 3, 4, 6):
            label = f"S={count} sink {name}"
            cases += [
                _out_case("merge_subsets", f"T=3 H=4 {label}", _merge(3, 4, count, sink)),
                _out_case("merge_subsets", f"large T=700 H=64 {label}", _merge(700, 64, count, sink)),
            ]
    empties: tuple[EmptyLse, ...] = ("+inf", "-1e30")
    cases += [_out_case("finish", f"T=3 H=4 of 7, empty lse {e}", _finish(3, 4, 0.0, 7, e)) for e in empties]
    for dim, block_d in ((64, None), (96, None), (192, None), (192, 64), (512, 128)):
        label = f"T=2 H=3 D={dim} block_d={block_d}"
        cases.append(_out_case("attend_materialised", label, _materialised(2, 3, 10, dim, 0.0, block_d)))
    for tokens in (1, 4, 15, 32, 300):
        for heads in (4, 8, 32, 64, 128):
            size = f"large T={tokens} H={heads}"
            cases += [
                _out_case("attend_paged_and_slots", size, _fused(tokens, 1, heads, 300, 512, 64, 0.0)),
                _out_case("attend_materialised", size, _materialised(tokens, heads, 640, DIM, 0.0)),
            ]
    for block in HEAD_BLOCKS:
        label = f"large C128A R=8 next_n=2 H=36 h{block}"
        cases.append(_out_case("attend_paged_and_slots", label, _fused(8, 2, 36, 500, 1100, 2, 0.0, block)))
    return cases


def bench_cases() -> list[BenchCase]:
    """Decode and prefill sizes of the model, 64 heads on one device and 32 of a pair (kernels.md 5.3)."""
    cases = [_decode_bench(op, t, 64, k, bs) for op, k, bs in _DECODES for t in (1, 4, 32, 512)]
    cases += [_indexed_bench(tokens, heads) for tokens in (512, 4096) for heads in (32, 64)]
    cases += [_materialised_bench(tokens, 64) for tokens in (1, 4, 32)]
    return cases + [_finish_bench(op, tokens, 64) for op in _FINISHED for tokens in (1, 32, 4096)]


_DECODES = (("accumulate_paged", WINDOW, 64), ("accumulate_slots", 512, 64), ("accumulate_slots", 1024, 2),
            ("attend_paged_and_slots", 512, 64), ("attend_paged_and_slots", 1024, 2))  # fmt: skip
"""(op, candidates without the window, block size): the window alone, C4A, C128A at 128 K tokens; the fused op has both."""
_FINISHED = {"finish": 1, "finish_two": 2, "merge_subsets": 2}
_ROW = 4 * DIM + 8  # bytes of a head's state


def _decode_bench(op: str, tokens: int, heads: int, width: int, block_size: int) -> BenchCase:
    """Every candidate valid, requests in pages of their own, compressed entries of 128 K tokens of one prompt."""

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        pages = 2 * tokens
        lens = torch.full((tokens,), width, dtype=torch.int32, device=device)
        seen = torch.full_like(lens, WINDOW)
        table = torch.randperm(pages, generator=g).view(tokens, 2).to(torch.int32).to(device)
        window = {"seq_lens": seen, "gather_lens": seen, "block_table": table, "next_n": 1}
        blocks = entries // block_size
        slots = {"slot_ids": randint(g, device, 0, entries, tokens, width), "lens": lens}
        common = {"q": randn(g, device, tokens, heads, DIM), "scale": SCALE}
        if op == "attend_paged_and_slots":
            return {
                **common, **window, **slots, "swa_cache": _cache(g, device, pages, 64), "swa_block_size": 64,
                "slot_cache": _cache(g, device, blocks, block_size), "slot_block_size": block_size,
                "sink": _sink(g, device, heads, 0.0),
            }  # fmt: skip
        paged = op == "accumulate_paged"
        cache = _cache(g, device, pages if paged else blocks, block_size)
        state = empty_state(tokens, heads, device)
        return {**common, **(window if paged else slots), "cache": cache, "block_size": block_size, "state": state}

    fused, entries = op == "attend_paged_and_slots", 32_768 if block_size == 64 else 1024
    keys = tokens * WINDOW if op == "accumulate_paged" else min(tokens * width, entries) + fused * tokens * WINDOW
    rows = tokens * heads * (2 * DIM + (2 * DIM + 4 if fused else 2 * _ROW))
    candidates = width + (WINDOW if fused else 0)
    label = f"T={tokens} H={heads} K={candidates} bs={block_size}"
    return BenchCase(op, label, build, keys * 584 + rows, 4 * tokens * heads * candidates * DIM)


def _indexed_bench(tokens: int, heads: int) -> BenchCase:
    """Prefill of C4A: 512 of the 4096 compressed entries and the window, from a workspace of both."""
    width, rows = 640, 4096 + tokens + WINDOW

    def build(g: torch.Generator, device: torch.device) -> Inputs:
        return {
            "q": randn(g, device, tokens, heads, DIM), "kv": randn(g, device, rows, DIM),
            "indices": randint(g, device, 0, rows, tokens, width), "scale": SCALE,
            "lens": torch.full((tokens,), width, dtype=torch.int32, device=device),
            "state": empty_state(tokens, heads, device),
        }  # fmt: skip

    moved, flops = rows * 2 * DIM + tokens * heads * (2 * DIM + 2 * _ROW), 4 * tokens * heads * width * DIM
    return BenchCase("accumulate_indexed", f"T={tokens} H={heads} K={width}", build, moved, flops)


def _materialised_bench(tokens: int, heads: int, width: int = 640) -> BenchCase:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        inputs = _materialised(tokens, heads, width, DIM, 0.0)(g, device)
        return {**inputs, "kv": randn(g, device, tokens, width, DIM), "lens": torch.full_like(inputs["lens"], width)}

    moved, flops = tokens * (width * 2 * DIM + heads * (4 * DIM + 4)), 4 * tokens * heads * width * DIM
    return BenchCase("attend_materialised", f"T={tokens} H={heads} K={width}", build, moved, flops)


def _finish_bench(op: str, tokens: int, heads: int) -> BenchCase:
    def build(g: torch.Generator, device: torch.device) -> Inputs:
        count = _FINISHED[op]
        if op == "merge_subsets":
            outs = [randn(g, device, tokens, heads, DIM) for _ in range(count)]
            lses = [randn(g, device, tokens, heads, dtype=torch.float32) for _ in range(count)]
            return {"outs": outs, "lses": lses, "sink": _sink(g, device, heads, 0.0)}
        names = ("state",) if count == 1 else ("state_a", "state_b")
        states = {name: SoftmaxState(*map(torch.ones_like, empty_state(tokens, heads, device))) for name in names}
        return {**states, "sink": _sink(g, device, heads, 0.0)}

    part = 2 * DIM + 4 if op == "merge_subsets" else _ROW
    return BenchCase(op, f"T={tokens} H={heads}", build, tokens * heads * (_FINISHED[op] * part + 2 * DIM + 4))
