"""Cases of the FP8 MQA logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.cases.base import BenchCase, CheckCase, Inputs, Tolerance, randint, randn
from ds4_kernels.reference import quant

_LOGITS = (Tolerance("diff", 5e-6),)
"""kernels.md 5.1: calc_diff under 5e-6 against simulated quantisation, with the same -inf mask."""
HEADS, DIM, PAGE = 64, 128, 64


def check_cases() -> list[CheckCase]:
    """Both contracts of the ragged scores, both forms of lengths of the paged ones, few heads, empty windows."""
    cases = [
        _ragged(1, 40, 64, None), _ragged(33, 300, 8, None), _ragged(20, 260, 64, 150), _ragged(5, 130, 4, 260),
        _ragged(512, 4096, 64, None), _ragged(300, 20_000, 64, None), _ragged(1000, 16_500, 64, 9000),
        _ragged(4096, 1024, 32, None),
    ]  # fmt: skip
    for batch, next_n, longest, heads, flat in (
        (1, 1, 100, 64, True), (3, 2, 260, 8, False), (2, 3, 200, 16, True), (2, 5, 150, 4, False),
        (4, 1, 32_768, 64, True), (32, 1, 8192, 64, False), (5, 3, 4000, 64, True),
    ):  # fmt: skip
        cases += [_paged(batch, next_n, longest, heads, flat, rowwise) for rowwise in (False, True)]
    cases.append(CheckCase("mqa_logits_wq", "M=20 N=90", _wq_build(20, 90, 8), ("logits",), (Tolerance("diff", 1e-6),)))
    cases.append(
        CheckCase(
            "mqa_logits_wq", "M=512 N=4096 large", _wq_build(512, 4096, 64), ("logits",), (Tolerance("diff", 1e-6),)
        )
    )
    return cases


def bench_cases() -> list[BenchCase]:
    """Sizes of the peers' tables: prefill chunks against 32K keys, decode batches."""
    cases = [
        BenchCase("mqa_logits_ragged", f"M={rows} N={keys} H=64", _ragged_build(rows, keys, HEADS, None, full=True),
                  moved=rows * HEADS * (DIM + 4) + keys * (DIM + 4) + rows * keys * 4, flops=2 * rows * keys * HEADS * DIM)
        for rows, keys in ((1, 32_768), (512, 32_768), (4096, 32_768))
    ]  # fmt: skip
    for batch, keys in ((1, 32_768), (4, 32_768), (32, 8192), (1, 262_144)):
        build = _paged_build(batch, 1, keys, HEADS, flat=False, rowwise=False, full=True)
        moved = batch * keys * (132 + 4) + batch * HEADS * (DIM + 4)
        cases.append(
            BenchCase("mqa_logits_paged", f"B={batch} N={keys} H=64", build, moved, 2 * batch * keys * HEADS * DIM)
        )
    return cases


def _ragged(rows: int, keys: int, heads: int, width: int | None) -> CheckCase:
    large = " large" if rows * keys * heads > 2e6 else ""
    label = f"M={rows} N={keys} H={heads}{'' if width is None else f' compressed {width}'}{large}"
    return CheckCase("mqa_logits_ragged", label, _ragged_build(rows, keys, heads, width), ("logits",), _LOGITS)


def _ragged_build(rows: int, keys: int, heads: int, width: int | None, full: bool = False):  # type: ignore[no-untyped-def]
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        starts = randint(generator, device, 0, max(1, keys // 2), rows)
        ends = (starts + randint(generator, device, 0, keys // 2 + 1, rows)).clamp_max(keys)
        if full:
            starts, ends = torch.zeros_like(starts), torch.full_like(ends, keys)
        else:
            ends[::7] = starts[::7]  # empty windows
        inputs: Inputs = {**_operands(generator, device, rows, keys, heads), "starts": starts, "ends": ends}
        if width is not None:
            inputs |= {"ends": torch.minimum(ends, starts + width), "compressed_width": width}
        return inputs

    return build


def _paged(batch: int, next_n: int, longest: int, heads: int, flat: bool, rowwise: bool) -> CheckCase:
    large = " large" if batch * next_n * longest * heads > 2e5 else ""
    variant = f"lens {'1-D' if flat else '2-D'}{' rowwise' if rowwise else ''}"
    label = f"B={batch} next_n={next_n} N<={longest} H={heads} {variant}{large}"
    return CheckCase(
        "mqa_logits_paged", label, _paged_build(batch, next_n, longest, heads, flat, rowwise), ("logits",), _LOGITS
    )


def _paged_build(batch: int, next_n: int, longest: int, heads: int, flat: bool, rowwise: bool, full: bool = False):  # type: ignore[no-untyped-def]
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        pages = -(-longest // PAGE)
        lens = randint(generator, device, 0, longest + 1, batch)
        lens[0] = longest
        if full:
            lens[:] = longest
        elif batch > 1:
            lens[1] = 0
        per_row = lens if flat else (lens[:, None] - randint(generator, device, 0, 4, batch, next_n)).clamp_min(0)
        order = torch.randperm(batch * pages, generator=generator).to(torch.int32).view(batch, pages).to(device)
        unused = torch.arange(pages, device=device) * PAGE >= lens[:, None]
        cache = _cache(generator, device, batch * pages)
        cache[order[unused].long()] = 0xFF  # NaN in every page that no length reaches
        q = _e4m3(randn(generator, device, batch, next_n, heads, DIM))
        weights = randn(generator, device, batch * next_n, heads, dtype=torch.float32)
        return {
            "q": q, "cache": cache, "block_size": PAGE, "weights": weights, "context_lens": per_row,
            "block_table": torch.where(unused, -1, order),
            "max_len": longest, "rowwise": rowwise,
        }  # fmt: skip

    return build


def _wq_build(rows: int, keys: int, heads: int):  # type: ignore[no-untyped-def]
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        return {**_operands(generator, device, rows, keys, heads), "relu": False}

    return build


def _operands(generator: torch.Generator, device: torch.device, rows: int, keys: int, heads: int) -> Inputs:
    return {
        "q": _e4m3(randn(generator, device, rows, heads, DIM)),
        "k": _e4m3(randn(generator, device, keys, DIM)),
        "k_scale": torch.exp2(randint(generator, device, -6, 3, keys).float()),
        "weights": randn(generator, device, rows, heads, dtype=torch.float32),
    }


def _cache(generator: torch.Generator, device: torch.device, blocks: int) -> Tensor:
    cache = layouts.INDEXER_FP8.allocate(blocks, PAGE, str(device))
    keys = randn(generator, device, blocks * PAGE, DIM, dtype=torch.float32)
    layouts.INDEXER_FP8.write(cache, PAGE, torch.arange(blocks * PAGE, device=device), *layouts.pack_indexer_fp8(keys))
    return cache


def _e4m3(x: Tensor) -> Tensor:
    return (x.float() * 8).clamp(-quant.E4M3_MAX, quant.E4M3_MAX).to(torch.float8_e4m3fn)
