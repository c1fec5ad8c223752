"""The detection matrix: broken serves x gates, each against a healthy baseline that came the same way.

Every outcome is on disk before the next is measured; what is there and was said by the same gate is not measured again.
A gate that gets no healthy baseline fit to be compared with (``healthy_baselines.py``) is an ERROR.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from ds4bench.errors import Ds4BenchError, StoreError
from ds4bench.paths import state_dir
from ds4bench.report.progress import make_progress
from ds4bench.run_session import Prepared, RunInterruptedError, Started, judged, measure, started
from ds4bench.spec.suite import SuiteSpec
from ds4bench.store import provenance
from ds4bench.trust import grading
from ds4bench.trust.broken_serve import BrokenServe
from ds4bench.trust.expectations import Row
from ds4bench.trust.grading import Grade, Matrix, Seen
from ds4bench.trust.healthy_baselines import HealthyBaselines
from ds4bench.trust.matrix_gates import MatrixGates
from ds4bench.trust.real_runs import this_commit

_TYPICAL_S = 45.0


@dataclass(frozen=True)
class Job:
    """One gate on one row's serve."""

    row: Row
    gate: str


@dataclass
class MatrixRun:
    """One call of ``python -m ds4bench.trust matrix``.

    ``gates`` are run on every row, beside those that a row names; ``suite`` says what it overrides in them.
    ``busy``: other work shares the machine; it is not asked to be quiet and rules about times do not count.
    ``until_caught``: a row's gates are left out once one has caught the fault, but for those that must hold. ``repeats``: of
    gates, instead of the suite's.
    """

    rows: Sequence[Row]
    gates: Sequence[str]
    suite: SuiteSpec
    path: Path
    busy: bool = False
    until_caught: bool = False
    repeats: Mapping[str, int] = field(default_factory=dict)
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: T201
    matrix: Matrix = field(init=False)
    gates_now: MatrixGates = field(init=False)
    healthy: HealthyBaselines = field(init=False)
    _commit: str | None = None
    _seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read what is on disk."""
        self.matrix = grading.load(self.path)
        self.gates_now = MatrixGates(self.suite, self.repeats, self.busy)
        self.healthy = HealthyBaselines(self.gates_now, self.say)

    def jobs(self) -> list[Job]:
        """What is left to measure, in order."""
        every = [entry.gate for entry in self.suite.gates]
        of_rows = [(row, gates_of(row, self.gates, every)) for row in self.rows]
        return [Job(row, gate) for row, gates in of_rows for gate in gates if self._left(row, gate)]

    def forget_open(self) -> None:
        """Measure again what no gate decided."""
        for row in self.rows:
            cells = self.matrix.cells.get(row.name, {})
            for gate in [gate for gate, seen in cells.items() if seen.verdict in ("INCONCLUSIVE", "ERROR", "SKIPPED")]:
                del cells[gate]

    async def run(self) -> None:
        """Measure what is left. Raises RunInterruptedError; what was measured is kept."""
        jobs = self.jobs()
        self._commit = this_commit()  # once: the results are files of the checkout too
        hardware = provenance.hardware_fingerprint()
        self.matrix.machine = f"{hardware.get('cpu', 'unknown')}, {hardware.get('cores', '?')} cores"
        self.say(f"{len(jobs)} gate runs to do, about {len(jobs) * self._typical_s() / 60:.0f} min and their baselines")
        for row, of_row in groupby(jobs, key=lambda job: job.row):
            left = list(of_row)
            while left := [job for job in left if self._left(row, job.gate)]:
                together = 1 if row.alone or self.until_caught else len(left)
                await self.healthy.get(row, [job.gate for job in left[:together]])
                left = await self._serve(row, self._with_baseline(left[:together])) + left[together:]
            state, why = self.outcome(row)
            self.say(f"{row.name}: {state}, {why}")

    def outcome(self, row: Row) -> tuple[str, str]:
        """What is known of a row: its state and why."""
        return grading.row_outcome(row, self.matrix.cells.get(row.name, {}), self.gates_now.hash_of)

    def _with_baseline(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that lack no baseline; the others are an ERROR, which says what was wrong with it."""
        refusals = [(job, self.healthy.refusal(job.row, job.gate)) for job in jobs]
        for job, why in refusals:
            if why is not None:
                self._keep(job, self._error(job, why))
        return [job for job, why in refusals if why is None]

    async def _serve(self, row: Row, jobs: list[Job]) -> list[Job]:
        """Measure gates on one serve; returns those that a serve that died has left."""
        if not jobs:
            return []
        log, place = state_dir() / "trust" / row.name / "serve.log", 0
        try:
            async with started(BrokenServe.of(row), log, row.name, make_progress(quiet=True)) as serve:
                for place, job in enumerate(jobs):
                    if await self._measure(job, serve):
                        return jobs[place + 1 :]
        except (StoreError, RunInterruptedError):
            raise
        except Ds4BenchError as error:  # the serve does not start with this fault, or the gate cannot be run on it
            self._keep(jobs[place], self._error(jobs[place], str(error)))
            return jobs[place + 1 :]
        return []

    async def _measure(self, job: Job, serve: Started) -> bool:
        """One gate; whether the serve is lost."""
        begun, prepared = time.monotonic(), self._gate(job.gate)
        baseline = self.healthy.of(job.row, job.gate)
        run = await measure(
            prepared,
            serve,
            make_progress(quiet=True),
            run_id=prepared.new_run_id(),
            role="candidate",
            baseline=baseline,
        )
        outcome = judged(prepared.gate, run, baseline)
        seconds = time.monotonic() - begun
        self._seconds.append(seconds)
        seen = grading.seen_of(
            outcome.verdict, prepared.gate.spec, run=run.manifest.run_id, seconds=seconds,
            measurement=prepared.gate.measurement_hash, busy=self.busy, commit=self._commit,
            gate=self.gates_now.hash_of(job.gate),
        )  # fmt: skip
        self._keep(job, seen)
        return run.died is not None

    def _error(self, job: Job, why: str) -> Seen:
        """A gate that could not be measured."""
        return Seen(
            verdict="ERROR", reasons=[], sentence=why, run=None, seconds=0.0, busy=self.busy, commit=self._commit,
            measurement=self._gate(job.gate).gate.measurement_hash, gate=self.gates_now.hash_of(job.gate),
        )  # fmt: skip

    def _keep(self, job: Job, seen: Seen) -> None:
        self.matrix.cells.setdefault(job.row.name, {})[job.gate] = seen
        grading.save(self.matrix, self.path)
        found = grading.grade(job.row, job.gate, seen)
        left = len(self.jobs())
        minutes = left * self._typical_s() / 60
        why = f" ({', '.join(seen.reasons)})" if seen.reasons else ""
        self.say(
            f"  {job.row.name} x {job.gate}: {seen.verdict}{why}, {found}, {seen.seconds:.0f} s; "
            f"{left} left, about {minutes:.0f} min"
        )

    def _left(self, row: Row, gate: str) -> bool:
        """Whether a gate has still to be measured on a row: what another gate said of that name does not count."""
        cells = self.matrix.cells.get(row.name, {})
        fresh = {name: seen for name, seen in cells.items() if not seen.stale(name, self.gates_now.hash_of)}
        grades = {name: grading.grade(row, name, seen) for name, seen in fresh.items()}
        if self.until_caught and Grade.CAUGHT in grades.values() and not row.must_hold(gate):
            return False
        seen = fresh.get(gate)
        if seen is None:
            return True
        return seen.busy and not self.busy and grades[gate] not in (Grade.CAUGHT, Grade.HELD)

    def _gate(self, name: str) -> Prepared:
        return self.gates_now.prepared(name)

    def _typical_s(self) -> float:
        known = self._seconds or [seen.seconds for row in self.matrix.cells.values() for seen in row.values()]
        return sum(known) / len(known) if known else _TYPICAL_S


def gates_of(row: Row, gates: Sequence[str], every: Sequence[str]) -> list[str]:
    """The gates that a row names (one that all must hold names ``every`` gate), then the others of ``gates``."""
    named = list(every) if row.holds == "all" else row.named_gates()
    return [*named, *(gate for gate in gates if gate not in named)]
