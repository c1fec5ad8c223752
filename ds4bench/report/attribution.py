"""The report of an attribution: the steps, a row an op, the sentence; or one JSON document."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from ds4bench.report.console import stdout
from ds4bench.report.terminal import verdict_colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ds4bench.core import Verdict
    from ds4bench.store.attributions import AttributionRun

Row = tuple[str, str, str, str, str]
"""Op, group, verdict, effect, because."""


def report_attribution(
    state: AttributionRun, verdict: Verdict, sentence: str, rows: Sequence[Row], *, as_json: bool, quiet: bool
) -> None:
    """Print it on stdout."""
    if as_json:
        sys.stdout.buffer.write(
            msgspec.json.format(msgspec.json.encode(document(state, verdict, sentence, rows))) + b"\n"
        )
        return
    console = stdout()
    if not quiet:
        _steps(state, console)
        if rows:
            _ops(rows, console)
    _verdict_line(state, verdict, sentence, console)


def document(state: AttributionRun, verdict: Verdict, sentence: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything a script wants; the rows of the runs stay in their folders."""
    names = ("op", "group", "verdict", "effect", "because")
    return {
        "schema": 1,
        "attribution": state.run_id,
        "gate": state.gate,
        "profile": state.profile,
        "asked": state.asked,
        "verdict": verdict.value,
        "sentence": sentence,
        "ops": [dict(zip(names, row, strict=True)) for row in rows],
        "baselines": [record.run for record in state.baselines],
        "steps": state.steps,
        "closing": {"effect": state.closing_effect, "sentence": state.closing_sentence, "steps": state.closing},
    }


def _steps(state: AttributionRun, console: Console) -> None:
    from rich import box
    from rich.table import Table

    title = f"{state.gate} ({state.profile}): bundled kernels against the engine's own"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("step", "on the bundle", "against the engine's own", "run"):
        table.add_column(name, overflow="fold")
    for number, step in enumerate([*state.steps, *state.closing], start=1):
        again = " (again)" if step in state.closing else ""
        table.add_row(f"{number}{again}", step.words, step.effect or "not measured", step.run or "")
    console.print(table)


def _ops(rows: Sequence[Row], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("op", "group", "verdict", "effect", "because"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _verdict_line(state: AttributionRun, verdict: Verdict, sentence: str, console: Console) -> None:
    from rich.text import Text

    console.print(Text(verdict.value, style=verdict_colour(verdict)), end=" ")
    console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"[dim]attribution {state.run_id}[/dim]", soft_wrap=True)
