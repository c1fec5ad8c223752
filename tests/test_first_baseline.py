"""The first run of a gate on a machine: baseline and candidate on two serves of one build, in turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ds4bench.core import Answer, BatchRow, Cell, RequestResult, RunData, Verdict
from ds4bench.errors import SpecError
from ds4bench.first_baseline import measure_both, refuse_faults, room_for_two
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Outcome, Prepared, RunInterruptedError, Started, TargetOptions
from ds4bench.store import baselines, runs
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.base import Endpoint
from ds4bench.targets.dialect import dialect_of
from tests.verdicts.conftest import FINGERPRINT, World, plain_ttft

WORLD = World()
RUN_IDS = ("first-base", "first-head")
SERVE: Any = None


@dataclass
class Played:
    """Stands for the recording of a side whose whole run is known: gives as many repeats of it as it is asked for."""

    whole: RunData
    progress: Any
    done: int = 0
    interrupted_at: int | None = None

    async def run(self, repeats: int) -> None:
        if repeats == self.interrupted_at:
            raise RunInterruptedError(self.whole.manifest.run_id)
        self.done = max(self.done, repeats)
        self.progress.batch_done(next(batch for batch in self.whole.batches if batch.repeat == repeats - 1))

    def load(self) -> RunData:
        batches = [batch for batch in self.whole.batches if batch.repeat < self.done]
        return msgspec.structs.replace(self.whole, batches=batches)

    def __enter__(self) -> Played:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@dataclass
class Told(SilentProgress):
    """Keeps what a person would see."""

    cells: list[str] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)
    finished: bool = False

    def start(self, cells: Any, repeats: int) -> None:
        self.cells = [cell.id for cell in cells]

    def batch_done(self, row: BatchRow) -> None:
        self.batches.append(row.cell)

    def finish(self) -> None:
        self.finished = True


async def both(
    monkeypatch: pytest.MonkeyPatch, *, base: dict[str, Any], head: dict[str, Any],
    progress: SilentProgress | None = None, interrupted_at: int | None = None,
) -> Outcome:  # fmt: skip
    """What is made of two runs that are healthy but for ``base`` and ``head``."""
    gate, played = WORLD.gate(), {}

    def recording(_: Any, __: Any, told: Any, *, run_id: str, role: str) -> Played:
        changes, stop = (base, None) if role == "baseline" else (head, interrupted_at)
        run = WORLD.run(gate, manifest={"run_id": run_id, "target": {"name": "embedded", "role": role}}, **changes)
        with runs.RunWriter.create(run.manifest) as writer:
            for row in run.requests:
                writer.append_request(row)
            for batch in run.batches:
                writer.append_batch(batch)
        played[role] = Played(run, told, interrupted_at=stop)
        return played[role]

    monkeypatch.setattr("ds4bench.paired_gate.Recording", recording)
    return await measure_both(Prepared(gate, None), SERVE, SERVE, progress or SilentProgress(), RUN_IDS)


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))


def kept() -> str | None:
    gate = WORLD.gate()
    found = baselines.lookup_here(gate.spec.name, gate.profile, gate.measurement_hash, FINGERPRINT)
    return None if found is None else found.run_id


async def test_an_unchanged_build_passes_and_its_base_run_becomes_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    outcome = await both(monkeypatch, base={}, head={}, progress=told)
    assert outcome.verdict.verdict is Verdict.PASS, outcome.verdict.sentence
    assert outcome.run.manifest.run_id == "first-head"
    assert outcome.baseline is not None and outcome.baseline.interleaved_with == "first-head"
    assert kept() == "first-base"
    stored = baselines.list_baselines()[0]
    assert stored.interleaved_with is None  # of a later run it is an ordinary baseline
    assert told.finished and {cell.split()[0] for cell in told.cells} == {"baseline", "candidate"}
    assert [cell.split()[0] for cell in told.batches] == [
        "baseline", "candidate", "candidate", "baseline", "baseline", "candidate",
    ]  # fmt: skip
    assert set(told.batches) <= set(told.cells)


async def test_a_machine_that_slows_down_for_both_decides_nothing_against_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def drifting(cell: str, repeat: int, index: int) -> float:
        return plain_ttft(cell, repeat, index) * (1.0, 1.3, 1.6)[repeat]

    probes = {"batch": {"probe_ms": 80.0}}
    outcome = await both(monkeypatch, base={"ttft": drifting}, head={"ttft": drifting, **probes})
    assert outcome.verdict.verdict is Verdict.PASS, outcome.verdict.sentence


async def test_a_slower_second_serve_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def slower(cell: str, repeat: int, index: int) -> float:
        return 1.4 * plain_ttft(cell, repeat, index)

    outcome = await both(monkeypatch, base={}, head={"ttft": slower})
    assert outcome.verdict.verdict is Verdict.FAIL


async def test_a_base_run_that_is_no_measurement_is_the_outcome_and_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warm = {"result": {"cached_tokens": 512}}
    outcome = await both(monkeypatch, base=warm, head={})
    assert (outcome.verdict.verdict, outcome.run.manifest.run_id) == (Verdict.INVALID, "first-base")
    assert kept() is None


async def test_a_build_is_not_excused_for_what_its_own_other_serve_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"row": {"answer": Answer(scores={"recall": 0.2})}, "fingerprint": {"weights": "trained"}}
    outcome = await both(monkeypatch, base=lost, head=lost)
    rules = {rule.rule: rule for rule in outcome.verdict.rules if rule.cell is None}
    assert rules["recall"].verdict is Verdict.FAIL
    assert outcome.verdict.verdict is Verdict.FAIL
    assert "fails it too" not in rules["recall"].sentence


async def test_an_interruption_names_the_run_that_can_go_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    with pytest.raises(RunInterruptedError) as stop:
        await both(monkeypatch, base={}, head={}, progress=told, interrupted_at=2)
    assert stop.value.run_id == "first-base"
    assert told.finished
    assert kept() is None


@pytest.mark.parametrize(
    ("target", "memory", "room"),
    [
        (TargetOptions("embedded"), 16.0, True),
        (TargetOptions("embedded", serve_args=("--weights=random", "--threads=1")), 16.0, True),
        (TargetOptions("embedded"), 4.0, False),
        (TargetOptions("embedded"), None, False),
        (TargetOptions("embedded", serve_args=("--device=cuda",)), 16.0, False),
        (TargetOptions("embedded", serve_args=("--device", "cuda")), 16.0, False),
        (TargetOptions("embedded", serve_args=("--port=8000",)), 16.0, False),
        (TargetOptions("attach", "http://127.0.0.1:8000"), 16.0, False),
        (TargetOptions("vllm", model="m"), 16.0, False),
    ],
)
def test_a_second_serve_is_launched_only_where_it_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, target: TargetOptions, memory: float | None, room: bool
) -> None:
    monkeypatch.setattr("ds4bench.first_baseline.ram_gib", lambda: memory)
    assert room_for_two(target) is room


def test_a_serve_that_is_wrong_on_purpose_becomes_no_baseline() -> None:
    def serve(*faults: str) -> Started:
        told = msgspec.structs.replace(FINGERPRINT, faults=list(faults))
        endpoint = Endpoint("http://127.0.0.1:9", "m", dialect_of("ds4bench-embedded"), told)
        return Started(AttachTarget("http://127.0.0.1:9"), endpoint, {})

    refuse_faults(serve(), TargetOptions("embedded"))
    with pytest.raises(SpecError, match=r"injected faults \(drop-sink\).*without its --serve-arg first"):
        refuse_faults(serve("drop-sink"), TargetOptions("embedded", serve_args=("--fault=drop-sink",)))
    with pytest.raises(SpecError, match="on the serve as it should be first"):
        refuse_faults(serve("drop-sink"), TargetOptions("attach", "http://127.0.0.1:9"))


def test_cells_and_requests_of_both_sides_reach_one_display() -> None:
    from ds4bench.report.pair_progress import SideProgress

    seen: list[tuple[str, object]] = []

    class Shown(SilentProgress):
        def phase(self, text: str) -> None:
            seen.append(("phase", text))

        def note(self, text: str) -> None:
            seen.append(("note", text))

        def batch_started(self, cell: Cell, repeat: int, phase: Any, requests: int) -> None:
            seen.append(("begun", (cell.id, cell.concurrency, repeat, phase, requests)))

        def first_token(self, cell: Cell, index: int, ttft_s: float) -> None:
            seen.append(("token", (cell.id, index, ttft_s)))

        def request_done(self, cell: Cell, index: int, result: RequestResult) -> None:
            seen.append(("done", (cell.id, index, result.ok)))

        def start(self, *_: object) -> None:
            raise AssertionError("the plan is told once, by who knows both sides")

        def finish(self) -> None:
            raise AssertionError("one block of one side ends nothing")

    side, cell = SideProgress(Shown(), "candidate"), Cell("p1-c2", 2, {})
    side.start([cell], 3)
    side.phase("preparing")
    side.phase("preparing")  # of the next block
    side.note("extended")
    side.batch_started(cell, 1, "measure", 4)
    side.first_token(cell, 3, 0.5)
    side.request_done(cell, 3, RequestResult(ok=True))
    side.finish()
    assert seen == [
        ("phase", "candidate: preparing"),
        ("note", "candidate: extended"),
        ("begun", ("candidate p1-c2", 2, 1, "measure", 4)),
        ("token", ("candidate p1-c2", 3, 0.5)),
        ("done", ("candidate p1-c2", 3, True)),
    ]
