"""Shares cover every row once and are even; what they found is put together; lanes are cores of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ds4bench.errors import SpecError, StoreError
from ds4bench.spec.suite import load_suite
from ds4bench.trust import expectations, grading, lanes, merging, real_runs
from ds4bench.trust.grading import Matrix, Seen
from ds4bench.trust.matrix import gates_of
from ds4bench.trust.real_runs import RealRun, RealRuns
from ds4bench.trust.shards import Shard


def seen(verdict: str) -> Seen:
    return Seen(verdict=verdict, reasons=[], sentence="", run="r", seconds=1.0, measurement="h")


def run_of(run_id: str, verdict: str = "PASS", *, change: str = real_runs.UNCHANGED) -> RealRun:
    return RealRun(
        id=run_id, suite="smoke", change=change, verdict=verdict, exit_code=0, sentence="s", seconds=60.0, machine="m",
        commit="abc", gates={},
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5, 32, 100])
def test_every_row_is_in_one_share(count: int) -> None:
    rows, suite = expectations.load(), [entry.gate for entry in load_suite("smoke").gates]
    shares = [Shard(index, count).of_rows(rows, lambda row: gates_of(row, suite, suite)) for index in range(count)]
    names = [row.name for share in shares for row in share]
    assert sorted(names) == sorted(row.name for row in rows)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= max(2, len(rows) // count)


def test_a_share_of_few_rows_has_one_route_because_its_rows_share_baselines() -> None:
    rows, suite = expectations.load(), [entry.gate for entry in load_suite("smoke").gates]
    shares = [Shard(index, 32).of_rows(rows, lambda row: gates_of(row, suite, suite)) for index in range(32)]
    assert max(map(len, shares)) == 2
    assert all(len({row.route for row in share}) == 1 for share in shares)


def test_counts_of_shares_add_up() -> None:
    assert [Shard(index, 3).of_count(20) for index in range(3)] == [7, 7, 6]
    assert [Shard(index, 3).of_count(2) for index in range(3)] == [1, 1, 0]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "/"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--shard"):
        Shard.parse(text)


def test_shares_are_put_together_and_the_later_one_counts(tmp_path: Path) -> None:
    rows = expectations.load()
    one, two, out = tmp_path / "1", tmp_path / "2", tmp_path / "out"
    grading.save(Matrix(machine="a", cells={"hang": {"needle": seen("INVALID")}}), one / "faults.json")
    cells = {"healthy": {"needle": seen("PASS")}, "hang": {"needle": seen("FAIL"), "mt-bench": seen("PASS")}}
    grading.save(Matrix(machine="b", cells=cells), two / "faults.json")
    real_runs.save(RealRuns(kind="aa", runs=[run_of("x"), run_of("y")]), one / "aa-runs.json")
    real_runs.save(RealRuns(kind="aa", runs=[run_of("y"), run_of("z", "INCONCLUSIVE")]), two / "aa-runs.json")
    written = merging.merge([one, two], out, rows, lambda gate: "now")
    assert [path.name for path in written] == ["faults.json", "aa-runs.json"]
    found = grading.load(out / "faults.json")
    assert list(found.cells) == ["healthy", "hang"]  # in the order of the table
    assert {gate: cell.verdict for gate, cell in found.cells["hang"].items()} == {"needle": "FAIL", "mt-bench": "PASS"}
    assert [run.id for run in real_runs.load(out / "aa-runs.json", "aa").runs] == ["x", "y", "z"]
    assert "| **the promotion** | 2 | 1 |" in (out / "aa-runs.md").read_text()
    assert "| healthy |" in (out / "faults.md").read_text()
    with pytest.raises(StoreError, match="nothing to merge"):
        merging.merge([tmp_path / "none"], out, rows, lambda gate: "now")


def test_lanes_have_cpus_of_their_own_and_a_share_each(tmp_path: Path) -> None:
    usable = os.sched_getaffinity(0)
    made = lanes.make_lanes(tmp_path, cores=1, most=None)
    assert len(made) == len(usable)
    assert sorted(cpu for lane in made for cpu in lane.cpus) == sorted(usable)
    assert len({lane.folder for lane in made}) == len(made)
    command = made[0].command(["matrix", "--quick"])
    assert command[command.index("--shard") + 1] == f"1/{len(made)}"
    assert len(lanes.make_lanes(tmp_path, cores=1, most=1)) == 1
    with pytest.raises(SpecError, match="CPUs may be used"):
        lanes.make_lanes(tmp_path, cores=len(usable) + 1, most=None)
