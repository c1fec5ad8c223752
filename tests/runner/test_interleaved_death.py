"""``ds4bench ci``: a serve that dies between two gates is no open question, which ``--inconclusive-ok`` could allow."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from ds4bench.core import Verdict
from ds4bench.interleaved import InterleavedRunner, Side
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Prepared, TargetOptions
from ds4bench.spec.load import load_gate
from ds4bench.spec.suite import SuiteEntry
from ds4bench.store.suite_runs import SuiteGate
from ds4bench.suite_runner import Job
from ds4bench.verdicts.promotion import SuiteLine, promotion

GATES = ("gsm8k", "random", "soak")
P, V = Verdict.PASS, Verdict.INVALID


@dataclass
class Mortal:
    """Stands for a launched serve."""

    words: str | None = None

    def alive(self) -> bool:
        return self.words is None

    def death_note(self) -> str | None:
        return self.words


async def lines_when(
    monkeypatch: pytest.MonkeyPatch, dies_after: int, who: Sequence[str], verdict: Verdict = P
) -> list[SuiteLine]:
    """The lines of three gates when these serves are gone at the end of one, which itself is judged ``verdict``."""
    targets = {"base": Mortal(), "head": Mortal()}

    @contextlib.asynccontextmanager
    async def started(options: TargetOptions, *_: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(target=targets[options.name])

    measured: list[str] = []

    async def measure(job: Job, line: SuiteLine, serves: Any) -> SuiteLine:
        measured.append(job.record.gate)
        if len(measured) == dies_after:
            for name in who:
                targets[name].words = f"the embedded engine was ended by SIGKILL; {name}'s last words"
            return replace(line, verdict=verdict, sentence="said", run_id="r")
        return replace(line, verdict=P, sentence="said", run_id="r")

    monkeypatch.setattr("ds4bench.interleaved.started", started)
    jobs = [
        Job(
            SuiteEntry(gate=name),
            Prepared(load_gate(name, profile="smoke"), None),
            SuiteGate(gate=name, profile="smoke"),
        )
        for name in GATES
    ]
    sides = [Side(TargetOptions(name), label) for name, label in (("base", "abc123"), ("head", "def456"))]
    runner = InterleavedRunner(jobs, sides[0], sides[1], "ci", SilentProgress())
    monkeypatch.setattr(runner, "_gate", measure)
    return await runner.run()


@pytest.mark.parametrize(("who", "label"), [("base", "abc123"), ("head", "def456")])
async def test_the_gate_after_the_death_is_invalid_and_says_who_died_of_what(
    monkeypatch: pytest.MonkeyPatch, who: str, label: str
) -> None:
    lines = await lines_when(monkeypatch, 1, [who])
    assert [line.verdict for line in lines] == [P, V, None]
    assert lines[1].sentence == (
        f"the serve of {label} died before this gate: the embedded engine was ended by SIGKILL; {who}'s last words"
    )
    assert promotion(lines).verdict is V


async def test_both_serves_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = await lines_when(monkeypatch, 2, ["base", "head"])
    assert lines[2].verdict is V
    assert "abc123" in lines[2].sentence and "def456" in lines[2].sentence


async def test_a_gate_that_is_invalid_by_the_death_is_the_only_one_that_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = await lines_when(monkeypatch, 1, ["head"], V)
    assert [line.verdict for line in lines] == [V, None, None]
    assert promotion(lines).verdict is V


async def test_a_serve_that_dies_when_all_is_measured_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = await lines_when(monkeypatch, 3, ["head"])
    assert [line.verdict for line in lines] == [P, P, P]
