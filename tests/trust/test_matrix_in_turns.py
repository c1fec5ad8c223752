"""Gates that compare times ask the broken serve and a healthy one in turns; a healthy run that is none blames nobody."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ds4bench import env
from ds4bench.core import CheckResult, CheckStatus, GateVerdict, Verdict
from ds4bench.paired_gate import PairVerdict
from ds4bench.spec.load import load_gate
from ds4bench.spec.suite import load_suite
from ds4bench.trust import grading, matrix
from ds4bench.trust.broken_serve import BrokenServe
from ds4bench.trust.expectations import Row
from ds4bench.trust.matrix import MatrixRun
from ds4bench.trust.matrix_gates import compares_times, gate_hash

ROW = Row(name="r", engine=["slow-prefill:20%"], proxy=[], expected={"prefill-sweep": ["ttft"]}, holds=["mt-bench"])


def says(word: Verdict, *, unfit: str | None = None, died: bool = False) -> PairVerdict:
    check = CheckResult(name="client_not_starved", status=CheckStatus.FAILED, detail="d")
    checks = [check] if word is Verdict.INVALID else []
    return PairVerdict("run", GateVerdict(verdict=word, sentence="s", checks=checks, rules=[]), died, unfit)


@dataclass
class Pairs:
    """Serves that were started, and what each next pair says."""

    next: list[PairVerdict]
    sides: list[BrokenServe] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    alive: bool = True

    @contextlib.asynccontextmanager
    async def start(self, side: BrokenServe, *_: Any) -> AsyncIterator[Any]:
        self.sides.append(side)
        yield SimpleNamespace(side=side, target=SimpleNamespace(alive=lambda: self.alive))

    def pair(self, prepared: Any, base: Any, head: Any, *_: Any) -> Any:
        assert (base.side, head.side) == tuple(self.sides[-2:])

        async def measure() -> PairVerdict:
            self.asked.append(prepared.name)
            return self.next.pop(0)

        return SimpleNamespace(measure=measure)


async def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: Pairs, row: Row = ROW) -> Any:
    monkeypatch.setenv(env.STATE_DIR, str(tmp_path / "state"))
    monkeypatch.setattr(matrix, "started", pairs.start)
    monkeypatch.setattr(matrix, "GatePair", pairs.pair)
    run = MatrixRun([row], [], load_suite("smoke"), tmp_path / "faults.json", say=lambda _: None)
    await run.run()
    return run.matrix.cells["r"]


async def test_a_broken_serve_and_a_healthy_one_that_came_the_same_way_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ds4bench.paired_gate.hardware_fingerprint", lambda: {"cores": 8})
    pairs = Pairs([says(Verdict.FAIL), says(Verdict.PASS)])
    found = await cells(tmp_path, monkeypatch, pairs)
    healthy, broken = pairs.sides
    assert healthy.serve_args == ("--threads=4",) and broken.serve_args == ("--threads=4", "--fault=slow-prefill:20%")
    assert healthy.proxy == broken.proxy == ()
    assert pairs.asked == ["prefill-sweep", "mt-bench"]
    assert {gate: seen.verdict for gate, seen in found.items()} == {"prefill-sweep": "FAIL", "mt-bench": "PASS"}


async def test_a_healthy_run_that_is_no_measurement_is_measured_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Pairs([says(Verdict.INVALID, unfit="starved"), says(Verdict.FAIL), says(Verdict.PASS)])
    found = await cells(tmp_path, monkeypatch, pairs)
    assert pairs.asked == ["prefill-sweep", "prefill-sweep", "mt-bench"] and found["prefill-sweep"].verdict == "FAIL"


async def test_a_healthy_run_that_stays_none_is_an_error_and_catches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfit = says(Verdict.INVALID, unfit="the run of base healthy is not fit: starved")
    row = Row(name="r", engine=["slow-prefill:20%"], expected={"prefill-sweep": ["client_not_starved"]})
    found = (await cells(tmp_path, monkeypatch, Pairs([unfit, unfit]), row))["prefill-sweep"]
    assert (found.verdict, found.reasons) == ("ERROR", []) and "starved" in found.sentence
    assert grading.grade(row, "prefill-sweep", found) is grading.Grade.OPEN


async def test_after_a_serve_has_died_the_next_gate_gets_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Pairs([says(Verdict.INVALID, died=True), says(Verdict.PASS)])
    found = await cells(tmp_path, monkeypatch, pairs)
    assert len(pairs.sides) == 4 and found["prefill-sweep"].reasons == ["client_not_starved"]


def test_only_gates_that_compare_times_ask_in_turns() -> None:
    gates = [entry.gate for entry in load_suite("smoke").gates]
    timed = [gate for gate in gates if compares_times(load_gate(gate, profile="smoke"))]
    assert timed == [
        "long-context", "prefill-sweep", "random", "mt-bench", "long-context-decode", "mixed-arrival"
    ]  # fmt: skip


def test_a_gate_that_is_asked_in_another_way_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = load_gate("random", profile="smoke")
    now = gate_hash(gate)
    monkeypatch.setattr("ds4bench.trust.matrix_gates.judges_times", lambda spec: False)
    assert gate_hash(gate) != now
