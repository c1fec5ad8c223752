"""Cases of the per-row top-k. Rows hold distinct numbers where the k-th lies, so that the selected set is one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ds4_kernels.cases.base import BenchCase, Build, CheckCase, Inputs, Tolerance, randint, randn

_SETS = (Tolerance("sets"),)


def check_cases() -> list[CheckCase]:
    """Whole and split rows, lengths around k, empty rows, strides, many -inf, ties above the k-th, a biased sample."""
    cases = [
        _prefill(rows, columns, k, kind)
        for rows, columns, k, kind in (
            (4, 700, 64, "normal"), (3, 5000, 512, "infinite"), (2, 9000, 512, "late"), (5, 300, 512, "normal"),
            (300, 32_768, 512, "normal"), (300, 20_001, 1024, "infinite"), (200, 32_768, 512, "late"),
            (400, 6000, 2048, "ties above"), (200, 131_072, 512, "ascending"), (4096, 8192, 512, "normal"),
            (3, 131_072, 512, "late"), (7, 65_536, 1024, "infinite"), (2, 32_768, 1, "normal"), (150, 12_000, 6, "late"),
        )
    ]  # fmt: skip
    for batch, next_n, columns, k, per_row in (
        (2, 1, 600, 64, False), (2, 3, 5000, 512, False), (1, 2, 9000, 512, True), (1, 1, 32_768, 512, False),
        (1, 1, 131_072, 512, False), (4, 2, 32_768, 512, False), (4, 3, 32_768, 512, True), (32, 1, 32_768, 1024, False),
        (256, 1, 4096, 512, False), (100, 3, 20_000, 512, False),
    ):  # fmt: skip
        cases.append(_decode(batch, next_n, columns, k, per_row))
    return cases


def bench_cases() -> list[BenchCase]:
    """4096 rows of 32768 columns is kernels.md 5.3's row; decode rows up to 1 M tokens of context (/ 8 and / 4)."""
    cases = [
        BenchCase("topk_prefill", f"R={rows} C={columns} k={k}", _prefill_bench(rows, columns, k, causal=False),
                  moved=rows * (columns + k) * 4)
        for rows, columns, k in (
            (512, 32_768, 512), (4096, 2048, 512), (4096, 8192, 512), (4096, 32_768, 512), (4096, 32_768, 1024),
            (512, 131_072, 512),
        )
    ]  # fmt: skip
    visible = sum(_causal_length(row) for row in range(4096))
    causal = _prefill_bench(4096, 2048, 512, causal=True)
    cases.append(BenchCase("topk_prefill", "R=4096 C=2048 k=512 causal / 4", causal, moved=(visible + 4096 * 512) * 4))
    for batch, next_n, columns in ((1, 1, 2048), (1, 1, 32_768), (4, 1, 32_768), (4, 3, 32_768), (32, 1, 32_768),
                                   (1, 1, 131_072), (1, 1, 262_144), (32, 1, 131_072)):  # fmt: skip
        rows = batch * next_n
        label = f"B={batch} next_n={next_n} C={columns} k=512"
        cases.append(
            BenchCase("topk_decode", label, _decode_bench(batch, next_n, columns), moved=rows * (columns + 512) * 4)
        )
    return cases


def _prefill(rows: int, columns: int, k: int, kind: str) -> CheckCase:
    large = " large" if rows * columns > 20_000 else ""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        padded = _rows(generator, device, rows, columns, kind)
        starts = randint(generator, device, 0, max(1, columns // 8), rows)
        ends = starts + randint(generator, device, 0, columns, rows)
        starts[::3], ends[::3] = 0, columns
        if rows > 2:
            ends[1] = starts[1]  # an empty row
            ends[2] = starts[2] + k
        if kind == "infinite":  # no window in which -inf may or may not be selected: about half the numbers are finite
            ends = torch.where(ends - starts < 4 * k, torch.minimum(ends, starts + k), ends)
        return {"logits": padded[:, :columns], "row_starts": starts, "row_ends": ends.clamp_max(columns), "k": k}

    return CheckCase("topk_prefill", f"R={rows} C={columns} k={k} {kind}{large}", build, ("indices",), _SETS)


def _decode(batch: int, next_n: int, columns: int, k: int, per_row: bool) -> CheckCase:
    large = " large" if batch * next_n * columns > 20_000 else ""

    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        lens = randint(generator, device, 0, columns + 1, *((batch, next_n) if per_row else (batch,)))
        lens.view(-1)[0] = columns
        if batch > 2:
            lens[1], lens[2] = 0, k
        logits = _rows(generator, device, batch * next_n, columns, "normal")
        return {"logits": logits, "next_n": next_n, "seq_lens": lens, "k": k}

    lengths = "2-D" if per_row else "1-D"
    label = f"B={batch} next_n={next_n} C={columns} k={k} lens {lengths}{large}"
    return CheckCase("topk_decode", label, build, ("indices",), _SETS)


def _rows(generator: torch.Generator, device: torch.device, rows: int, columns: int, kind: str) -> Tensor:
    """Distinct normal quantiles in random order, changed as ``kind`` says; four more columns of NaN behind."""
    order = torch.rand(rows, columns, generator=generator).to(device).argsort(dim=-1)
    if kind == "ascending":
        order = order.sort(dim=-1).values
    x = (math.sqrt(2) * torch.erfinv(2 * (order.double() + 0.5) / columns - 1)).float()
    if kind == "infinite":
        x = x.masked_fill(order < columns // 2, -torch.inf)
    elif kind == "late":  # runs of eight that a strided sample need not meet
        late = (torch.arange(columns, device=device) % 512 < 40) & (torch.arange(columns, device=device) > columns // 3)
        x = torch.where(late, x + 100, x)
    elif kind == "ties above":
        x = torch.where(order >= columns - 100, 50.0, x)
    return torch.nn.functional.pad(x, (0, 4), value=torch.nan)


def _prefill_bench(rows: int, columns: int, k: int, causal: bool) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        ends = torch.full((rows,), columns, dtype=torch.int32, device=device)
        if causal:
            ends = torch.tensor([_causal_length(row) for row in range(rows)], dtype=torch.int32, device=device)
        logits = _noise(generator, device, rows, columns)
        return {"logits": logits, "row_starts": torch.zeros_like(ends), "row_ends": ends, "k": k}

    return build


def _decode_bench(batch: int, next_n: int, columns: int) -> Build:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        lens = torch.full((batch,), columns, dtype=torch.int32, device=device)
        logits = _noise(generator, device, batch * next_n, columns)
        return {"logits": logits, "next_n": next_n, "seq_lens": lens, "k": 512}

    return build


def _noise(generator: torch.Generator, device: torch.device, rows: int, columns: int) -> Tensor:
    """Normal numbers; the first 512 rows come from the generator, the others are those, rolled."""
    drawn = randn(generator, device, min(rows, 512), columns, dtype=torch.float32)
    return torch.cat([drawn.roll(977 * turn, dims=1) for turn in range(-(-rows // 512))])[:rows].contiguous()


def _causal_length(row: int) -> int:
    """Compressed entries that the query at position ``4096 + row`` sees with ratio 4."""
    return (4096 + row + 1) // 4
