"""The detection matrix: broken serves x gates, each against a healthy serve that is asked the same way.

A gate that compares times asks both serves in turns, as ``ds4bench ci`` does, so that the hour of the machine is not taken
for the fault; any other compares with a stored run of a healthy serve (``healthy_baselines.py``). One that has nothing fit to
be compared with is an ERROR. Every outcome is on disk before the next is measured; what is there and was said by the same
gate is not measured again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from ds4bench.core import GateVerdict
from ds4bench.errors import Ds4BenchError, StoreError
from ds4bench.paired_gate import GatePair, own_cores
from ds4bench.paths import state_dir
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Prepared, RunInterruptedError, Started, TargetOptions, judged, measure, started
from ds4bench.spec.suite import SuiteSpec
from ds4bench.store import provenance
from ds4bench.trust import grading
from ds4bench.trust.broken_serve import BrokenServe
from ds4bench.trust.expectations import Row
from ds4bench.trust.grading import Grade, Matrix, Seen
from ds4bench.trust.healthy_baselines import TRIES, HealthyBaselines
from ds4bench.trust.matrix_gates import MatrixGates, compares_times
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
            asked = list(of_row)
            in_turns = [job for job in asked if compares_times(self._gate(job.gate).gate)]
            await self._all(row, [job for job in asked if job not in in_turns], self._against_stored)
            await self._all(row, in_turns, self._in_turns)
            state, why = self.outcome(row)
            self.say(f"{row.name}: {state}, {why}")

    def outcome(self, row: Row) -> tuple[str, str]:
        """What is known of a row: its state and why."""
        return grading.row_outcome(row, self.matrix.cells.get(row.name, {}), self.gates_now.hash_of)

    async def _all(
        self, row: Row, jobs: Sequence[Job], step: Callable[[Row, list[Job]], Awaitable[None]]
    ) -> None:  # fmt: skip
        """Measure jobs of a row with as many serves as it takes."""
        while left := [job for job in jobs if self._left(row, job.gate)]:
            together = 1 if row.alone or self.until_caught else len(left)
            await step(row, left[:together])

    async def _against_stored(self, row: Row, jobs: list[Job]) -> None:
        """Measure gates on one broken serve, until it dies, and compare with stored runs of a healthy one."""
        await self.healthy.get(row, [job.gate for job in jobs])
        await self._serve(row, self._with_baseline(jobs), [BrokenServe.of(row)], self._alone)

    async def _in_turns(self, row: Row, jobs: list[Job]) -> None:
        """Measure gates on a broken and on a healthy serve in turns, until one dies."""
        flags = own_cores(row.serve_args)
        sides = [BrokenServe.of(row, healthy=healthy, more_args=flags) for healthy in (True, False)]
        await self._serve(row, jobs, sides, self._pair)

    async def _serve(
        self, row: Row, jobs: Sequence[Job], sides: Sequence[TargetOptions],
        step: Callable[[Job, Sequence[Started]], Awaitable[bool]],
    ) -> None:  # fmt: skip
        """Start the serves and take one step a job, until it says that a serve is lost."""
        if not jobs:
            return
        folder, job = state_dir() / "trust" / row.name, jobs[0]
        try:
            async with AsyncExitStack() as stack:
                serves = []
                for number, side in enumerate(sides):
                    log = folder / f"serve-{number}" / "serve.log"
                    serves.append(await stack.enter_async_context(started(side, log, row.name, SilentProgress())))
                for job in jobs:
                    if await step(job, serves):
                        return
        except (StoreError, RunInterruptedError):
            raise
        except Ds4BenchError as error:  # a serve does not start with this fault, or the gate cannot be run on it
            self._keep(job, self._error(job, str(error)))

    def _with_baseline(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that lack no baseline; the others are an ERROR, which says what was wrong with it."""
        refusals = [(job, self.healthy.refusal(job.row, job.gate)) for job in jobs]
        for job, why in refusals:
            if why is not None:
                self._keep(job, self._error(job, why))
        return [job for job, why in refusals if why is None]

    async def _alone(self, job: Job, serves: Sequence[Started]) -> bool:
        """One gate on the broken serve; whether that is lost."""
        begun, prepared = time.monotonic(), self._gate(job.gate)
        baseline, run_id = self.healthy.of(job.row, job.gate), prepared.new_run_id()
        run = await measure(
            prepared, serves[0], SilentProgress(), run_id=run_id, role="candidate", baseline=baseline
        )  # fmt: skip
        outcome = judged(prepared.gate, run, baseline)
        self._keep(job, self._seen(job, outcome.verdict, run_id, begun))
        return run.died is not None

    async def _pair(self, job: Job, serves: Sequence[Started]) -> bool:
        """One gate on both serves, again where the healthy run was no measurement; whether a serve is lost."""
        pair = GatePair(self._gate(job.gate), serves[0], serves[1], "healthy", SilentProgress())
        why = ""
        for _ in range(TRIES):
            begun = time.monotonic()
            found = await pair.measure()
            if found.unfit is None:
                self._keep(job, self._seen(job, found.verdict, found.run_id, begun))
                return found.died
            why = found.unfit
            self.say(f"  {job.row.name} x {job.gate}: {why}")
        self._keep(job, self._error(job, why))
        return not serves[0].target.alive()

    def _seen(self, job: Job, verdict: GateVerdict, run_id: str, begun: float) -> Seen:
        """What the gate said, and how long it took."""
        seconds, gate = time.monotonic() - begun, self._gate(job.gate).gate
        self._seconds.append(seconds)
        return grading.seen_of(
            verdict, gate.spec, run=run_id, seconds=seconds, measurement=gate.measurement_hash, busy=self.busy,
            commit=self._commit, gate=self.gates_now.hash_of(job.gate),
        )  # fmt: skip

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
