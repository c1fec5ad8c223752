"""``ds4bench calibrate``: the noise of one gate on one target, stored with the baseline."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ds4bench.calibration_runs import RuleNoise, measure_sessions, noise_of, refuse_early, stored_sessions, unsteady
from ds4bench.commands.gate import INTERRUPTED
from ds4bench.run_session import RunInterruptedError, TargetOptions, prepare
from ds4bench.spec.load import load_gate
from ds4bench.store import baselines
from ds4bench.verdicts.exit_codes import USAGE

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class CalibrateOptions:
    """The options of ``ds4bench calibrate``, as given. ``from_runs``: stored runs instead of new ones."""

    gate: str
    target: TargetOptions
    profile: str | None
    overrides: tuple[str, ...]
    repeats: int | None
    runs: int
    from_runs: tuple[str, ...]
    baseline: str
    data: str | None
    json: bool
    quiet: bool


def run_calibrate(options: CalibrateOptions) -> int:
    """Measure or read the sessions, store the noise, print it. Exit code 2 when a rule's margin is under what it can see;
    the noise is stored all the same. Raises Ds4BenchError."""
    from ds4bench.report.progress import make_progress

    options.target.check()
    gate = load_gate(options.gate, profile=options.profile, overrides=options.overrides, repeats=options.repeats)
    refuse_early(gate, options.baseline, measured=not options.from_runs)
    prepared = prepare(gate, options.data)
    progress = make_progress(quiet=options.quiet or options.json)
    try:
        sessions = (
            stored_sessions(prepared.gate, options.from_runs)
            if options.from_runs
            else asyncio.run(measure_sessions(prepared, options.target, options.runs, progress))
        )
    except RunInterruptedError as stop:
        progress.note(f"interrupted in {stop.run_id}; finished runs can be used again with --from RUN")
        return INTERRUPTED
    found = noise_of(prepared.gate, sessions)
    path = baselines.store_noise(sessions[0], {item.rule: item.noise for item in found}, name=options.baseline)
    _show(found, unsteady(prepared.gate, sessions), path, options)
    return USAGE if any(item.refusal for item in found) else 0


def _show(found: list[RuleNoise], notes: list[str], path: Path, options: CalibrateOptions) -> None:
    if options.json:
        rules = [
            {"rule": item.rule, "noise": msgspec.to_builtins(item.noise), "sight": item.sight, "refusal": item.refusal}
            for item in found
        ]
        document = {"schema": 1, "baseline": str(path), "rules": rules, "notes": notes}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    from ds4bench.report.console import stdout

    console = stdout()
    for item in found:
        for text in (item.measured, item.sight, item.refusal and f"{item.rule}: refused: {item.refusal}"):
            if text:
                console.print(text, markup=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"stored with the baseline {path}", markup=False, soft_wrap=True)
