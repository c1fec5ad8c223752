"""The report of a run on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ds4bench.core import Baseline, Cell, CheckResult, CheckStatus, GateVerdict, RuleResult, RunData, Verdict
from ds4bench.report.measures import CellMeasures, cell_measures, measured_rows

if TYPE_CHECKING:
    from rich.console import Console

    from ds4bench.store.published import Published

_COLOURS = {
    Verdict.PASS: "bold green",
    Verdict.FAIL: "bold red",
    Verdict.INVALID: "bold magenta",
    Verdict.INCONCLUSIVE: "bold yellow",
    Verdict.SKIPPED: "bold yellow",
}
_COLUMNS = (
    "prompt", "c", "n", "TTFT s", "max s", "baseline", "ratio (90 %)", "prefill", "decode", "failed", "recall"
)  # fmt: skip
_WIDE = 104
"""Columns that a terminal needs to show every column of the table."""

_SYMBOLS = {
    CheckStatus.OK: "[green]ok  [/green]",
    CheckStatus.FAILED: "[red]FAIL[/red]",
    CheckStatus.UNVERIFIED: "[yellow]?   [/yellow]",
    CheckStatus.NOT_APPLICABLE: "[dim]n/a [/dim]",
}


def render_report(run: RunData, baseline: Baseline | None, verdict: GateVerdict, console: Console) -> None:
    """The whole report: who and what, a row a cell, checks, notes, the verdict."""
    _head(run, verdict, console)
    cells = matrix_cells(run)
    ratios = {rule.cell: rule for rule in verdict.rules if rule.cell is not None}
    baseline_rows = cell_measures(cells, baseline.requests) if baseline is not None else []
    _cell_table(cell_measures(cells, measured_rows(run)), ratios, baseline_rows, _recall_note(run), console)
    _checks(verdict.checks, console)
    for rule in verdict.rules:
        if rule.cell is None and rule.sentence != verdict.sentence:
            console.print(f"{_rule_symbol(rule)} {rule.rule}: ", end="")
            console.print(rule.sentence, markup=False)
    for note in verdict.notes:
        console.print(f"note: {note}", markup=False, style="dim")
    render_verdict_line(run, verdict, console)


def render_verdict_line(run: RunData, verdict: GateVerdict, console: Console) -> None:
    """Verdict and sentence, and where the run is kept."""
    console.print()
    console.print(f"[{_COLOURS[verdict.verdict]}]{verdict.verdict.value}[/] ", end="")
    console.print(_without_verdict(verdict), markup=False, soft_wrap=True)
    console.print(f"[dim]run {run.manifest.run_id}[/dim]", soft_wrap=True)


def render_beside(published: Published, console: Console) -> None:
    """Published rows of other machines: shown, never deciding."""
    from rich.table import Table

    table = Table(title=f"Beside: {published.title} ({published.hardware}, {published.date}); shown, never decides")
    columns = published.long_context[0].keys() if published.long_context else []
    for name in columns:
        table.add_column(name, justify="right")
    for row in published.long_context:
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


def _cell_table(
    measures: list[CellMeasures],
    ratios: dict[str, RuleResult],
    baseline: list[CellMeasures],
    recall_note: str | None,
    console: Console,
) -> None:
    from rich import box
    from rich.table import Table

    narrow = console.width < _WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0) if narrow else (0, 1))
    before = {item.cell.id: item for item in baseline}
    rows = [_cell_row(item, before.get(item.cell.id), ratios.get(item.cell.id), recall_note) for item in measures]
    hidden = ("n", "baseline") if narrow else ()
    for name in _COLUMNS:
        if name not in hidden:
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(value for name, value in zip(_COLUMNS, row, strict=True) if name not in hidden))
    console.print(table)
    console.print("[dim]TTFT: mean and maximum over requests; prefill and decode in tokens a second[/dim]")


def _cell_row(
    item: CellMeasures, reference: CellMeasures | None, ratio: RuleResult | None, recall_note: str | None
) -> tuple[str, ...]:
    """The values of ``_COLUMNS``."""
    return (
        f"{int(item.cell.params.get('prompt_tokens', 0)):,}",
        str(item.cell.concurrency),
        str(item.requests),
        _number(item.ttft_mean_s, "{:.3f}"),
        _number(item.ttft_max_s, "{:.3f}"),
        _number(reference.ttft_mean_s if reference else None, "{:.3f}"),
        _ratio(ratio),
        _number(item.prefill_tok_s, "{:,.0f}"),
        _number(item.decode_tok_s, "{:,.1f}"),
        f"[red]{item.failures}[/red]" if item.failures else "0",
        recall_note or _number(item.recall, "{:.2f}"),
    )


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


def _ratio(rule: RuleResult | None) -> str:
    if rule is None or rule.estimate is None:
        return "-"
    estimate = rule.estimate
    text = f"{estimate.ratio:.3f} ({estimate.low:.2f}-{estimate.high:.2f})"
    return f"[red]{text}[/red]" if rule.verdict is Verdict.FAIL else text


def _recall_note(run: RunData) -> str | None:
    """What stands in the recall column when recall does not apply."""
    fingerprint = run.manifest.fingerprint
    return "n/a" if fingerprint is not None and fingerprint.weights == "random" else None


def _without_verdict(verdict: GateVerdict) -> str:
    return verdict.sentence.removesuffix(f": {verdict.verdict.value}")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def matrix_cells(run: RunData) -> list[Cell]:
    """The cells of a run, from the measurement that it stored."""
    matrix = run.manifest.measurement["matrix"]
    return [
        Cell(id=f"p{tokens}-c{c}", concurrency=c, params={"prompt_tokens": tokens, "concurrency": c})
        for tokens in matrix["prompt_tokens"]
        for c in matrix["concurrency"]
    ]
