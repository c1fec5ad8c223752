"""``ds4bench rescore``: the stored conversations of a tool-call run by another rule set, without a serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from ds4bench.core import CheckResult, CheckStatus, RunData
from ds4bench.errors import SpecError, StoreError
from ds4bench.measures import measured_scripts
from ds4bench.report.console import stdout
from ds4bench.report.toolcall15 import render_rescored
from ds4bench.spec.load import effective_from_dict
from ds4bench.store.runs import load_run
from ds4bench.verdicts.checks import CHECKS
from ds4bench.verdicts.evidence import gather
from ds4bench.workloads.toolcall15.rules import variant_of
from ds4bench.workloads.toolcall15.scenario import load_battery
from ds4bench.workloads.toolcall15.summary import Rescored, rescore
from ds4bench.workloads.toolcall15.trace import Trace, load_traces

_CHECKS = ("mode_effective", "reasoning_parsed", "effort_effective")
"""Without these a mode's points are not that mode's, by whatever rules."""


def rescore_run(run_id: str, rules: str | None, *, as_json: bool) -> None:
    """Print the scores of a run's conversations by ``rules`` (None: the run's own).

    Raises StoreError for a run without conversations, WorkloadError for an unknown rule set.
    """
    chosen = None if rules is None else variant_of(rules)
    run = load_run(run_id)
    traces = traces_of(run)
    found = rescore(traces, chosen or _own_rules(run), load_battery(_battery_folder(run)))
    checks = checks_of(run)
    if as_json:
        document = _document(run, found, checks)
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    else:
        render_rescored(found.summary, checks, stdout())


def traces_of(run: RunData) -> list[Trace]:
    """The measured conversations of a run. Raises StoreError when it has none, or for one that cannot be read."""
    name = run.manifest.run_id
    kept = [script.answer.detail.get("trace") for script in measured_scripts(run) if script.answer is not None]
    lines = [msgspec.json.encode(trace) for trace in kept if trace is not None]
    if not lines:
        raise StoreError(
            f"run {name} of gate {run.manifest.gate} holds no tool-call conversations of a finished batch; "
            "rescore a run of a gate with workload: toolcall15"
        )
    return load_traces(b"\n".join(lines), f"conversations of run {name}")


def checks_of(run: RunData) -> list[CheckResult]:
    """The checks of the modes, as the run's own verdict makes them; unverified for a gate that is not known any more."""
    try:
        gate = effective_from_dict(run.manifest.effective_gate)
    except SpecError:
        detail = "the gate stored with the run is not one that this version of ds4bench knows"
        return [CheckResult(name=name, status=CheckStatus.UNVERIFIED, detail=detail) for name in _CHECKS]
    evidence = gather(gate, run, None)
    return [CHECKS[name](evidence) for name in _CHECKS]


def _own_rules(run: RunData) -> str:
    options = run.manifest.measurement.get("options") or {}
    return str(options.get("rules", "v1-jasl"))


def _battery_folder(run: RunData) -> Path | None:
    """Where ``--data`` said that the scenarios are; None for the project's own."""
    source = (run.manifest.effective_gate.get("data") or {}).get("source")
    return Path(source) if source else None


def _document(run: RunData, found: Rescored, checks: list[CheckResult]) -> dict[str, Any]:
    return {
        "schema": 1,
        "run": run.manifest.run_id,
        "rules": found.summary.rules,
        "summary": found.summary,
        "checks": checks,
        "scores": found.scores,
    }
