"""Tables of gates, runs and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from ds4bench.core import Baseline, Cell, RequestRow
from ds4bench.measures import cell_measures

if TYPE_CHECKING:
    from rich.console import Console

    from ds4bench.spec.load import GateInfo
    from ds4bench.spec.suite import SuiteSpec
    from ds4bench.store.runs import RunSummary


def render_gates(gates: Sequence[GateInfo], console: Console) -> None:
    """Name, profiles and purpose of each gate."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("gate", "profiles", "purpose"):
        table.add_column(name, no_wrap=name == "gate")
    for gate in gates:
        table.add_row(f"[bold]{gate.name}[/bold]", ", ".join(gate.profiles), gate.purpose)
    console.print(table)


def render_suites(suites: Sequence[SuiteSpec], console: Console) -> None:
    """Name, number of gates and title of each suite."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("suite", "gates", "title"):
        table.add_column(name, no_wrap=name == "suite", justify="right" if name == "gates" else "left")
    for suite in suites:
        table.add_row(f"[bold]{suite.name}[/bold]", str(len(suite.gates)), suite.title)
    console.print(table)


def render_runs(runs: Sequence[RunSummary], console: Console) -> None:
    """Newest first; damaged folders are shown with the reason."""
    if not runs:
        console.print("no runs yet: ds4bench gate long-context --profile smoke --baseline here")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("run", "target", "verdict", "why"):
        table.add_column(name, no_wrap=name == "run")
    for run in runs:
        if run.damaged is not None:
            table.add_row(run.run_id, "", "[red]damaged[/red]", run.damaged)
        else:
            table.add_row(run.run_id, run.target, run.verdict, run.sentence)
    console.print(table)


def render_baselines(baselines: Sequence[Baseline], console: Console) -> None:
    """Name, gate, machine and date of each baseline."""
    if not baselines:
        console.print("no baselines yet: ds4bench baseline promote RUN NAME, or run a gate with --baseline here")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("baseline", "gate", "profile", "serve", "machine", "measured"):
        table.add_column(name)
    for item in baselines:
        serve = f"{item.fingerprint.engine} {item.fingerprint.engine_version or ''} {item.fingerprint.model}"
        table.add_row(item.name, item.gate, item.profile, serve, _machine(item), item.created)
    console.print(table)


def render_baseline(baseline: Baseline, console: Console) -> None:
    """Head and per-cell numbers of one baseline."""
    render_baselines([baseline], console)
    if baseline.note:
        console.print(f"note: {baseline.note}", markup=False)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("cell", "n", "TTFT mean", "TTFT max", "decode tok/s"):
        table.add_column(name, justify="left" if name == "cell" else "right")
    for item in cell_measures(_cells(baseline.requests), baseline.requests):
        table.add_row(
            item.cell.id,
            str(item.requests),
            _seconds(item.ttft_mean_s),
            _seconds(item.ttft_max_s),
            "-" if item.decode_tok_s is None else f"{item.decode_tok_s:,.1f}",
        )
    console.print(table)


def render_diff(first: Baseline, second: Baseline, reasons: Sequence[str], console: Console) -> None:
    """Two baselines cell by cell, and why they are not comparable, if they are not."""
    one = {m.cell.id: m for m in cell_measures(_cells(first.requests), first.requests)}
    two = {m.cell.id: m for m in cell_measures(_cells(second.requests), second.requests)}
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("cell", f"TTFT mean {first.name}", f"TTFT mean {second.name}", "ratio"):
        table.add_column(name, justify="left" if name == "cell" else "right")
    for cell in [*one, *(c for c in two if c not in one)]:
        a = one[cell].ttft_mean_s if cell in one else None
        b = two[cell].ttft_mean_s if cell in two else None
        table.add_row(cell, _seconds(a), _seconds(b), f"{b / a:.3f}" if a and b else "-")
    console.print(table)
    for reason in reasons:
        console.print(f"not comparable: {reason}", markup=False, style="yellow")
    if not reasons:
        console.print("comparable: same measurement, model and machine")


def _machine(baseline: Baseline) -> str:
    hardware = baseline.fingerprint.hardware
    gpus = ", ".join(hardware.get("gpus") or [])
    return gpus or f"{hardware.get('cpu', 'unknown')}, {hardware.get('cores', '?')} cores"


def _cells(rows: Sequence[RequestRow]) -> list[Cell]:
    return [Cell(id=name, concurrency=0, params={}) for name in dict.fromkeys(row.cell for row in rows)]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
