"""The outcome of a suite: one table and one verdict, or one JSON document."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from ds4bench.report.console import stdout
from ds4bench.report.terminal import verdict_colour

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from ds4bench.verdicts.promotion import Promotion, SuiteLine


def report_promotion(outcome: Promotion, head: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print it on stdout. ``head`` says what was run: suite, id, revisions."""
    if as_json:
        document = promotion_document(outcome, head)
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
        return
    render_promotion(outcome, head, stdout(), quiet=quiet)


def promotion_document(outcome: Promotion, head: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a script wants; the rows stay in the run folders."""
    gates = [
        {
            "gate": line.gate,
            "profile": line.profile,
            "verdict": line.verdict,
            "sentence": line.sentence,
            "run": line.run_id,
            "seconds": line.seconds,
            "rules": list(line.rules),
        }
        for line in outcome.lines
    ]
    return {"schema": 1, **head, "verdict": outcome.verdict, "sentence": outcome.sentence, "gates": gates}


def render_promotion(outcome: Promotion, head: Mapping[str, Any], console: Console, *, quiet: bool) -> None:
    """A row a gate, then the verdict line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not quiet:
        title = ", ".join(f"{name} {value}" for name, value in head.items())
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        for name in ("gate", "profile", "verdict", "why", "time"):
            table.add_column(name, no_wrap=name in ("gate", "verdict"), overflow="fold")
        for line in outcome.lines:
            verdict = shown(line)
            coloured = Text(verdict, style=verdict_colour(line.verdict))
            time = "" if line.seconds is None else f"{line.seconds:.0f} s"
            table.add_row(line.gate, line.profile, coloured, Text(why(line)), time)
        console.print(table)
    console.print(Text(outcome.verdict.value, style=verdict_colour(outcome.verdict)), end=" ")
    console.print(outcome.sentence.removesuffix(f": {outcome.verdict}"), markup=False, soft_wrap=True)


def shown(line: SuiteLine) -> str:
    """The verdict as text."""
    return "not run" if line.verdict is None else line.verdict.value


def why(line: SuiteLine) -> str:
    """The sentence without the verdict at its end, which has its own column."""
    return line.sentence.removesuffix(f": {line.verdict}")
