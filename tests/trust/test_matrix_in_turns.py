"""Gates that compare times ask the broken serve and a healthy one in turns; a healthy run that is none blames nobody."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ds4bench import env
from ds4bench.core import CheckResult, CheckStatus, GateVerdict, Verdict
from ds4bench.paired_gate import PairVerdict
from ds4bench.spec.load import load_gate
from ds4bench.spec.suite import load_suite
from ds4bench.stats.decision import under_twice_the_noise, verdict_of_ratio
from ds4bench.stats.paired_ratio import paired_ratio
from ds4bench.trust import expectations, grading, matrix
from ds4bench.trust.broken_serve import BrokenServe
from ds4bench.trust.expectations import Row
from ds4bench.trust.matrix import MatrixRun
from ds4bench.trust.matrix_gates import compares_times, gate_hash
from ds4bench.verdicts.rules.comparison import comparing_rules

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


def shares(repeats: int, *, slower: float, noise_cv: float, rows: int = 300) -> dict[Verdict, float]:
    """How often each verdict falls of simulated rows, by the rule that ``prefill-sweep`` has."""
    rule = comparing_rules(load_gate("prefill-sweep", profile="smoke").spec)[0]
    session_cv = rule.interleaved_cv or rule.session_cv
    rng, said = np.random.default_rng(1), []
    for _ in range(rows):
        base, head = np.exp(rng.normal(0, noise_cv, size=(2, repeats, 1)))
        starts = np.exp(rng.normal(0, 0.01, 2))
        estimate = paired_ratio(head * starts[0] * (1 + slower), base * starts[1], session_cv=session_cv)
        verdict = verdict_of_ratio(estimate, rule.margin, session_cv=session_cv).verdict
        noisy = verdict is Verdict.PASS and under_twice_the_noise(rule.margin, estimate)
        said.append(Verdict.INCONCLUSIVE if noisy else verdict)
    return {verdict: said.count(verdict) / rows for verdict in Verdict}


def test_the_tables_repeats_find_what_the_suites_would_leave_open() -> None:
    """A TTFT that is 18 % longer is what a prefill that takes 20 % longer comes to; blocks that differ by 5 %."""
    suite = load_gate("prefill-sweep", profile="smoke").spec.repeats.count
    table = expectations.table().repeats
    assert set(table.values()) == {table["prefill-sweep"]}
    found, before = (shares(count, slower=0.18, noise_cv=0.05) for count in (table["prefill-sweep"], suite))
    assert found[Verdict.FAIL] > 0.8 > before[Verdict.FAIL] and found[Verdict.PASS] < 0.02
    healthy = shares(table["prefill-sweep"], slower=0.0, noise_cv=0.05)
    assert healthy[Verdict.PASS] > 0.95 and healthy[Verdict.FAIL] < 0.01
