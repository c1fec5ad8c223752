"""Cases of sparse MLA attention."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.cases.base import BenchCase, CheckCase, Inputs, Tolerance, randint, randn

_OUTPUTS = ("out", "lse")
_TOLERANCES = (Tolerance("diff", 7e-6), Tolerance("close", 2e-3, 1e-3))
"""kernels.md 5.1, FlashMLA's tests: cosine distance of out 5e-6 to 7e-6. The lse of BF16 products of 512 terms."""
WINDOW, WINDOW_BLOCK = 128, 64
_DIM = layouts.HEAD_DIM
_SLOT = layouts.FP8_DS_MLA.slot_bytes


def check_cases() -> list[CheckCase]:
    """Heads 4 to 128, sinks of +-inf, empty rows, duplicated and invalid indices, NaN in slots that nobody names."""
    cases = [
        _prefill(3, 8, 70, 40, "random"), _prefill(2, 4, 50, 24, None), _prefill(2, 20, 64, 48, "+inf"),
        _prefill(2, 16, 64, 48, "-inf"), _prefill(257, 64, 4096, 640, "random"), _prefill(64, 32, 2000, 1152, "random"),
        _prefill(512, 128, 1000, 128, None), _prefill(4096, 64, 8192, 128, "random"),
        _decode(2, 8, 128, None, 64, "random"), _decode(1, 4, 32, 32, 2, "random"), _decode(3, 16, 48, 40, 64, "+inf"),
        _decode(2, 20, 48, 16, 64, "-inf"), _decode(1, 64, 128, 512, 64, "random"), _decode(4, 64, 128, 512, 64, None),
        _decode(32, 64, 128, 512, 64, "random"), _decode(130, 32, 128, 512, 64, "random"),
        _decode(5, 64, 128, 1024, 2, "random"),
        _decode(16, 128, 128, None, 64, "random"), _decode(600, 64, 128, 64, 64, "random"),
    ]  # fmt: skip
    return cases


def bench_cases() -> list[BenchCase]:
    """Sizes of the peers' tables: prefill of C4A, C128A and window rows; decode at 1 to 128 tokens."""
    cases = []
    for tokens, width in ((4096, 640), (4096, 1152), (4096, 128), (512, 640)):
        moved = tokens * 64 * _DIM * 4 + 8192 * _DIM * 2 + tokens * width * 4
        build = _prefill_build(tokens, 64, 8192, width, "random", full=True)
        flops = 4 * tokens * width * 64 * _DIM
        cases.append(BenchCase("sparse_attention_prefill", f"T={tokens} H=64 W={width}", build, moved, flops))
    for tokens in (1, 4, 32, 128):
        for heads in (64, 32):
            candidates = tokens * (WINDOW + 512)
            moved = candidates * _SLOT + tokens * heads * _DIM * 4
            build = _decode_build(tokens, heads, WINDOW, 512, 64, "random", full=True)
            label = f"T={tokens} H={heads} 128+512"
            cases.append(BenchCase("sparse_attention_decode", label, build, moved, 4 * candidates * heads * _DIM))
    return cases


def _prefill(tokens: int, heads: int, rows: int, width: int, sink: str | None) -> CheckCase:
    large = " large" if tokens * heads * width > 1e5 else ""
    label = f"T={tokens} H={heads} N={rows} W={width} sink {sink}{large}"
    build = _prefill_build(tokens, heads, rows, width, sink)
    return CheckCase("sparse_attention_prefill", label, build, _OUTPUTS, _TOLERANCES)


def _prefill_build(tokens: int, heads: int, rows: int, width: int, sink: str | None, full: bool = False):  # type: ignore[no-untyped-def]
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        kv = randn(generator, device, rows, _DIM)
        indices = randint(generator, device, 0, rows, tokens, width)
        lens = torch.full((tokens,), width, dtype=torch.int32, device=device)
        if not full:
            indices[:, ::5] = -1
            indices[:, 3::11] = rows + 5
            indices[:, 1] = indices[:, 2]  # counts twice
            lens = randint(generator, device, 0, width + 1, tokens)
            lens[-1], lens[0] = 0, width
            kv[rows // 2] = torch.nan  # a row that nobody names
            indices[indices == rows // 2] = rows // 2 - 1
        return {
            "q": randn(generator, device, tokens, heads, _DIM), "kv": kv, "indices": indices, "lens": lens,
            "sink": _sink(generator, device, heads, sink),
        }  # fmt: skip

    return build


def _decode(tokens: int, heads: int, window: int, extra: int | None, extra_block: int, sink: str | None) -> CheckCase:
    large = " large" if tokens * heads * (window + (extra or 0)) > 1e5 else ""
    label = f"T={tokens} H={heads} {window}+{extra or 0} block {extra_block} sink {sink}{large}"
    build = _decode_build(tokens, heads, window, extra, extra_block, sink)
    return CheckCase("sparse_attention_decode", label, build, _OUTPUTS, _TOLERANCES)


def _decode_build(  # type: ignore[no-untyped-def]
    tokens: int, heads: int, window: int, extra: int | None, extra_block: int, sink: str | None, full: bool = False
):
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        swa_cache, swa_slots, swa_lens = _paged(generator, device, tokens, window, WINDOW_BLOCK, full)
        inputs: Inputs = {
            "q": randn(generator, device, tokens, heads, _DIM), "swa_cache": swa_cache, "swa_block_size": WINDOW_BLOCK,
            "swa_slots": swa_slots, "swa_lens": swa_lens, "sink": _sink(generator, device, heads, sink),
        }  # fmt: skip
        if extra is not None:
            cache, slots, lens = _paged(generator, device, tokens, extra, extra_block, full)
            inputs |= {"extra_cache": cache, "extra_block_size": extra_block, "extra_slots": slots, "extra_lens": lens}
        return inputs

    return build


def _paged(
    generator: torch.Generator, device: torch.device, tokens: int, width: int, block_size: int, full: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A cache with four times the slots that a token needs, NaN bytes in the last quarter, and slots of the rest."""
    blocks = max(4, -(-width * max(4, min(tokens, 64)) // block_size))
    cache = layouts.FP8_DS_MLA.allocate(blocks, block_size, str(device))
    used = (blocks - blocks // 4) * block_size
    keys = randn(generator, device, used, _DIM, dtype=torch.float32)
    layouts.FP8_DS_MLA.write(cache, block_size, torch.arange(used, device=device), *layouts.pack_fp8_ds_mla(keys))
    cache[blocks - blocks // 4 :] = 0xFF
    slots = randint(generator, device, 0, used, tokens, width)
    lens = torch.full((tokens,), width, dtype=torch.int32, device=device)
    if not full:
        slots[:, ::9] = -1
        slots[:, 4::13] = blocks * block_size + 3
        lens = randint(generator, device, 0, width + 1, tokens)
        lens[-1], lens[0] = 0, width
    return cache, slots, lens


def _sink(generator: torch.Generator, device: torch.device, heads: int, kind: str | None) -> Tensor | None:
    if kind is None:
        return None
    sink = randn(generator, device, heads, dtype=torch.float32)
    return sink if kind == "random" else torch.full_like(sink, float(kind))
