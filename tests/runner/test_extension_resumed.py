"""A run that is interrupted inside its declared extension goes on to the end of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ds4bench.core import Baseline, RunData, Verdict
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Prepared, Started, measure
from ds4bench.spec.load import EffectiveGate
from ds4bench.store import provenance, runs
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.base import Endpoint
from ds4bench.targets.dialect import dialect_of
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.extension import extended
from tests.verdicts.conftest import FINGERPRINT, World, plain_ttft

COUNT, MOST = 4, 8
ELSEWHERE = {"local": False}


class Notes(SilentProgress):
    """Keeps what a person is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EffectiveGate:
    """Two looks, at four repeats and at eight; its runs are kept in a folder of their own."""
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(provenance, "collect", dict)
    return World().gate(f"repeats.extend_to={MOST}", repeats=COUNT)


def played(gate: EffectiveGate, factor: float = 1.0) -> RunData:
    """The run with its whole extension, elsewhere than on this machine."""

    def ttft(cell: str, repeat: int, index: int) -> float:
        return factor * plain_ttft(cell, 1, index) * math.exp(0.004 * (-1) ** repeat)

    return World().run(extended(gate), ttft=ttft, fingerprint=ELSEWHERE, manifest={"run_id": "r1"})


def keep(run: RunData, batches: int) -> RunData:
    """The run on disk as it is when that many of its batches have been measured."""
    with runs.RunWriter.create(run.manifest) as writer:
        for row in run.requests:
            writer.append_request(row)
        for batch in run.batches[:batches]:
            writer.append_batch(batch)
    return runs.load_run("r1")


async def resumed(
    gate: EffectiveGate, whole: RunData, batches: int, baseline: Baseline | None, monkeypatch: pytest.MonkeyPatch
) -> tuple[RunData, list[str]]:
    """The run when it has gone on after that many batches, and what was said meanwhile."""

    class Plays:
        """Stands for the runner: what it measures is known."""

        def __init__(self, gate: EffectiveGate, *others: Any, **_: Any) -> None:
            self.gate, self.writer = gate, others[3]

        async def run(self, done: RunData, repeats: int | None = None) -> None:
            for batch in whole.batches[len(done.batches) :]:
                if batch.repeat < (repeats or self.gate.spec.repeats.count):
                    self.writer.append_batch(batch)

    monkeypatch.setattr("ds4bench.run_session.GateRunner", Plays)
    address, told = "http://127.0.0.1:9", whole.manifest.fingerprint
    assert told is not None
    serve = Started(AttachTarget(address), Endpoint(address, FINGERPRINT.model, dialect_of("vllm"), told), {})
    notes = Notes()
    run = await measure(
        Prepared(gate, None),
        serve,
        notes,
        run_id="r1",
        role="candidate",
        resumed=keep(whole, batches),
        baseline=baseline,
    )
    return run, notes.told


@pytest.mark.parametrize("compared", [True, False])
async def test_a_run_torn_inside_its_extension_is_measured_to_the_end_of_it(
    gate: EffectiveGate, monkeypatch: pytest.MonkeyPatch, compared: bool
) -> None:
    cells = len(gate.spec.matrix.cells())
    baseline = World().baseline(played(gate)) if compared else None
    run, _ = await resumed(gate, played(gate), COUNT * cells + 1, baseline, monkeypatch)
    assert len(run.batches) == MOST * cells
    verdict = decide(gate, run, baseline)
    assert "interrupted" not in verdict.sentence
    assert verdict.verdict is (Verdict.PASS if compared else Verdict.INCONCLUSIVE)


async def test_a_run_that_was_decided_by_its_first_look_is_not_extended(
    gate: EffectiveGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = len(gate.spec.matrix.cells())
    run, told = await resumed(gate, played(gate), COUNT * cells - 1, World().baseline(played(gate)), monkeypatch)
    assert len(run.batches) == COUNT * cells
    assert told == []


@pytest.mark.parametrize(("repeats", "notes"), [(COUNT, 1), (MOST, 0)])
async def test_an_open_comparison_is_extended_once(
    gate: EffectiveGate, monkeypatch: pytest.MonkeyPatch, repeats: int, notes: int
) -> None:
    cells = len(gate.spec.matrix.cells())
    run, told = await resumed(
        gate, played(gate, 1.09), repeats * cells, World().baseline(played(gate)), monkeypatch
    )  # fmt: skip
    assert len(run.batches) == MOST * cells
    assert len([line for line in told if "extended once, to 8" in line]) == notes
