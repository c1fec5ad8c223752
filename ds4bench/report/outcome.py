"""One outcome in the form that was asked for: report, verdict line, or JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from ds4bench.core import Baseline, GateVerdict, RunData
from ds4bench.measures import run_measures
from ds4bench.report.console import stdout
from ds4bench.report.terminal import render_beside, render_report, render_verdict_line
from ds4bench.spec.gate import stored_cells

if TYPE_CHECKING:
    from ds4bench.store.published import Published


def report_outcome(
    run: RunData,
    baseline: Baseline | None,
    verdict: GateVerdict,
    published: Published | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the outcome on stdout."""
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(_document(run, verdict)), indent=2) + b"\n")
        return
    console = stdout()
    if quiet:
        render_verdict_line(run, verdict, console)
        return
    render_report(run, baseline, verdict, console)
    if published is not None:
        render_beside(published, console, run.manifest.gate)


def _document(run: RunData, verdict: GateVerdict) -> dict[str, object]:
    """Everything a script wants; the rows themselves stay in the run folder."""
    manifest = run.manifest
    return {
        "schema": 1,
        "run": manifest.run_id,
        "gate": manifest.gate,
        "profile": manifest.profile,
        "verdict": verdict,
        "fingerprint": manifest.fingerprint,
        "stopped": run.stopped,
        "cells": run_measures(stored_cells(manifest), run),
        "provenance": manifest.provenance,
    }
