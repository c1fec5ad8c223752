"""What of a gate is asked of one of two serves at a time, and what of both at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from ds4bench.commands.ci import CiOptions, _side
from ds4bench.commands.promote import Reports
from ds4bench.core import RunData, Verdict
from ds4bench.errors import WorkloadError
from ds4bench.paired_gate import GatePair, together
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Prepared
from ds4bench.spec.load import load_gate
from ds4bench.store import runs
from ds4bench.verdicts.extension import extended
from ds4bench.worktree import Tree
from tests.verdicts.conftest import World, plain_ttft


class Recorded:
    """Stands for a recording: notes when each of its blocks begins and ends."""

    def __init__(self, gate: str, name: str, told: list[tuple[str, str]]) -> None:
        self.gate, self.name, self.told = load_gate(gate, profile="smoke"), name, told

    async def run(self, repeats: int) -> None:
        self.told.append(("begins", self.name))
        await asyncio.sleep(0)
        self.told.append(("ends", f"{self.name} at {repeats}"))

    def load(self) -> Any:
        return SimpleNamespace(died=None)


async def blocks(gate: str, *, at_once: bool) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    serve: Any = None
    pair = GatePair(Prepared(load_gate(gate, profile="smoke"), None), serve, serve, "abc123", SilentProgress(), at_once)
    sides: Any = [Recorded(gate, name, told) for name in ("base", "head")]
    await pair.blocks(sides, 0, 2)
    return told


@pytest.mark.parametrize("gate", ["gsm8k", "oracle", "prefix-cache"])
async def test_where_no_times_are_judged_both_serves_answer_at_once(gate: str) -> None:
    told = await blocks(gate, at_once=True)
    assert [word for word, _ in told] == ["begins", "begins", "ends", "ends"]
    assert {who for word, who in told if word == "ends"} == {"base at 2", "head at 2"}


@pytest.mark.parametrize(("gate", "at_once"), [("long-context", True), ("mt-bench", True), ("gsm8k", False)])
async def test_timed_gates_and_serves_that_share_cores_are_measured_in_turns(gate: str, at_once: bool) -> None:
    told = await blocks(gate, at_once=at_once)
    assert [word for word, _ in told] == ["begins", "ends"] * 4
    assert [who for word, who in told if word == "begins"] == ["base", "head", "head", "base"]


class Played:
    """Stands for the recording of a side whose whole run is known: measures as many repeats of it as it is asked for."""

    def __init__(self, whole: RunData) -> None:
        self.whole, self.done = whole, 0

    async def run(self, repeats: int) -> None:
        self.done = max(self.done, repeats)

    def load(self) -> RunData:
        batches = [batch for batch in self.whole.batches if batch.repeat < self.done]
        return msgspec.structs.replace(self.whole, batches=batches)

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(("later", "verdict"), [(1.3, Verdict.FAIL), (1.0, Verdict.PASS)])
async def test_a_pair_that_is_extended_gets_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: float, verdict: Verdict
) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    world = World()
    gate = world.gate("repeats.extend_to=16", repeats=4)
    factors = [1.1 * later, 0.9 * later, later, 0.95 * later] + [later] * 12  # the first four leave it open

    def head_ttft(cell: str, repeat: int, index: int) -> float:
        return plain_ttft(cell, repeat, index) * factors[repeat]

    played = {}
    for role, ttft in (("baseline", plain_ttft), ("candidate", head_ttft)):
        run = world.run(extended(gate), ttft=ttft, manifest={"run_id": role})
        played[role] = Played(run)
        runs.RunWriter.create(run.manifest).close()
    monkeypatch.setattr("ds4bench.paired_gate.Recording", lambda *_, role, **__: played[role])
    serve: Any = None
    found = await GatePair(Prepared(gate, None), serve, serve, "abc123", SilentProgress()).measure()
    assert played["candidate"].done == 16
    assert found.unfit is None
    assert found.verdict.verdict is verdict, found.verdict.sentence


async def test_what_one_side_raises_cancels_the_other_before_it_is_told() -> None:
    gone = asyncio.Event()

    async def refuses() -> None:
        await asyncio.sleep(0)
        raise WorkloadError("no such endpoint")

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    with pytest.raises(WorkloadError, match="no such endpoint"):
        await together(refuses(), waits())
    assert gone.is_set()


async def test_an_interruption_ends_both_sides() -> None:
    gone: list[int] = []

    async def waits(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gone.append(number)

    task = asyncio.create_task(together(waits(1), waits(2)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(gone) == [1, 2]


def serve_args(*given: str) -> tuple[str, ...]:
    options = CiOptions("HEAD~1", None, (), "smoke", None, (), (), given, None, False, Reports())
    return _side(Tree(Path(), "abc123"), options, None).target.serve_args


def test_each_serve_has_half_of_the_cores_unless_the_user_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4bench.paired_gate.hardware_fingerprint", lambda: {"cores": 8})
    assert serve_args("--weights=random") == ("--threads=4", "--weights=random")
    assert serve_args("--threads=8") == ("--threads=8",)
    monkeypatch.setattr("ds4bench.paired_gate.hardware_fingerprint", lambda: {"cores": 1})
    assert serve_args() == ("--threads=1",)
