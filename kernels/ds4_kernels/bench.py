"""``ds4-kernels bench``: median time of every op, against the device's own ceilings and the PyTorch reference.

A timing replays a CUDA graph of several calls on different inputs, so that launches cost what they cost in a serve and
the inputs do not sit in the cache. The ceilings are a large device copy and a large BF16 matrix product, measured first.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ds4_kernels import ops
from ds4_kernels.cases import registry
from ds4_kernels.cases.base import BenchCase, Inputs

CACHE_BYTES = 256 << 20
"""Inputs of one round together: several times any L2 cache."""
MAX_SETS = 16
ROUNDS = 25
REFERENCE_ROUNDS = 3
GRAPH_US = 500
"""A graph holds its calls again and again until it takes this long: its own start costs several microseconds, which are
none of a call's and weigh on short ones (an empty kernel: 1.1 us with 16 calls a graph, 0.7 with 64 or more)."""
MAX_REPEATS = 64


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best, measured in this run."""

    copy_tb_s: float
    matmul_tflop_s: float


@dataclass(frozen=True)
class Row:
    """One timing. Shares are of the measured copy bandwidth and of the measured BF16 matmul rate."""

    op: str
    label: str
    time_us: float
    spread: float
    tb_s: float
    bandwidth_share: float
    tflop_s: float
    matmul_share: float
    reference_us: float | None
    peer_us: float | None
    note: str = ""


def main(args: argparse.Namespace) -> int:
    """Time the selected ops on the GPU; 0, or 2 when there is none."""
    if not torch.cuda.is_available():
        print("bench: no CUDA device here; kernel speed can be measured on a GPU alone", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    selected = ops.names(",".join(args.op)) if args.op else ops.names()
    peers = _peers(args.peer)
    ceilings = measure_ceilings(device)
    name = torch.cuda.get_device_name(device)
    print(f"{name}: copy {ceilings.copy_tb_s:.2f} TB/s, BF16 matmul {ceilings.matmul_tflop_s:.0f} TFLOP/s")
    rows = []
    for case in registry.bench_cases(selected):
        row = time_case(case, device, args.seed, ceilings, peers)
        rows.append(row)
        print(_line(row), flush=True)
        torch.cuda.empty_cache()
    if args.json:
        document = {
            "schema": 1, "device": name, "torch": torch.__version__, "triton": triton_version(),
            "ceilings": asdict(ceilings), "peer": args.peer, "rows": [asdict(row) for row in rows],
        }  # fmt: skip
        Path(args.json).write_text(json.dumps(document, indent=1), encoding="utf-8")
    return 0


def triton_version() -> str:
    """The installed Triton's version."""
    return importlib.metadata.version("triton")


def measure_ceilings(device: torch.device) -> Ceilings:
    """Device-to-device copy of 2 GiB (bytes read plus written) and an 8192 cubed BF16 product of random numbers."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copy_us = _median_us(partial(target.copy_, source), 10)
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    matmul_us = _median_us(partial(torch.matmul, a, b), 10)
    return Ceilings(2 * (2 << 30) / copy_us / 1e6, 2 * 8192**3 / matmul_us / 1e6)


def time_case(
    case: BenchCase,
    device: torch.device,
    seed: int,
    ceilings: Ceilings,
    peers: dict[str, Callable[[Inputs], Callable[[], Any]]],
) -> Row:
    """Time the Triton kernel in a graph, the reference eagerly, and the peer in a graph where it has the op."""
    sets = input_sets(case, device, seed)
    kernel = ops.implementation(case.op, "triton")
    try:
        time_us, spread = graph_us([partial(kernel, **inputs) for inputs in sets])
    except Exception as error:
        note = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        return Row(case.op, case.label, float("nan"), 0, 0, 0, 0, 0, None, None, note)
    peer_us, note = _peer_us(case, sets, peers)
    reference_us = _reference_us(case, sets[0])
    tb_s, tflop_s = case.moved / time_us / 1e6, case.flops / time_us / 1e6
    return Row(
        case.op, case.label, time_us, spread, tb_s, tb_s / ceilings.copy_tb_s, tflop_s, tflop_s / ceilings.matmul_tflop_s,
        reference_us, peer_us, note,
    )  # fmt: skip


def _peers(name: str | None) -> dict[str, Callable[[Inputs], Callable[[], Any]]]:
    if name is None:
        return {}
    from ds4_kernels import peers

    return peers.load(name)


def _peer_us(case: BenchCase, sets: list[Inputs], peers: dict[str, Any]) -> tuple[float | None, str]:
    if case.op not in peers:
        return None, ""
    try:
        return graph_us([peers[case.op](inputs) for inputs in sets])[0], ""
    except Exception as error:  # a peer that refuses a shape is a fact to print, not a reason to stop
        return None, f"peer: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def input_sets(case: BenchCase, device: torch.device, seed: int) -> list[Inputs]:
    first = case.build(torch.Generator().manual_seed(seed), device)
    size = sum(tensor.numel() * tensor.element_size() for tensor in ops.tensors(first))
    count = max(2, min(MAX_SETS, -(-CACHE_BYTES // max(1, size)))) if size < 2 << 30 else 1
    return [first] + [_copy(first) for _ in range(count - 1)]


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copy(item) for name, item in value.items()}
    return type(value)(map(_copy, value)) if type(value) in {tuple, list} else value


def graph_us(calls: list[Callable[[], Any]]) -> tuple[float, float]:
    """(median microseconds of one call, interquartile range over the median) from replays of one graph of all calls."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    repeats = max(1, MAX_SETS // len(calls)) if len(calls) > 1 else 1
    first = statistics.median(_replays(calls, repeats))
    if len(calls) > 1:
        repeats = max(repeats, min(MAX_REPEATS, math.ceil(GRAPH_US / (first * len(calls)))))
    low, middle, high = statistics.quantiles(_replays(calls, repeats), n=4)
    return middle, (high - low) / middle


def _replays(calls: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Microseconds a call in ``ROUNDS`` replays of a graph that holds all calls ``repeats`` times."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            for call in calls:
                call()
    graph.replay()
    return [time / (repeats * len(calls)) for time in _timed(graph.replay, ROUNDS)]


def _reference_us(case: BenchCase, inputs: Inputs) -> float | None:
    reference = ops.implementation(case.op, "reference")
    try:
        return _median_us(partial(reference, **inputs), REFERENCE_ROUNDS)
    except torch.cuda.OutOfMemoryError:
        return None


def _median_us(call: Callable[[], Any], rounds: int) -> float:
    call()
    return statistics.median(_timed(call, rounds))


def _timed(call: Callable[[], Any], rounds: int) -> list[float]:
    events = [(_event(), _event()) for _ in range(rounds)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [1000 * begin.elapsed_time(end) for begin, end in events]


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _line(row: Row) -> str:
    if row.note and row.time_us != row.time_us:
        return f"{row.op:26} {row.label:28} {row.note}"
    reference = f"{row.reference_us / row.time_us:7.1f}x ref" if row.reference_us else "          -"
    peer = f" peer {row.peer_us:8.1f} us ({row.peer_us / row.time_us:4.2f}x)" if row.peer_us else ""
    time = f"{row.op:26} {row.label:28} {row.time_us:9.1f} us +-{100 * row.spread:3.0f} %"
    memory = f"{row.tb_s:6.2f} TB/s {100 * row.bandwidth_share:4.0f} %"
    math = f"{row.tflop_s:7.1f} TFLOP/s {100 * row.matmul_share:4.0f} %"
    return f"{time}  {memory}  {math} {reference}{peer} {row.note}".rstrip()
