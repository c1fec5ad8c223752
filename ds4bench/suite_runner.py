"""Runs the gates of a suite in order: one started serve for all, another one only for a gate that needs other flags.

A FAIL does not stop it, a serve that dies does. After every step the state is on disk, so that a killed suite goes on.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, Verdict
from ds4bench.errors import SpecError, TargetDiedError, WorkloadError
from ds4bench.first_baseline import measure_both, refuse_faults, room_for_two
from ds4bench.run_session import (
    Prepared,
    Started,
    TargetOptions,
    fit_for_baseline,
    judged,
    measure,
    prepare,
    started,
)
from ds4bench.spec.load import effective_from_dict, load_gate
from ds4bench.spec.rules import ABSOLUTE_KINDS
from ds4bench.store import baselines, runs, suite_runs
from ds4bench.store.suite_runs import SuiteGate, SuiteRun
from ds4bench.verdicts.promotion import SuiteLine

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress
    from ds4bench.spec.gate import GateSpec
    from ds4bench.spec.suite import SuiteEntry, SuiteSpec


@dataclass(frozen=True)
class Job:
    """One gate of the suite, ready to be run, and what has been done of it."""

    entry: SuiteEntry
    prepared: Prepared
    record: SuiteGate

    @property
    def title(self) -> str:
        """For progress lines."""
        return f"{self.prepared.name} ({self.prepared.gate.profile})"


def compares(spec: GateSpec) -> bool:
    """Whether any rule of the gate needs a baseline."""
    return any(rule.kind not in ABSOLUTE_KINDS for rule in spec.rules)


def make_jobs(suite: SuiteSpec, data: Mapping[str, str], records: Sequence[SuiteGate] = ()) -> list[Job]:
    """The suite's gates with their data read; ``data`` maps a gate to its ``--data``. Raises SpecError, WorkloadError.

    ``records`` are those of a suite that is resumed: a gate that has begun goes on as it was.
    """
    unknown = sorted(set(data) - {entry.gate for entry in suite.gates})
    if unknown:
        raise SpecError(f"--data {unknown[0]}=...: suite {suite.name} has no gate {unknown[0]!r}")
    known = {(record.gate, record.profile): record for record in records}
    return [_job(suite, entry, data, known) for entry in suite.gates]


def _job(
    suite: SuiteSpec, entry: SuiteEntry, data: Mapping[str, str], known: Mapping[tuple[str, str], SuiteGate]
) -> Job:
    profile = suite.profile_of(entry)
    gate = load_gate(entry.gate, profile=profile, overrides=entry.overrides, repeats=entry.repeats)
    record = known.get((gate.spec.name, profile)) or SuiteGate(gate=gate.spec.name, profile=profile)
    begun = runs.load_begun(record.run)
    if begun is not None:
        gate = effective_from_dict(begun.manifest.effective_gate)
    return Job(entry, prepare(gate, data.get(entry.gate, entry.data)), record)


def reopen(state: SuiteRun) -> None:
    """Before a suite goes on: the gate in which its serve was lost is measured to its end. Raises StoreError when the run of
    a measured gate is gone."""
    for record in state.gates:
        run_id = record.run or record.baseline_run
        if not record.done or run_id is None or record.refused is not None or record.skipped is not None:
            continue  # without a run, or with one that says nothing
        if runs.load_run(run_id).died and state.died is not None:
            record.done = False
    state.died = None


def lines_of(jobs: Sequence[Job], died: str | None = None) -> list[SuiteLine]:
    """What is known of every gate, from the run folders; of one that was not run, why the suite ended before it."""
    lines = [_line(job) for job in jobs]
    return [replace(line, sentence=died) if died and line.verdict is None else line for line in lines]


def _line(job: Job) -> SuiteLine:
    record = job.record
    repeats = job.prepared.gate.spec.repeats
    line = SuiteLine(
        record.gate, record.profile, may_skip=job.entry.may_skip, looks=repeats.looks, seconds=record.seconds or None
    )
    if record.skipped is not None:
        return replace(line, verdict=Verdict.SKIPPED, sentence=record.skipped)
    if record.refused is not None:
        return replace(line, verdict=Verdict.INCONCLUSIVE, sentence=record.refused)
    run_id = record.run or record.baseline_run
    verdict = runs.load_run(run_id).verdict if record.done and run_id else None
    return line.with_verdict(verdict, run_id) if verdict is not None and run_id is not None else line


class SuiteRunner:
    """One ``ds4bench promote``. ``baseline`` is ``here``, ``none`` or a promoted baseline's name."""

    def __init__(
        self, jobs: Sequence[Job], target: TargetOptions, baseline: str, state: SuiteRun, progress: Progress
    ) -> None:
        self.jobs, self.target, self.baseline = jobs, target, baseline
        self.state, self.progress = state, progress
        self.named: dict[str, Baseline] = {}
        if baseline not in ("here", "none"):
            for job in jobs:
                if compares(job.prepared.gate.spec):
                    self.named[job.title] = baselines.load_baseline(baseline, job.record.gate, job.record.profile)

    async def run(self) -> None:
        """Run what is left. Raises RunInterruptedError on Ctrl-C, TargetError when the serve does not start."""
        suite_runs.save(self.state)
        left = [job for job in self.jobs if not job.record.done]
        for number, (flags, group) in enumerate(groupby(left, key=lambda job: tuple(job.entry.serve_args))):
            target = replace(self.target, serve_args=(*self.target.serve_args, *flags))
            try:
                await self._group(list(group), target, number)
            except TargetDiedError as error:  # a budget that ends between two runs, where no run can record it
                self.state.died = str(error)
                suite_runs.save(self.state)
            if self.state.died is not None:
                return

    async def _group(self, jobs: list[Job], target: TargetOptions, number: int) -> None:
        """Gates that share a serve. Where baselines of this machine are missing a second serve is needed, since what a
        restart changes must lie between a baseline and its candidate: beside the first one where there is room, and the
        gate is asked of both in turns; else before it, for all of these gates."""
        async with self._serve(target, f"serve-{number}.log") as serve:
            missing = [job for job in jobs if self._lacks_baseline(job, serve)]
            if not missing:
                await self._candidates(jobs, serve)
                return
            refuse_faults(serve, target)
            names = ", ".join(job.title for job in missing)
            both = room_for_two(target)
            when = "measured now, in turns with the candidates" if both else "measured first"
            self.progress.note(f"this machine has no comparable baseline yet of {names}: {when}")
            if both:
                async with self._serve(target, f"serve-{number}-candidate.log") as candidate:
                    await self._candidates(jobs, candidate, serve)
                return
            for job in missing:
                await self._guarded(job, self._measure_baseline(job, serve))
                if self.state.died is not None:
                    return
        async with self._serve(target, f"serve-{number}-candidate.log") as serve:
            await self._candidates(jobs, serve)

    def _serve(self, target: TargetOptions, log: str) -> AbstractAsyncContextManager[Started]:
        return started(target, suite_runs.folder_of(self.state.run_id) / log, self.state.run_id, self.progress)

    async def _candidates(self, jobs: list[Job], serve: Started, base: Started | None = None) -> None:
        """What is left of the gates; with ``base``, a second serve, the missing baselines too."""
        for job in jobs:
            if job.record.done:
                continue
            if base is not None and self._lacks_baseline(job, serve):
                await self._guarded(job, self._measure_both(job, base, serve))
            else:
                await self._guarded(job, self._measure_candidate(job, serve))
            if self.state.died is not None:
                return

    async def _guarded(self, job: Job, step: Awaitable[None]) -> None:
        """One step, its time, and what a gate that cannot run means: SKIPPED or refused, never the end of the suite."""
        begun, record = time.monotonic(), job.record
        place = self.jobs.index(job) + 1
        self.progress.note(f"gate {place} of {len(self.jobs)}: {job.title}")
        try:
            await step
        except WorkloadError as error:
            record.skipped, record.done = f"the serve cannot run this gate: {error}", True
        except SpecError as error:
            record.refused, record.done = str(error), True
        finally:
            record.seconds += time.monotonic() - begun
            suite_runs.save(self.state)

    async def _measure_baseline(self, job: Job, serve: Started) -> None:
        record, gate = job.record, job.prepared.gate
        record.baseline_run = job.prepared.new_run_id()
        suite_runs.save(self.state)
        run = await measure(job.prepared, serve, self.progress, run_id=record.baseline_run, role="baseline")
        outcome = judged(gate, run, None)
        self.state.died = run.died
        if fit_for_baseline(gate, outcome):
            baselines.save_here(run)
        else:  # nothing to compare with: this is the gate's outcome
            record.done = True

    async def _measure_both(self, job: Job, base: Started, serve: Started) -> None:
        """Both sides or nothing: a pair that is interrupted is measured again whole, so its runs are noted at its end."""
        record, run_ids = job.record, (job.prepared.new_run_id(), job.prepared.new_run_id())
        outcome = await measure_both(job.prepared, base, serve, self.progress, run_ids)
        record.baseline_run = run_ids[0]
        record.run = run_ids[1] if outcome.run.manifest.run_id == run_ids[1] else None  # not an earlier pair's
        record.done = True
        self.state.died = outcome.run.died
        self.progress.note(f"{job.title}: {outcome.verdict.verdict}")

    async def _measure_candidate(self, job: Job, serve: Started) -> None:
        record, gate = job.record, job.prepared.gate
        resumed = runs.load_begun(record.run)
        record.run = record.run or job.prepared.new_run_id()
        suite_runs.save(self.state)
        baseline = self._baseline(job, serve)
        run = await measure(
            job.prepared, serve, self.progress, run_id=record.run, role="candidate", resumed=resumed, baseline=baseline
        )
        outcome = judged(gate, run, baseline)
        record.done = True
        self.state.died = run.died
        self.progress.note(f"{job.title}: {outcome.verdict.verdict}")

    def _lacks_baseline(self, job: Job, serve: Started) -> bool:
        if self.baseline != "here" or not compares(job.prepared.gate.spec):
            return False
        return self._baseline(job, serve) is None

    def _baseline(self, job: Job, serve: Started) -> Baseline | None:
        if self.baseline != "here":
            return self.named.get(job.title)
        gate = job.prepared.gate
        return baselines.lookup_here(gate.spec.name, gate.profile, gate.measurement_hash, serve.endpoint.fingerprint)
