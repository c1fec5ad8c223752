"""``ds4bench baseline``."""

from __future__ import annotations

from ds4bench.report.console import stdout
from ds4bench.report.listings import render_baseline, render_baselines, render_diff
from ds4bench.store import baselines
from ds4bench.store.runs import load_run
from ds4bench.verdicts.comparability import comparable_baselines


def promote(run: str, name: str, force_reason: str | None) -> None:
    """Promote a run and say where it went."""
    path = baselines.promote(load_run(run), name, force_reason=force_reason)
    stdout().print(f"baseline [bold]{name}[/bold] written to {path}; commit it to share it")


def show_list() -> None:
    """List the stored baselines."""
    render_baselines(baselines.list_baselines(), stdout())


def show(name: str) -> None:
    """Show one baseline."""
    render_baseline(baselines.load_baseline(name), stdout())


def show_diff(first: str, second: str) -> None:
    """Compare two baselines."""
    one, two = baselines.load_baseline(first), baselines.load_baseline(second)
    render_diff(one, two, comparable_baselines(one, two), stdout())
