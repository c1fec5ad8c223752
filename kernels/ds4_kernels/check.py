"""``ds4-kernels check``: every op's Triton kernel against its reference, on fresh random inputs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.cases import registry
from ds4_kernels.cases.base import CheckCase, Inputs, Tolerance
from ds4_kernels.compare import Comparison, compare


@dataclass(frozen=True)
class Row:
    """The worst output of one case."""

    op: str
    label: str
    ok: bool
    error: float
    limit: str
    note: str
    seconds: float


def main(args: argparse.Namespace) -> int:
    """Run the selected cases; 0 when all agree, 1 otherwise, 2 when the device cannot run them."""
    missing = _missing(args.device)
    if missing:
        print(f"check: {missing}", file=sys.stderr)
        return 2
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # must be set before a kernel module is imported
    selected = ops.names(",".join(args.op)) if args.op else ops.names()
    device = torch.device(args.device)
    rows = []
    runs = [run_case] if device.type == "cpu" else [run_case, run_graph]
    for case in registry.check_cases(selected, large=args.large or device.type == "cuda"):
        for run in runs:
            rows.append(run(case, device, args.seed))
            print(_line(rows[-1]), flush=True)
    _summary(rows)
    if args.json:
        _write(args.json, rows, device, args.seed)
    return 0 if rows and all(row.ok for row in rows) else 1


def _missing(device: str) -> str:
    """Why the cases cannot run, "" if they can."""
    if device != "cpu" and not torch.cuda.is_available():
        return "no CUDA device here; --device cpu runs the small cases in Triton's interpreter"
    if not ops.has_triton():
        return "triton is not installed"
    if device == "cpu" and importlib.util.find_spec("numpy") is None:
        return "Triton's interpreter needs numpy, which is not installed: pip install 'ds4-kernels[interpreter]'"
    return ""


def run_case(case: CheckCase, device: torch.device, seed: int) -> Row:
    """Build the inputs twice from the same seed, run both backends, compare every output."""
    began = time.perf_counter()
    try:
        verdicts = _compare_backends(case, device, seed)
    except Exception as error:  # a kernel that does not compile must not hide the cases after it
        note = f"{type(error).__name__}: {_first_line(error)}"
        return Row(case.op, case.label, False, float("inf"), "", note, _since(began))
    name, worst, tolerance = max(verdicts, key=lambda item: (not item[1].ok, item[1].error))
    limit = tolerance.kind if tolerance.kind in ("exact", "sets") else f"{tolerance.kind} {tolerance.limit:g}"
    return Row(
        case.op, case.label, worst.ok, worst.error, limit, f"{name}: {worst.note}" if worst.note else "", _since(began)
    )


def run_graph(case: CheckCase, device: torch.device, seed: int) -> Row:
    """Capture the kernel in a CUDA graph, replay it on other lengths, indices and values: it must equal an eager call."""
    began = time.perf_counter()
    label = f"{case.label} graph"
    try:
        error, note = _replay(case, device, seed)
    except Exception as failure:
        note = f"{type(failure).__name__}: {_first_line(failure)}"
        return Row(case.op, label, False, float("inf"), "exact", note, _since(began))
    return Row(case.op, label, error == 0, error, "exact", note, _since(began))


def _replay(case: CheckCase, device: torch.device, seed: int) -> tuple[float, str]:
    static, other = _inputs(case, device, seed), _inputs(case, device, seed + 1)
    eager = _run(case, "triton", _inputs(case, device, seed + 1))
    _run(case, "triton", _inputs(case, device, seed))  # compiled before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = _run(case, "triton", static)
    _overwrite(static, other)
    graph.replay()
    worst, note = 0.0, ""
    for name, mine, theirs, tolerance in zip(case.outputs, replayed, eager, case.tolerances, strict=True):
        result = compare(mine, theirs, Tolerance("sets" if tolerance.kind == "sets" else "exact"))
        if result.error > worst or not result.ok:
            worst, note = max(result.error, worst), f"{name}: {result.note}"
    return worst, note


def _overwrite(static: Inputs, other: Inputs) -> None:
    for name, value in static.items():
        _copy_into(value, other[name])


def _copy_into(target: Any, source: Any) -> None:
    if isinstance(target, Tensor):
        target.copy_(source)
    elif isinstance(target, (tuple, list)):
        for part, other in zip(target, source, strict=True):
            _copy_into(part, other)


def _compare_backends(case: CheckCase, device: torch.device, seed: int) -> list[tuple[str, Comparison, Any]]:
    expected = _run(case, "reference", _inputs(case, device, seed))
    with _poisoned_allocations():
        actual = _run(case, "triton", _inputs(case, device, seed))
    return [
        (name, compare(mine, theirs, tolerance), tolerance)
        for name, mine, theirs, tolerance in zip(case.outputs, actual, expected, case.tolerances, strict=True)
    ]


def _inputs(case: CheckCase, device: torch.device, seed: int) -> Inputs:
    return case.build(torch.Generator().manual_seed(seed), device)


def _run(case: CheckCase, backend: ops.Backend, inputs: Inputs) -> list[Tensor]:
    returned = ops.implementation(case.op, backend)(**inputs)
    values = [] if returned is None else list(returned) if isinstance(returned, tuple) else [returned]
    return [*values, *(inputs[name] for name in case.outputs[len(values) :])]


@contextmanager
def _poisoned_allocations() -> Iterator[None]:
    """Inside, ``torch.empty`` is filled with NaN (integers: their maximum), so that what a kernel left out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _line(row: Row) -> str:
    mark = "ok  " if row.ok else "FAIL"
    return f"{mark} {row.op:28} {row.label:52} error {row.error:<9.3g} ({row.limit}) {row.seconds:6.2f} s {row.note}".rstrip()


def _summary(rows: list[Row]) -> None:
    print()
    for op in dict.fromkeys(row.op for row in rows):
        mine = [row for row in rows if row.op == op]
        failed = sum(not row.ok for row in mine)
        print(f"{op:28} {len(mine) - failed}/{len(mine)} ok, worst error {max(row.error for row in mine):.3g}")
    print(f"{sum(row.ok for row in rows)} of {len(rows)} cases agree with the reference")


def _write(path: str, rows: list[Row], device: torch.device, seed: int) -> None:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"
    document = {
        "schema": 1,
        "device": name,
        "torch": torch.__version__,
        "seed": seed,
        "cases": [asdict(row) for row in rows],
    }
    Path(path).write_text(json.dumps(document, indent=1), encoding="utf-8")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else ""


def _since(began: float) -> float:
    return time.perf_counter() - began
