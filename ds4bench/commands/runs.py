"""``ds4bench runs``."""

from __future__ import annotations

from ds4bench.errors import StoreError
from ds4bench.report.console import stdout
from ds4bench.report.listings import render_runs
from ds4bench.report.outcome import report_outcome
from ds4bench.store.published import load_published
from ds4bench.store.runs import list_runs, load_run


def show_list() -> None:
    """List the runs."""
    render_runs(list_runs(), stdout())


def show(run_id: str, beside: str | None, *, as_json: bool) -> None:
    """Show a run's report again. Raises StoreError for a run without a verdict."""
    run = load_run(run_id)
    if run.verdict is None:
        hint = f"ds4bench gate {run.manifest.gate} --resume {run.manifest.run_id}"
        raise StoreError(f"run {run.manifest.run_id} has no verdict yet: {hint}")
    published = load_published(beside) if beside else None
    report_outcome(run, None, run.verdict, published, as_json=as_json, quiet=False)
