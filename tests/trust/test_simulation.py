"""Simulated promotions: repeatable, in the right direction, and a promise that is broken is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ds4bench.errors import StoreError
from ds4bench.stats.simulate import Source
from ds4bench.trust import simulation, tables, timings
from ds4bench.trust.__main__ import main
from ds4bench.trust.sessions import NormalSessions, SeenSessions
from ds4bench.trust.timings import Timings


def stored(noise: float = 0.02, kind: str = "ratio", **more: object) -> Timings:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(0, noise, (12, 1)) + rng.normal(0, noise, (12, 4)))
    fields = {
        "schema": 1, "gate": "long-context", "profile": "smoke", "rule": "ttft", "kind": kind, "metric": "ttft_s",
        "margin": 0.1, "cell_margin": 0.2, "session_cv": 0.015, "repeats": 4, "extend_to": None, "runs": ["r"],
        "machine": "m", "spread": None, "neighbours": None, "columns": ["a", "a", "b", "b"], "values": values.tolist(),
    }  # fmt: skip
    return Timings(**(fields | more))  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_tables_and_another_seed_others() -> None:
    tables_of = [simulation.aa_table([stored()], promotions=60, seed=seed) for seed in (1, 1, 2)]
    assert tables_of[0] == tables_of[1]
    one, other = (simulation.sequential_table(promotions=20, seed=seed) for seed in (1, 2))
    assert one != other


def test_an_unchanged_build_hardly_ever_fails_and_a_slower_one_does() -> None:
    timed = stored()
    source = Source.of_run(timed.values)
    same, slow = (
        simulation.simulate_gate(timed, source, slowdown=by, sessions=NormalSessions(0.015), promotions=200)
        for by in (0, 0.3)
    )
    assert same.failed <= 0.03 and same.passed > 0.5
    assert slow.failed > 0.95


def test_sessions_that_differ_with_the_machine_fail_nobody_and_others_do() -> None:
    timed = stored(0.01)
    source, levels = Source.of_run(timed.values), [0.0, 0.3]

    def failed(*probes: list[float]) -> float:
        sessions = SeenSessions(levels, probes, drift=0.08)
        return simulation.simulate_gate(timed, source, sessions=sessions, promotions=100).failed

    assert failed([10.0] * 4, [13.0] * 4) == 0
    assert failed([13.0] * 4, [10.0] * 4) == 0
    assert failed([9.0, 14.0, 9.0, 14.0], [14.0, 9.0, 14.0, 9.0]) == 0  # equal by chance
    assert 0.3 < failed([10.0] * 4, [10.5] * 4) < 0.7


def test_a_pair_is_of_two_sessions_and_every_one_may_come() -> None:
    pairs = SeenSessions([0.0, 1.0, 2.0], [[10.0], [10.0], [20.0]], drift=0.08).draw(300, np.random.default_rng(0))
    drawn = set(zip(pairs.ours, pairs.theirs, pairs.steady, strict=True))
    assert drawn == {(a, b, 2 not in (a, b)) for a in (0, 1, 2) for b in (0, 1, 2) if a != b}


def test_sessions_without_a_probe_for_each_are_refused() -> None:
    with pytest.raises(ValueError, match="3 sessions and CPU probes of 2"):
        SeenSessions([0.0, 0.1, 0.2], [[1.0], [1.0]], drift=0.08)


def test_stored_probes_make_a_row_of_their_own() -> None:
    timed = stored(spread=0.02, neighbours=0.02, runs=["a", "b"], levels=[0.0, 0.01], probes_ms=[[10.0], [10.1]])
    rows = simulation.aa_table([timed], promotions=20)
    assert [row["sessions"] for row in rows] == [
        "as assumed",
        "as seen in a row",
        "as seen over all",
        "as seen, with the CPU probe",
    ]
    assert rows[-1]["true_session_cv"] is None


def test_one_slow_cell_fails_the_gate() -> None:
    timed = stored(0.005)
    ours, theirs = np.array(timed.values[:4]), np.array(timed.values[4:8])
    ours[:, 2:] *= 1.5
    assert simulation._cell_fails(timed, ours, theirs, seed=0)
    assert not simulation._cell_fails(timed, theirs, np.array(timed.values[8:12]), seed=0)


def test_a_geometric_mean_does_not_pass_under_twice_its_noise() -> None:
    noisy = stored(0.08, kind="geomean_ratio")
    assert simulation.simulate_gate(
        noisy, Source.of_run(noisy.values), sessions=NormalSessions(0.0), promotions=50
    ).passed < 0.2  # fmt: skip


def test_a_loss_of_25_points_is_found_early_and_no_loss_seldom_fails() -> None:
    rows = {row["truth"]: row for row in simulation.accuracy_table(promotions=30) if row["questions"] == 1319}
    assert rows[0.25]["failed"] == 1 and rows[0.25]["median_questions"] <= 60
    assert rows[0.0]["failed"] <= 0.1 and rows[0.05]["failed"] > 0.9


def test_promises_that_are_broken_are_told() -> None:
    aa = [{"gate": "g", "rule": "ttft", "sessions": "as assumed", "failed": 0.05, "promotions": 1000}]
    power = [
        {"kind": "slowdown", "truth": 0.10, "noise_cv": 0.02, "repeats": 5, "failed": 0.5, "promotions": 1000},
        {"kind": "accuracy", "truth": 0.25, "median_questions": 80},
    ]
    assert len(tables.broken_promises(aa, power)) == 3
    assert len(tables.broken_promises([aa[0] | {"sessions": simulation.WITH_PROBE}], [])) == 1
    assert not tables.broken_promises([aa[0] | {"sessions": simulation.OVER_ALL}], [])
    assert tables.broken_promises([aa[0] | {"failed": 0.017}], []) == []  # 1.7 %: the chance of 1,000 draws
    (said,) = tables.broken_promises([aa[0] | {"failed": 0.018}], [])
    assert "1 % is promised (1.7% with the chance of 1,000 draws)" in said


def test_sessions_that_drift_differ_more_over_all_than_from_one_to_the_next() -> None:
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 0.02, 200))
    _, (over_all, successive) = timings._levels(np.exp(walk[:, None, None] + rng.normal(0, 0.01, (200, 4, 3))))
    assert over_all is not None and over_all > 0.05
    assert successive == pytest.approx(0.02 / np.sqrt(2), rel=0.15)
    steady = np.exp(rng.normal(0, 0.02, (200, 1, 1)) + rng.normal(0, 0.04, (200, 4, 1)))
    assert timings._levels(steady)[1] == pytest.approx((0.02, 0.02), rel=0.25)


def test_timings_survive_their_file(tmp_path: Path) -> None:
    [path] = timings.write([stored()], tmp_path)
    again = timings.read(path)
    assert np.asarray(again.values) == pytest.approx(np.asarray(stored().values), abs=1e-6)
    path.write_text("{")
    with pytest.raises(StoreError, match=path.name):
        timings.read(path)


def test_the_command_writes_tables_and_asks_for_timings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["simulate", "--promotions", "5", "--results", str(tmp_path)]
    assert main(arguments) == 2
    assert "keep RUN" in capsys.readouterr().err
    timings.write([stored()], tmp_path / "timings")
    assert main(arguments) in (0, 1)
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "aa.json", "power.json", "sequential.json", "simulation.md",
    ]  # fmt: skip
