"""Healthy runs that the detection matrix compares broken serves with: only those that are fit for it.

They are run ids under the state folder, measured when a gate first needs one, and a second time, on another serve, where the
first was no measurement (INVALID, not whole, not verified). After that the gate has none, and a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ds4bench.core import Baseline, CheckStatus
from ds4bench.paths import state_dir
from ds4bench.report.progress import make_progress
from ds4bench.run_session import Outcome, Started, fit_for_baseline, judged, measure, started
from ds4bench.store import baselines, documents, runs
from ds4bench.suite_runner import compares
from ds4bench.trust.broken_serve import BrokenServe
from ds4bench.trust.expectations import Row
from ds4bench.trust.matrix_gates import MatrixGates

TRIES = 2
"""A healthy run that is no measurement is measured once more."""


@dataclass
class HealthyBaselines:
    """Of one call of the matrix; ``say`` tells the user what is measured and what was refused."""

    gates: MatrixGates
    say: Callable[[str], None]
    _fit: dict[tuple[str, str], Baseline] = field(default_factory=dict)
    _refused: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, row: Row, gate: str) -> Baseline | None:
        """The baseline of the row's route; None for a gate that compares with nothing, or has none that is fit."""
        return self._fit.get((row.route, gate))

    def refusal(self, row: Row, gate: str) -> str | None:
        """Why a gate that needs a baseline of the row's route has none."""
        why = self._refused.get((row.route, gate))
        return why and f"no healthy run ({row.route}) is fit to compare with: {why}"

    async def get(self, row: Row, gates: Sequence[str]) -> None:
        """Have a baseline, or a refusal, of every gate that compares: stored ones first, the others are measured."""
        wanted = [gate for gate in gates if compares(self.gates.prepared(gate).gate.spec)]
        self._read(row, [gate for gate in wanted if self.of(row, gate) is None])
        reasons: dict[str, str] = {}
        for _ in range(TRIES):
            missing = [gate for gate in wanted if self.of(row, gate) is None and self.refusal(row, gate) is None]
            if not missing:
                return
            reasons = await self._measure(row, missing)
        self._refused |= {(row.route, gate): why for gate, why in reasons.items()}

    def _read(self, row: Row, gates: Sequence[str]) -> None:
        """Take what is stored; the gate's validity may be another one since then."""
        stored = _stored()
        for gate in gates:
            run_id = stored.get(self._key(row, gate))
            if run_id is not None and (runs.run_folder(run_id) / runs.MANIFEST).exists():
                self._take(row, gate, judged(self.gates.prepared(gate).gate, runs.load_run(run_id), None))

    async def _measure(self, row: Row, gates: Sequence[str]) -> dict[str, str]:
        """Measure gates on one healthy serve; returns those that are not fit, and why."""
        self.say(f"healthy baselines ({row.route}): {', '.join(gates)}")
        log, reasons = state_dir() / "trust" / "healthy" / "serve.log", {}
        async with started(BrokenServe.of(row, healthy=True), log, row.name, make_progress(quiet=True)) as serve:
            for gate in gates:
                outcome = await self._one(gate, serve)
                if self._take(row, gate, outcome):
                    _store(self._key(row, gate), outcome.run.manifest.run_id)
                else:
                    reasons[gate] = why_unfit(outcome)
                    self.say(f"  {gate}: not fit for a baseline: {reasons[gate]}")
        return reasons

    async def _one(self, gate: str, serve: Started) -> Outcome:
        prepared = self.gates.prepared(gate)
        run = await measure(
            prepared, serve, make_progress(quiet=True), run_id=prepared.new_run_id(), role="baseline"
        )  # fmt: skip
        return judged(prepared.gate, run, None)

    def _take(self, row: Row, gate: str, outcome: Outcome) -> bool:
        """Use a run as the baseline if it is fit for it, and say whether."""
        if not fit_for_baseline(self.gates.prepared(gate).gate, outcome):
            return False
        self._fit[row.route, gate] = baselines.from_run(outcome.run, "healthy")
        return True

    def _key(self, row: Row, gate: str) -> str:
        chosen = self.gates.prepared(gate).gate
        return f"{row.route}/{gate}/{chosen.measurement_hash[:12]}/{chosen.spec.repeats.count}"


def why_unfit(outcome: Outcome) -> str:
    """What keeps a run from being a baseline, the first thing."""
    for status in (CheckStatus.FAILED, CheckStatus.UNVERIFIED):
        for check in outcome.verdict.checks:
            if check.status is status:
                return f"{check.name}: {check.detail}"
    return outcome.run.died or "not all of its repeats were measured"


def _file() -> Path:
    return state_dir() / "trust" / "baselines.json"


def _stored() -> dict[str, str]:
    path = _file()
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str]) if path.exists() else {}


def _store(key: str, run_id: str) -> None:
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode({**_stored(), key: run_id}), indent=1)
    documents.write_whole(path, text)
