"""``ds4bench runs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds4bench.commands.resume_hint import resume_command
from ds4bench.errors import StoreError
from ds4bench.report.console import stdout
from ds4bench.report.listings import render_runs
from ds4bench.report.outcome import report_outcome
from ds4bench.store.published import load_published
from ds4bench.store.runs import list_runs, load_run

if TYPE_CHECKING:
    from ds4bench.core import RunManifest


def show_list() -> None:
    """List the runs."""
    render_runs(list_runs(), stdout())


def show(run_id: str, beside: str | None, *, as_json: bool) -> None:
    """Show a run's report again. Raises StoreError for a run without a verdict."""
    run = load_run(run_id)
    if run.verdict is None:
        raise StoreError(f"run {run.manifest.run_id} has no verdict yet; {_how_to_go_on(run.manifest)}")
    published = load_published(beside) if beside else None
    report_outcome(run, None, run.verdict, published, as_json=as_json, quiet=False)


def _how_to_go_on(manifest: RunManifest) -> str:
    command = [str(word) for word in manifest.provenance.get("command") or []]
    if "gate" in command[1:2]:
        return f"go on with: {resume_command(command, manifest.run_id)}"
    begun = " ".join(command) or "another command"
    return f"it was begun by `{begun}`: go on with that, or: ds4bench gate {manifest.gate} --resume {manifest.run_id}"
