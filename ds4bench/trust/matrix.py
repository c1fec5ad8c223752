"""The detection matrix: broken serves x gates, each against a healthy baseline that came the same way.

Every outcome is on disk before the next is measured; what is there and was measured by the same gate is not measured again.
Baselines are run ids under the state folder, measured when a gate first needs one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import msgspec

from ds4bench.core import Baseline
from ds4bench.errors import Ds4BenchError, StoreError
from ds4bench.paths import state_dir
from ds4bench.report.progress import make_progress
from ds4bench.run_session import (
    Outcome,
    Prepared,
    RunInterruptedError,
    Started,
    fit_for_baseline,
    judged,
    measure,
    prepare,
    started,
)
from ds4bench.spec.load import load_gate
from ds4bench.spec.suite import SuiteEntry, SuiteSpec
from ds4bench.store import baselines, provenance, runs
from ds4bench.suite_runner import compares
from ds4bench.trust import grading
from ds4bench.trust.broken_serve import BrokenServe
from ds4bench.trust.expectations import Row
from ds4bench.trust.grading import Grade, Matrix, Seen

_TYPICAL_S = 45.0
_QUIET_OFF = ("validity.max_foreign_cpu_share=1.0", "validity.machine_drift=1.0")


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
    ``until_caught``: a row's gates are left out once one has caught the fault. ``repeats``: of gates, instead of the suite's.
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
    _prepared: dict[str, Prepared] = field(default_factory=dict)
    _baselines: dict[tuple[str, str], Baseline] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read what is on disk."""
        self.matrix = grading.load(self.path)

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
        hardware = provenance.hardware_fingerprint()
        self.matrix.machine = f"{hardware.get('cpu', 'unknown')}, {hardware.get('cores', '?')} cores"
        self.say(f"{len(jobs)} gate runs to do, about {len(jobs) * self._typical_s() / 60:.0f} min and their baselines")
        for row, of_row in groupby(jobs, key=lambda job: job.row):
            left = list(of_row)
            while left := [job for job in left if self._left(row, job.gate)]:
                together = 1 if row.alone or self.until_caught else len(left)
                await self._baselines_for(row, [job.gate for job in left[:together]])
                left = await self._serve(row, left[:together]) + left[together:]
            state, why = grading.row_state(row, self.matrix.cells.get(row.name, {}))
            self.say(f"{row.name}: {state}, {why}")

    async def _serve(self, row: Row, jobs: list[Job]) -> list[Job]:
        """Measure gates on one serve; returns those that a serve that died has left."""
        log = state_dir() / "trust" / row.name / "serve.log"
        try:
            async with started(BrokenServe.of(row), log, row.name, make_progress(quiet=True)) as serve:
                for place, job in enumerate(jobs):
                    if await self._measure(job, serve):
                        return jobs[place + 1 :]
        except (StoreError, RunInterruptedError):
            raise
        except Ds4BenchError as error:  # the serve does not start with this fault, or the gate cannot be run on it
            self._keep(jobs[0], Seen(
                verdict="ERROR", reasons=[], sentence=str(error), run=None, seconds=0.0,
                measurement=self._gate(jobs[0].gate).gate.measurement_hash, busy=self.busy,
            ))  # fmt: skip
            return jobs[1:]
        return []

    async def _measure(self, job: Job, serve: Started) -> bool:
        """One gate; whether the serve is lost."""
        begun, prepared = time.monotonic(), self._gate(job.gate)
        baseline = self._baselines.get((job.row.route, job.gate))
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
            measurement=prepared.gate.measurement_hash, busy=self.busy,
        )  # fmt: skip
        self._keep(job, seen)
        return run.died is not None

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

    async def _baselines_for(self, row: Row, gates: Sequence[str]) -> None:
        """Healthy baselines of the row's route, where a gate compares, measured on a healthy serve if none is stored."""
        stored = _stored_baselines()
        gates = [gate for gate in gates if compares(self._gate(gate).gate.spec)]
        for gate in gates:
            run_id = stored.get(self._key(row, gate))
            if run_id is not None and (runs.run_folder(run_id) / runs.MANIFEST).exists():
                self._baselines[row.route, gate] = baselines.from_run(runs.load_run(run_id), "healthy")
        missing = [gate for gate in gates if (row.route, gate) not in self._baselines]
        if not missing:
            return
        self.say(f"healthy baselines ({row.route}): {', '.join(missing)}")
        log = state_dir() / "trust" / "healthy" / "serve.log"
        async with started(BrokenServe.of(row, healthy=True), log, row.name, make_progress(quiet=True)) as serve:
            for gate in missing:
                outcome = await self._baseline(gate, serve)
                self._baselines[row.route, gate] = baselines.from_run(outcome.run, "healthy")
                if fit_for_baseline(self._gate(gate).gate, outcome):
                    _store_baseline(self._key(row, gate), outcome.run.manifest.run_id)
                else:
                    self.say(f"  {gate}: {outcome.verdict.verdict}: {outcome.verdict.sentence}")

    async def _baseline(self, gate: str, serve: Started) -> Outcome:
        prepared = self._gate(gate)
        progress = make_progress(quiet=True)
        run = await measure(prepared, serve, progress, run_id=prepared.new_run_id(), role="baseline")
        return judged(prepared.gate, run, None)

    def _left(self, row: Row, gate: str) -> bool:
        """Whether a gate has still to be measured on a row."""
        cells = self.matrix.cells.get(row.name, {})
        if self.until_caught and any(grading.grade(row, name, seen) is Grade.CAUGHT for name, seen in cells.items()):
            return row.must_hold(gate) and gate not in cells
        seen = cells.get(gate)
        if seen is None or seen.measurement != self._gate(gate).gate.measurement_hash:
            return True
        undecided = grading.grade(row, gate, seen) not in (Grade.CAUGHT, Grade.HELD)
        return seen.busy and not self.busy and undecided

    def _gate(self, name: str) -> Prepared:
        if name not in self._prepared:
            entry = next((entry for entry in self.suite.gates if entry.gate == name), SuiteEntry(gate=name))
            overrides = [*entry.overrides, *(_QUIET_OFF if self.busy else ())]
            repeats = self.repeats.get(name, entry.repeats)
            profile = entry.profile or self.suite.profile
            gate = load_gate(name, profile=profile, overrides=overrides, repeats=repeats)
            self._prepared[name] = prepare(gate, entry.data)
        return self._prepared[name]

    def _key(self, row: Row, gate: str) -> str:
        chosen = self._gate(gate).gate
        return f"{row.route}/{gate}/{chosen.measurement_hash[:12]}/{chosen.spec.repeats.count}"

    def _typical_s(self) -> float:
        known = self._seconds or [seen.seconds for row in self.matrix.cells.values() for seen in row.values()]
        return sum(known) / len(known) if known else _TYPICAL_S


def gates_of(row: Row, gates: Sequence[str], every: Sequence[str]) -> list[str]:
    """The gates that a row names (one that all must hold names ``every`` gate), then the others of ``gates``."""
    named = list(every) if row.holds == "all" else row.named_gates()
    return [*named, *(gate for gate in gates if gate not in named)]


def _baselines_file() -> Path:
    return state_dir() / "trust" / "baselines.json"


def _stored_baselines() -> dict[str, str]:
    path = _baselines_file()
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


def _store_baseline(key: str, run_id: str) -> None:
    path = _baselines_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode({**_stored_baselines(), key: run_id}), indent=1))
