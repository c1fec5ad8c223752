"""What is left to run, fresh and after an interruption."""

from __future__ import annotations

from ds4bench.core import Cell, RunData
from ds4bench.gate_runner import plan
from tests.records import batch_row, request_row, run_manifest

CELLS = [Cell("a", 1, {}), Cell("b", 2, {})]


def shown(done: RunData | None) -> list[tuple[str, int, str, int]]:
    return [(k.cell.id, k.repeat, k.phase, k.attempt) for k in plan(CELLS, 2, done)]


def run(batches: list[tuple[str, int, str, int]], loose: list[tuple[str, int, str, int]]) -> RunData:
    return RunData(
        manifest=run_manifest(),
        batches=[batch_row(c, repeat=r, phase=p, attempt=a) for c, r, p, a in batches],
        requests=[request_row(c, repeat=r, phase=p, attempt=a) for c, r, p, a in [*batches, *loose]],
    )


def test_repeats_are_the_outer_loop_and_each_cell_is_warmed_up_once() -> None:
    assert shown(None) == [
        ("a", 0, "warmup", 0),
        ("a", 0, "measure", 0),
        ("b", 0, "warmup", 0),
        ("b", 0, "measure", 0),
        ("a", 1, "measure", 0),
        ("b", 1, "measure", 0),
    ]


def test_a_resumed_run_repeats_nothing_that_finished_and_redoes_a_torn_batch_as_the_next_attempt() -> None:
    done = run(
        [("a", 0, "warmup", 0), ("a", 0, "measure", 0), ("b", 0, "warmup", 0)],
        loose=[("b", 0, "measure", 0)],  # one request of the batch had finished when the run was killed
    )
    assert shown(done) == [
        ("b", 0, "warmup", 1),
        ("b", 0, "measure", 1),
        ("a", 0, "warmup", 1),
        ("a", 1, "measure", 0),
        ("b", 1, "measure", 0),
    ]


def test_a_complete_run_has_nothing_left() -> None:
    done = run([(c, r, "measure", 0) for c in "ab" for r in (0, 1)], loose=[])
    assert shown(done) == []
