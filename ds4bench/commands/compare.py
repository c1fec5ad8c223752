"""``ds4bench compare``: two runs of a gate beside each other."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING

from ds4bench.core import RunData
from ds4bench.report.console import stdout
from ds4bench.report.toolcall15 import render_sides
from ds4bench.store.runs import load_run
from ds4bench.verdicts.exit_codes import USAGE
from ds4bench.verdicts.side_by_side import LATENCIES, Comparison, LatencyComparison, ScoreComparison, side_by_side
from ds4bench.workloads.toolcall15.summary import FULL

if TYPE_CHECKING:
    from rich.console import Console

_SCENARIO = re.compile(r"tc-\d+")
"""A score of one scenario: a line of the table of scenarios, not of the one of scores."""


def compare_runs(first: str, second: str, *, other_model: bool, as_json: bool) -> int:
    """Compare and print; returns 0, or 2 when nothing could be compared. Raises StoreError for runs that cannot be read."""
    one, two = load_run(first), load_run(second)
    comparison = side_by_side(one, two, other_model=other_model)
    if as_json:
        document = {"schema": 1, "first": _described(one), "second": _described(two)} | dataclasses.asdict(comparison)
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        _render(one, two, comparison, stdout())
    return 0 if comparison.scores or comparison.latencies else USAGE


def _described(run: RunData) -> dict[str, object]:
    fingerprint = run.manifest.fingerprint
    return {
        "run": run.manifest.run_id,
        "gate": run.manifest.gate,
        "engine": fingerprint.engine if fingerprint else None,
        "engine_version": fingerprint.engine_version if fingerprint else None,
        "model": fingerprint.model if fingerprint else None,
        "verdict": run.verdict.verdict.value if run.verdict else None,
    }


def _render(first: RunData, second: RunData, comparison: Comparison, console: Console) -> None:
    for letter, run in (("A", first), ("B", second)):
        about = _described(run)
        engine = f"{about['engine']} {about['engine_version'] or ''}".strip()
        console.print(f"{letter}: {about['run']}, {engine} serving {about['model']}", markup=False, soft_wrap=True)
    if comparison.scores:
        if first.manifest.measurement.get("workload") == "toolcall15":
            _score_table([score for score in comparison.scores if not _SCENARIO.fullmatch(score.name)], console)
            modes = {score.cell: score.pairs for score in comparison.scores if score.name == "points" and score.cell}
            render_sides(modes, FULL, console)
        else:
            _score_table(comparison.scores, console)
    if comparison.latencies:
        _latency_table(comparison.latencies, console)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for part, reasons in comparison.refused.items():
        console.print(f"not compared: {part}: {'; '.join(reasons)}", markup=False, soft_wrap=True)


def _score_table(scores: list[ScoreComparison], console: Console) -> None:
    from rich.table import Table

    table = Table(title="Scores, paired by item; difference B - A with its 90 % interval")
    cells = any(item.cell for item in scores)
    for name in ("score", "cell") if cells else ("score",):
        table.add_column(name)
    for name in ("items", "A", "B", "difference", "interval", "p", "A better", "B better"):
        table.add_column(name, justify="right")
    for item in scores:
        interval = f"{item.interval.low:+.3f} .. {item.interval.high:+.3f}" if item.interval else "too few items"
        values = [
            *((item.cell or "",) if cells else ()),
            f"{item.items}",
            f"{item.first:.3f}",
            f"{item.second:.3f}",
            f"{item.second - item.first:+.3f}",
            interval,
        ]
        p = "" if item.p is None else f"{item.p:.3f}"
        table.add_row(item.name, *values, p, str(len(item.lost)), str(len(item.won)))
    console.print(table)


def _latency_table(latencies: list[LatencyComparison], console: Console) -> None:
    from rich.table import Table

    table = Table(title="Latency seen from the client; geometric means, ratio B / A with its 90 % interval")
    for name in ("cell", "", "A", "B", "ratio", "interval", "rank p"):
        table.add_column(name, justify="left" if name == "cell" else "right")
    for item in latencies:
        unit = item.metric.rpartition("_")[2]
        between = "" if item.low is None or item.high is None else f"{item.low:.3f} .. {item.high:.3f}"
        values = [
            f"{item.first:.4g} {unit}",
            f"{item.second:.4g} {unit}",
            f"{item.ratio:.3f}",
            between or "too few repeats",
            f"{item.rank.p:.2g}" if item.rank else "",
        ]
        table.add_row(item.cell, LATENCIES[item.metric], *values)
    console.print(table)
    if ranks := [item.rank for item in latencies if item.rank]:
        least = max(rank.smallest_p for rank in ranks)
        console.print(
            f"rank p: Mann-Whitney over the repeats' means, two-sided; with these repeats it cannot go under {least:.2g}",
            markup=False,
            soft_wrap=True,
        )
