"""The report of a run on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ds4bench.core import Baseline, CheckResult, CheckStatus, GateVerdict, RuleResult, RunData, Verdict
from ds4bench.measures import cell_measures, run_measures
from ds4bench.report.columns import COLUMNS, HIDDEN_WHEN_NARROW, Column, Row, axes
from ds4bench.spec.gate import stored_cells
from ds4bench.spec.workloads import WORKLOADS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ds4bench.store.published import Published

_COLOURS = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INVALID: "bold magenta",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.SKIPPED: "bold yellow",
}
_WIDE = 104
"""Width from which the columns get air on both sides."""
_UNLIMITED = 10_000

_SYMBOLS = {
    CheckStatus.OK: "[green]ok  [/green]",
    CheckStatus.FAILED: "[red]FAIL[/red]",
    CheckStatus.UNVERIFIED: "[yellow]?   [/yellow]",
    CheckStatus.NOT_APPLICABLE: "[dim]n/a [/dim]",
}


def render_report(run: RunData, baseline: Baseline | None, verdict: GateVerdict, console: Console) -> None:
    """The whole report: who and what, a row a cell, checks, notes, the verdict."""
    _head(run, verdict, console)
    cells = stored_cells(run.manifest)
    ratios = {rule.cell: rule for rule in verdict.rules if rule.cell is not None}
    before = {m.cell.id: m for m in (cell_measures(cells, baseline.requests, baseline.batches) if baseline else [])}
    note = _recall_note(run)
    rows = [Row(m, before.get(m.cell.id), ratios.get(m.cell.id), note) for m in run_measures(cells, run)]
    workload = run.manifest.measurement.get("workload", "long_context")
    _cell_table(rows, WORKLOADS[workload].columns, console)
    _checks(verdict.checks, console)
    for rule in verdict.rules:
        if rule.cell is None and rule.sentence != verdict.sentence:
            console.print(f"{_rule_symbol(rule)} {rule.rule}: ", end="")
            console.print(rule.sentence, markup=False)
    for note in verdict.notes:
        console.print(f"note: {note}", markup=False, style="dim")
    render_verdict_line(run, verdict, console)


def verdict_colour(verdict: Verdict | None) -> str:
    """How a verdict is shown; None: not known yet."""
    return "dim" if verdict is None else _COLOURS[verdict]


def render_verdict_line(run: RunData, verdict: GateVerdict, console: Console) -> None:
    """Verdict and sentence, and where the run is kept."""
    console.print()
    console.print(f"[{_COLOURS[verdict.verdict]}]{verdict.verdict.value}[/] ", end="")
    console.print(_without_verdict(verdict), markup=False, soft_wrap=True)
    console.print(f"[dim]run {run.manifest.run_id}[/dim]", soft_wrap=True)


def render_beside(published: Published, console: Console, gate: str = "long-context") -> None:
    """Published rows of other machines for this gate: shown, never deciding."""
    from rich.table import Table

    rows = published.tables.get(gate, [])
    if not rows:
        others = ", ".join(published.tables) or "no gate"
        console.print(f"beside: {published.source} has no rows for {gate}; it has them for {others}", markup=False)
        return
    table = Table(title=f"Beside: {published.title} ({published.hardware}, {published.date}); shown, never decides")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    console.print(table)


def _head(run: RunData, verdict: GateVerdict, console: Console) -> None:
    manifest, fingerprint = run.manifest, run.manifest.fingerprint
    console.print(f"[bold]{manifest.gate}[/bold] profile {manifest.profile}", end="")
    if fingerprint is not None:
        weights = f", {fingerprint.weights} weights" if fingerprint.weights else ""
        faults = f", [red]faults: {', '.join(fingerprint.faults)}[/red]" if fingerprint.faults else ""
        console.print(
            f" on {fingerprint.engine} {fingerprint.engine_version or ''}: {fingerprint.model}{weights}{faults}"
        )
        hardware = fingerprint.hardware
        if hardware:
            gpus = ", ".join(hardware.get("gpus") or []) or f"{hardware.get('cpu')}, {hardware.get('cores')} cores"
            console.print(f"[dim]{gpus}[/dim]")
    else:
        console.print()


def _cell_table(rows: list[Row], names: tuple[str, ...], console: Console) -> None:
    """Without the least needed columns where the terminal is too narrow: a cut number is worse than none."""
    from rich.measure import Measurement

    hidden: set[str] = set()
    wide = console.options.update(max_width=_UNLIMITED)
    for next_hidden in (None, *HIDDEN_WHEN_NARROW):
        hidden |= {next_hidden} if next_hidden else set()
        columns = [COLUMNS[name] for name in names if name not in hidden]
        table = _table(rows, columns, narrow=bool(hidden) or console.width < _WIDE)
        if Measurement.get(console, wide, table).maximum <= console.width:
            break
    console.print(table)
    console.print(f"[dim]{'; '.join(dict.fromkeys(c.meaning for c in columns if c.meaning))}[/dim]")


def _table(rows: list[Row], columns: list[Column], *, narrow: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0) if narrow else (0, 1), pad_edge=not narrow)
    of_axes = axes([row.measures.cell for row in rows])
    for header in [*of_axes, *(column.header for column in columns)]:
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *(text(row.measures.cell) for text in of_axes.values()), *(column.text(row) for column in columns)
        )
    return table


def _checks(checks: list[CheckResult], console: Console) -> None:
    from rich.table import Table

    if not checks:
        return
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(_SYMBOLS[check.status], check.name, _plain(check.detail))
    console.print(table)


def _rule_symbol(rule: RuleResult) -> str:
    if rule.verdict is Verdict.SKIPPED:
        return _SYMBOLS[CheckStatus.NOT_APPLICABLE]
    if rule.verdict is Verdict.INCONCLUSIVE:
        return _SYMBOLS[CheckStatus.UNVERIFIED]
    return _SYMBOLS[CheckStatus.OK if rule.verdict is Verdict.PASS else CheckStatus.FAILED]


def _recall_note(run: RunData) -> str | None:
    """What stands in the recall column when recall does not apply."""
    fingerprint = run.manifest.fingerprint
    return "n/a" if fingerprint is not None and fingerprint.weights == "random" else None


def _without_verdict(verdict: GateVerdict) -> str:
    return verdict.sentence.removesuffix(f": {verdict.verdict.value}")


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
