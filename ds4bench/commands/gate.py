"""``ds4bench gate``: from options to a run folder, a verdict and an exit code."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ds4bench.commands.resume_hint import resume_command
from ds4bench.core import Baseline, Fingerprint, RunData, Verdict
from ds4bench.errors import SpecError
from ds4bench.first_baseline import measure_both, refuse_faults, room_for_two
from ds4bench.run_session import (
    Outcome,
    RunInterruptedError,
    Started,
    TargetOptions,
    check_same_serve,
    fit_for_baseline,
    judged,
    measure,
    prepare,
    started,
)
from ds4bench.spec.load import EffectiveGate, effective_from_dict, load_gate
from ds4bench.store import baselines, runs
from ds4bench.suite_runner import compares
from ds4bench.targets.choice import Serving
from ds4bench.verdicts.exit_codes import EXIT
from ds4bench.verdicts.extension import whole

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress

INTERRUPTED = 130
"""Exit code after Ctrl-C, the shell's convention for SIGINT."""


@dataclass(frozen=True)
class GateOptions:
    """The options of ``ds4bench gate``, as given."""

    gate: str
    target: str
    url: str | None
    model: str | None
    profile: str | None
    baseline: str
    overrides: tuple[str, ...]
    repeats: int | None
    resume: str | None
    serve_args: tuple[str, ...]
    beside: str | None
    json: bool
    quiet: bool
    data: str | None = None
    serving: Serving = field(default_factory=Serving)
    dry_run: bool = False


def run_gate(options: GateOptions) -> int:
    """Run the gate and print its report; returns the exit code. Raises Ds4BenchError for bad options or targets."""
    from ds4bench.report.outcome import report_outcome
    from ds4bench.report.progress import make_progress
    from ds4bench.store.published import load_published

    target = TargetOptions(options.target, options.url, options.model, options.serve_args, options.serving)
    target.check()
    published = load_published(options.beside) if options.beside else None
    if options.dry_run:
        from ds4bench.commands.dry_run import show_dry_run

        gate = load_gate(options.gate, profile=options.profile, overrides=options.overrides, repeats=options.repeats)
        _named_baseline(options, gate)
        return show_dry_run(prepare(gate, options.data), target)
    progress = make_progress(quiet=options.quiet or options.json)
    session = _Session(options, target, progress)
    if options.resume and options.baseline == "none" and compares(session.gate.spec):
        sys.stderr.write("ds4bench: resuming without --baseline: the run will end INCONCLUSIVE (no baseline)\n")
    try:
        outcome = asyncio.run(session.run())
    except RunInterruptedError as stop:
        progress.note(f"interrupted; everything finished is kept: {resume_command(sys.argv, stop.run_id)}")
        return INTERRUPTED
    report_outcome(outcome.run, outcome.baseline, outcome.verdict, published, as_json=options.json, quiet=options.quiet)
    return EXIT[outcome.verdict.verdict]


class _Session:
    """One ``ds4bench gate``: at most a baseline run and a candidate run."""

    def __init__(self, options: GateOptions, target: TargetOptions, progress: Progress) -> None:
        self.options = options
        self.target = target
        self.progress = progress
        self.resumed = runs.load_run(options.resume) if options.resume else None
        gate = self._effective_gate()
        if self.resumed is not None:
            _refuse_finished(self.resumed, gate, options.baseline)
        self.prepared = prepare(gate, options.data)
        self.gate = self.prepared.gate
        if self.resumed and self.gate.measurement_hash != gate.measurement_hash:
            raise SpecError(f"run {options.resume} was measured with other data: give the same file with --data")
        self.named = _named_baseline(options, self.gate)

    async def run(self) -> Outcome:
        """Measure and decide. With ``--baseline here`` a missing baseline of this machine is measured too: in turns with the
        candidate where there is room for a second serve, else before it."""
        outcome = await self._measure(None if self.options.baseline == "here" else "candidate", self.resumed)
        if outcome.run.manifest.target["role"] != "baseline" or not fit_for_baseline(self.gate, outcome):
            return outcome  # a baseline that is INVALID, interrupted or unverified says by itself what is wrong
        baselines.save_here(outcome.run)
        return await self._measure("candidate", None)

    async def _measure(self, role: str | None, resumed: RunData | None) -> Outcome:
        """One run on a freshly started target, or the rest of ``resumed``.

        ``role`` None: where this machine has a comparable baseline the run is a candidate, where it has none it becomes it.
        """
        run_id = resumed.manifest.run_id if resumed else self.prepared.new_run_id()
        async with started(self.target, runs.run_folder(run_id) / "serve.log", run_id, self.progress) as serve:
            if resumed is not None:
                check_same_serve(resumed, serve.endpoint)
            baseline = self._baseline(serve.endpoint.fingerprint)
            role = resumed.manifest.target["role"] if resumed is not None else role
            if role is None and baseline is None:
                refuse_faults(serve, self.target)
                if room_for_two(self.target):
                    return await self._measure_both(serve, run_id)
            if role is None:
                role = "baseline" if baseline is None else "candidate"
                if role == "baseline":
                    self.progress.note("this machine has no comparable baseline yet: it is measured first")
            run = await measure(
                self.prepared, serve, self.progress, run_id=run_id, role=role, resumed=resumed,
                baseline=None if role == "baseline" else baseline,
            )  # fmt: skip
        return judged(self.gate, run, None if role == "baseline" else self._baseline(run.manifest.fingerprint))

    async def _measure_both(self, base: Started, base_run: str) -> Outcome:
        """The machine's baseline on the serve that is up, and the candidate on a second one, in turns."""
        self.progress.note("this machine has no comparable baseline yet: measured now, in turns with the candidate")
        run_id = self.prepared.new_run_id()
        async with started(self.target, runs.run_folder(run_id) / "serve.log", base_run, self.progress) as head:
            return await measure_both(self.prepared, base, head, self.progress, (base_run, run_id))

    def _effective_gate(self) -> EffectiveGate:
        options = self.options
        if self.resumed is None:
            return load_gate(
                options.gate, profile=options.profile, overrides=options.overrides, repeats=options.repeats
            )
        name = load_gate(options.gate).spec.name  # a name or a file
        if self.resumed.manifest.gate != name:
            raise SpecError(f"run {options.resume} is of gate {self.resumed.manifest.gate}, not {name}")
        if options.overrides or options.profile or options.repeats:
            raise SpecError("--resume goes on with the run's own gate: leave out --profile, --set and --repeats")
        return effective_from_dict(self.resumed.manifest.effective_gate)

    def _baseline(self, fingerprint: Fingerprint | None) -> Baseline | None:
        if self.options.baseline != "here":
            return self.named
        if fingerprint is None:
            return None
        return baselines.lookup_here(self.gate.spec.name, self.gate.profile, self.gate.measurement_hash, fingerprint)


def _named_baseline(options: GateOptions, gate: EffectiveGate) -> Baseline | None:
    """What ``--baseline`` names; None for ``none`` and ``here``. Raises StoreError for an unknown one."""
    if options.baseline in ("none", "here"):
        return None
    return baselines.load_baseline(options.baseline, gate.spec.name, gate.profile)


def _refuse_finished(run: RunData, gate: EffectiveGate, baseline: str) -> None:
    """Raises SpecError for a run that has nothing left and whose verdict stands. An open one may be judged again, with a
    baseline, and extended."""
    if run.verdict is None or run.died or not whole(gate, run):
        return
    run_id, verdict = run.manifest.run_id, run.verdict.verdict
    is_open = verdict in (Verdict.INCONCLUSIVE, Verdict.SKIPPED)
    if is_open and baseline != "none":
        return
    judge = "give --baseline to judge it, or " if is_open else ""
    raise SpecError(
        f"run {run_id} is finished ({verdict}), nothing is left of it: {judge}leave out --resume to measure again; "
        f"`ds4bench runs show {run_id}` shows it"
    )
