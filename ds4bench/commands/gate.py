"""``ds4bench gate``: from options to a run folder, a verdict and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds4bench import env
from ds4bench.core import Baseline, CheckStatus, Fingerprint, GateVerdict, RunData, RunManifest
from ds4bench.errors import SpecError, TargetDiedError, TargetError
from ds4bench.gate_runner import GateRunner
from ds4bench.spec.load import EffectiveGate, effective, effective_from_dict, load_gate
from ds4bench.store import baselines, provenance, runs
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.embedded import EmbeddedTarget
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.early import decided_early, may_stop
from ds4bench.verdicts.exit_codes import EXIT
from ds4bench.workloads.registry import make_workload, read_data

if TYPE_CHECKING:
    from pathlib import Path

    from ds4bench.report.progress import Progress
    from ds4bench.targets.base import Endpoint, Target

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


@dataclass(frozen=True)
class Outcome:
    """A finished session: the run as stored, what it was compared with, the verdict."""

    run: RunData
    baseline: Baseline | None
    verdict: GateVerdict


def run_gate(options: GateOptions) -> int:
    """Run the gate and print its report; returns the exit code. Raises Ds4BenchError for bad options or targets."""
    from ds4bench.report.outcome import report_outcome
    from ds4bench.report.progress import make_progress
    from ds4bench.store.published import load_published

    _check(options)
    published = load_published(options.beside) if options.beside else None
    progress = make_progress(quiet=options.quiet or options.json)
    try:
        outcome = asyncio.run(_Session(options, progress).run())
    except _InterruptedError as stop:
        progress.note(f"interrupted; everything finished is kept: ds4bench gate {options.gate} --resume {stop.run_id}")
        return INTERRUPTED
    report_outcome(outcome.run, outcome.baseline, outcome.verdict, published, as_json=options.json, quiet=options.quiet)
    return EXIT[outcome.verdict.verdict]


class _InterruptedError(Exception):
    """Ctrl-C in the middle of a run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id


class _Session:
    """One ``ds4bench gate``: at most a baseline run and a candidate run."""

    def __init__(self, options: GateOptions, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.resumed = runs.load_run(options.resume) if options.resume else None
        gate = self._effective_gate()
        self.data = read_data(gate.spec, options.data or (gate.data.source if gate.data else None))
        self.gate = effective(gate.spec, gate.profile, self.data.identity) if self.data else gate
        if self.resumed and self.gate.measurement_hash != gate.measurement_hash:
            raise SpecError(f"run {options.resume} was measured with other data: give the same file with --data")
        self.named = (
            None
            if options.baseline in ("none", "here")
            else baselines.load_baseline(options.baseline, self.gate.spec.name, self.gate.profile)
        )

    async def run(self) -> Outcome:
        """Measure and decide. With ``--baseline here`` a missing baseline of this machine is measured first."""
        role = None if self.options.baseline == "here" else "candidate"
        run = await self._measure(role, self.resumed)
        if run.manifest.target["role"] == "baseline":
            outcome = self._decided(run, None)
            if not _fit_for_baseline(self.gate, outcome):
                return outcome  # INVALID, interrupted or unverified: nothing to compare with, and this says why
            baselines.save_here(run)
            run = await self._measure("candidate", None)
        return self._decided(run, self._here(run) if self.options.baseline == "here" else self.named)

    async def _measure(self, role: str | None, resumed: RunData | None) -> RunData:
        """One run on a freshly started target, or the rest of ``resumed``.

        ``role`` None: the run becomes this machine's baseline if there is no comparable one yet, else a candidate.
        """
        run_id = resumed.manifest.run_id if resumed else runs.new_run_id(self.gate.spec.name, self.gate.profile)
        target = self._target(runs.run_folder(run_id))
        async with self._started(target, run_id) as endpoint:
            if resumed is None and role is None:
                role = "candidate" if self._lookup_here(endpoint.fingerprint) else "baseline"
                if role == "baseline":
                    self.progress.note("this machine has no comparable baseline yet: it is measured first")
            if resumed is not None:
                _check_same_serve(resumed, endpoint)
            manifest = self._manifest(run_id, role or "candidate")
            writer = runs.RunWriter.reopen(run_id) if resumed else runs.RunWriter.create(manifest)
            with writer:
                writer.set_fingerprint(endpoint.fingerprint)
                await self._run_plan(target, endpoint, writer, run_id, resumed)
        return runs.load_run(run_id)

    async def _run_plan(
        self, target: Target, endpoint: Endpoint, writer: runs.RunWriter, run_id: str, resumed: RunData | None
    ) -> None:
        workload = make_workload(self.gate.spec, run_id, self.data)
        local = endpoint.fingerprint.local
        runner = GateRunner(
            self.gate, target, endpoint, workload, writer, self.progress,
            probe_ms=provenance.cpu_probe_ms if local else None, decided=self._early_stop(run_id, endpoint.fingerprint),
        )  # fmt: skip
        try:
            await runner.run(resumed)
        except TargetDiedError as error:
            writer.record_death(str(error))
        except asyncio.CancelledError:
            raise _InterruptedError(run_id) from None

    def _early_stop(self, run_id: str, fingerprint: Fingerprint) -> Callable[[], str | None] | None:
        """What the runner asks between two batches; None for a gate that always runs to its end."""
        if not may_stop(self.gate.spec):
            return None
        baseline = self._lookup_here(fingerprint) if self.options.baseline == "here" else self.named
        return lambda: decided_early(self.gate, runs.load_run(run_id), baseline)

    @contextlib.asynccontextmanager
    async def _started(self, target: Target, run_id: str) -> AsyncIterator[Endpoint]:
        """The target while it runs; Ctrl-C cancels this task instead of killing the process, so that all is closed."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            yield await target.start(self.progress.phase)
        except asyncio.CancelledError:
            raise _InterruptedError(run_id) from None
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            await target.stop()

    def _decided(self, run: RunData, baseline: Baseline | None) -> Outcome:
        refusal = ["no baseline: name one with --baseline, or use --baseline here"] if baseline is None else []
        verdict = decide(self.gate, run, baseline, baseline_refusal=refusal)
        runs.write_verdict(run.manifest.run_id, verdict)
        return Outcome(run, baseline, verdict)

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

    def _target(self, folder: Path) -> Target:
        options, hardware = self.options, provenance.hardware_fingerprint()
        if options.target == "attach":
            return AttachTarget(options.url or "", options.model, env.api_key(), hardware=hardware)
        return EmbeddedTarget(folder / "serve.log", options.serve_args, hardware=hardware)

    def _manifest(self, run_id: str, role: str) -> RunManifest:
        options, gate = self.options, self.gate
        return RunManifest(
            schema=runs.SCHEMA,
            run_id=run_id,
            created=runs.utc_now(),
            gate=gate.spec.name,
            profile=gate.profile,
            effective_gate=gate.to_dict(),
            measurement_hash=gate.measurement_hash,
            measurement=gate.measurement,
            target={"name": options.target, "url": options.url, "serve_args": list(options.serve_args), "role": role},
            fingerprint=None,
            provenance=provenance.collect(),
        )

    def _lookup_here(self, fingerprint: Fingerprint) -> Baseline | None:
        return baselines.lookup_here(self.gate.spec.name, self.gate.profile, self.gate.measurement_hash, fingerprint)

    def _here(self, run: RunData) -> Baseline | None:
        return self._lookup_here(run.manifest.fingerprint) if run.manifest.fingerprint else None


def _check_same_serve(resumed: RunData, endpoint: Endpoint) -> None:
    before, now = resumed.manifest.fingerprint, endpoint.fingerprint
    if before is None:
        return
    for name in ("engine", "engine_version", "model", "model_revision", "weights", "flags", "faults", "hardware"):
        if getattr(before, name) != getattr(now, name):
            detail = f"{name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
            raise TargetError(f"cannot resume on another serve: {detail}; start a new run instead")


def _fit_for_baseline(gate: EffectiveGate, outcome: Outcome) -> bool:
    """Whether a run that had nothing to be compared with can be compared with: complete, and every check verified."""
    done = {(b.cell, b.repeat) for b in outcome.run.batches if b.phase == "measure"}
    planned = len(gate.spec.matrix.cells()) * gate.spec.repeats.count
    complete = len(done) == planned or outcome.run.stopped is not None
    unsure = [c for c in outcome.verdict.checks if c.status in (CheckStatus.FAILED, CheckStatus.UNVERIFIED)]
    return complete and not unsure


def _check(options: GateOptions) -> None:
    if options.target == "attach" and not options.url:
        raise TargetError("--target attach needs --url, e.g. --url http://127.0.0.1:8000")
    if options.target != "attach" and options.url:
        raise TargetError("--url belongs to --target attach")
    if options.target == "attach" and options.serve_args:
        raise TargetError("--serve-arg belongs to a target that ds4bench launches, not to --target attach")
    if options.resume and options.baseline == "none":
        sys.stderr.write("ds4bench: resuming without --baseline: the run will end INCONCLUSIVE (no baseline)\n")
