"""The gate's table, summary and JSON document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4_kernels.compile_gate.binary import Measurement
from ds4_kernels.compile_gate.discover import kernel_name
from ds4_kernels.compile_gate.rules import SHARED_LIMIT, Verdict
from ds4_kernels.triton.compile_case import CompileCase

SCHEMA = "ds4-kernels.compile/1"

_HEADINGS = ("op", "config", "arch", "shared", "regs", "stack", "MMA", "s", "verdict")
_NUMERIC = frozenset({3, 4, 5, 7})
_WIDE = 60


@dataclass(frozen=True)
class Row:
    """One configuration on one architecture, with what came of it."""

    case: CompileCase
    arch: str
    measured: Measurement
    verdict: Verdict
    cached: bool


@dataclass(frozen=True)
class Report:
    """One run. ``seconds`` is its wall time; ``seed`` is set for a subset."""

    triton: str
    version: str
    archs: tuple[str, ...]
    seed: int | None
    seconds: float
    rows: Sequence[Row]

    @property
    def failed(self) -> bool:
        """Whether any row fails the gate."""
        return any(row.verdict.failed for row in self.rows)


def table(rows: Iterable[Row]) -> str:
    """One line a row. Reasons follow in full under the table, as compiler messages have many lines."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(
            _pad(text, width, column in _NUMERIC) for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def details(rows: Iterable[Row]) -> str:
    """Every distinct failure in full, after the rows that have it; empty when there are none."""
    failures: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.verdict.failed:
            failures.setdefault(row.verdict.reasons, []).append(f"{row.case.op} {row.case.config} {row.arch}")
    blocks = []
    for reasons, names in failures.items():
        lines = "\n".join(reasons).splitlines()
        blocks.append("\n".join(names) + ":\n" + "\n".join(f"    {line}" for line in lines))
    return "\n".join(blocks)


def summary(report: Report) -> str:
    """One line for the end."""
    counts = Counter(row.verdict.outcome for row in report.rows)
    found = ", ".join(f"{counts[name]} {name}" for name in ("ok", "downgrade", "violation", "error") if counts[name])
    kept = sum(row.cached for row in report.rows)
    part = f"subset of seed {report.seed}, " if report.seed is not None else ""
    return (
        f"{'FAIL' if report.failed else 'PASS'}: {len(report.rows)} compilations for {', '.join(report.archs)} "
        f"({part}{kept} known from an earlier run) with Triton {report.triton}: {found}; {report.seconds:.1f} s"
    )


def document(report: Report) -> dict[str, Any]:
    """The JSON document, schema ``ds4-kernels.compile/1``.

    ``schema``, ``ds4_kernels`` and ``triton`` (versions), ``archs``, ``shared_limit`` (bytes a block, by arch), ``seed``
    (null: all configurations), ``seconds`` (of the run), ``passed``, ``counts`` (rows by outcome), and ``rows``. A row:
    ``op``, ``config``, ``kernel``, ``arch``, ``tiles``, ``num_warps``, ``num_stages``, ``constexprs`` (as text),
    ``expected_mma`` (null: none), ``spill_free`` (whether spills count), then as measured ``shared`` (bytes a block),
    ``registers``, ``stack`` and ``local`` (bytes a thread), ``mma`` and ``foreign`` (lists of names), ``early`` (what
    touches global memory before the kernel waits for the one before it; null: it never waits), ``seconds`` (of the
    compilation), ``cached`` (known from an earlier run), and ``outcome`` ("ok", "downgrade", "violation", "error") with
    ``reasons`` (list of texts). The measured numbers are null in a row whose outcome is "error".
    """
    return {
        "schema": SCHEMA,
        "ds4_kernels": report.version,
        "triton": report.triton,
        "archs": list(report.archs),
        "shared_limit": {arch: SHARED_LIMIT[arch] for arch in report.archs},
        "seed": report.seed,
        "seconds": round(report.seconds, 3),
        "passed": not report.failed,
        "counts": dict(Counter(row.verdict.outcome for row in report.rows)),
        "rows": [_row_document(row) for row in report.rows],
    }


def write(report: Report, path: Path) -> None:
    """Write the document. Raises OSError."""
    path.write_text(json.dumps(document(report), indent=1) + "\n")


def _row_document(row: Row) -> dict[str, Any]:
    case, measured = row.case, row.measured
    known = measured.error is None
    return {
        "op": case.op,
        "config": case.config,
        "kernel": kernel_name(case),
        "arch": row.arch,
        "tiles": case.tiles,
        "num_warps": case.num_warps,
        "num_stages": case.num_stages,
        "constexprs": {name: str(value) for name, value in case.constexprs.items()},
        "expected_mma": case.mma,
        "spill_free": case.spill_free,
        "shared": measured.shared if known else None,
        "registers": measured.registers if known else None,
        "stack": measured.stack if known else None,
        "local": measured.local if known else None,
        "mma": list(measured.mma),
        "foreign": list(measured.foreign),
        "early": None if measured.early is None else list(measured.early),
        "seconds": round(measured.seconds, 3),
        "cached": row.cached,
        "outcome": row.verdict.outcome,
        "reasons": list(row.verdict.reasons),
    }


def _cells(row: Row) -> tuple[str, ...]:
    measured = row.measured
    known = measured.error is None
    numbers = (f"{measured.shared:,}", str(measured.registers), str(measured.spilled)) if known else ("-", "-", "-")
    mma = ", ".join(measured.mma) or "-"
    return (row.case.op, row.case.config, row.arch, *numbers, mma, f"{measured.seconds:.1f}", _short(row.verdict))


def _short(verdict: Verdict) -> str:
    if not verdict.reasons:
        return verdict.outcome
    first = "; ".join(reason.strip().splitlines()[0] for reason in verdict.reasons if reason.strip())
    cut = first if len(first) <= _WIDE or verdict.outcome != "error" else f"{first[:_WIDE]}..."
    return f"{verdict.outcome}: {cut}"


def _pad(text: str, width: int, numeric: bool) -> str:
    return text.rjust(width) if numeric else text.ljust(width)
