"""Tool-call scores on the terminal: modes, categories, and the conversations that did not get full points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ds4bench.core import CheckResult, CheckStatus

if TYPE_CHECKING:
    from rich.console import Console

    from ds4bench.workloads.toolcall15.summary import Case, ModeScore, Summary

_WORDS = {CheckStatus.FAILED: "[red]FAILED[/red]", CheckStatus.UNVERIFIED: "[yellow]unverified[/yellow]"}


def render_rescored(summary: Summary, checks: Sequence[CheckResult], console: Console) -> None:
    """The sentence, a row a mode, a row a case that is not full in every round, and the checks that do not hold."""
    console.print(summary.sentence, markup=False)
    _modes([*summary.modes, summary.total], console)
    _cases([case for case in summary.cases if case.label != "pass"], console)
    for check in checks:
        if check.status in _WORDS:
            console.print(f"{_WORDS[check.status]} {check.name}: ", end="")
            console.print(check.detail, markup=False)


def render_sides(modes: Mapping[str, Mapping[str, tuple[float, float]]], full: int, console: Console) -> None:
    """Scenario by mode, the points of both sides: ``modes`` are shares of ``full`` points, mode -> scenario -> (A, B)."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"Points of each scenario, A / B, of {full}; means over the rounds", box=box.SIMPLE_HEAD)
    table.add_column("scenario", no_wrap=True)
    for mode in modes:
        table.add_column(mode, justify="right", no_wrap=True)
    for scenario in sorted({name for pairs in modes.values() for name in pairs}):
        table.add_row(scenario, *(_sides(pairs.get(scenario), full) for pairs in modes.values()))
    console.print(table)


def _sides(pair: tuple[float, float] | None, full: int) -> str:
    """Both sides' points, red where B has fewer and green where it has more."""
    if pair is None:
        return "-"
    first, second = (f"{full * share:.3g}" for share in pair)
    colour = {-1: "red", 0: "", 1: "green"}[(pair[1] > pair[0]) - (pair[1] < pair[0])]
    return f"[{colour}]{first} / {second}[/]" if colour else f"{first} / {second}"


def _modes(modes: Sequence[ModeScore], console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for header in ("mode", "%", "stars", "points", *(c.category for c in modes[-1].categories), "not full", "cut"):
        table.add_column(header, justify="right", no_wrap=True)
    for mode in modes:
        shares = {category.category: str(category.percent) for category in mode.categories}
        table.add_row(
            mode.mode,
            str(mode.percent),
            str(mode.stars),
            f"{mode.earned}/{mode.possible}",
            *(shares.get(category.category, "-") for category in modes[-1].categories),
            f"{mode.not_full} of {mode.conversations}",
            str(mode.truncated),
        )
    console.print(table)
    titles = "; ".join(f"{category.category}: {category.title}" for category in modes[-1].categories)
    console.print(f"[dim]{titles}; cut: conversations with a reply cut at max_tokens[/dim]")


def _cases(cases: Sequence[Case], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not cases:
        return
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("scenario", "mode", "", "points"):
        table.add_column(header, no_wrap=True)
    table.add_column("why", overflow="fold")
    for case in cases:
        why = "; ".join(case.missed) or case.reason
        more = f" [{', '.join(case.diagnoses)}]" if case.diagnoses else ""
        points = " ".join(map(str, case.points))
        table.add_row(case.scenario, case.mode, case.label, points, Text(why + more))
    console.print(table)
