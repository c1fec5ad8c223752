"""Promotions and commit checks of known builds: what is kept, what counts, and the edit that makes prefill slower."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import msgspec
import pytest

from ds4bench.errors import SpecError, StoreError
from ds4bench.trust import real_runs, real_tables, scratch_clone
from ds4bench.trust.real_runs import UNCHANGED, RealRun, RealRuns, SaidGate, Series, load, save, this_commit

ROOT = Path(__file__).resolve().parents[2]
SLOWER = "prefill 20% slower"


def run_of(verdict: str, change: str = UNCHANGED, gate: str = "PASS") -> RealRun:
    return RealRun(
        id=f"{change}-{verdict}", suite="smoke", change=change, verdict=verdict, exit_code=0, sentence="s",
        seconds=90.0, machine="EPYC, 2 cores", commit=this_commit(), gates={"needle": SaidGate(verdict=gate, sentence="s")},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("run", "broken"),
    [
        (run_of("PASS"), False),
        (run_of("INCONCLUSIVE"), False),
        (run_of("INVALID"), False),
        (run_of("FAIL"), True),
        (run_of("ERROR"), True),
        (run_of("FAIL", SLOWER), False),
        (run_of("INCONCLUSIVE", SLOWER), True),
        (run_of("PASS", SLOWER), True),
    ],
)
def test_an_unchanged_build_must_not_fail_and_a_slower_one_must(run: RealRun, broken: bool) -> None:
    assert bool(real_tables.broken_promises(RealRuns(kind="ci", runs=[run]))) is broken


def test_the_table_counts_verdicts_by_change_and_gate() -> None:
    runs = [run_of("PASS"), run_of("INCONCLUSIVE", gate="INCONCLUSIVE"), run_of("FAIL", SLOWER, "SKIPPED")]
    text = real_tables.table(RealRuns(kind="ci", runs=runs))
    assert "unchanged: 2 runs" in text and f"{SLOWER}: 1 runs" in text
    assert "| **the promotion** | 1 | 1 |" in text
    assert "| needle |  |  |  |  | SKIPPED 1 |" in text
    assert "1.5 min in the median" in text


def test_runs_that_are_there_count_and_those_of_other_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "aa-runs.json"
    save(RealRuns(kind="aa", runs=[run_of("PASS")]), path)
    assert len(Series("aa", 1, path).run().runs) == 1  # nothing is left to run
    other = msgspec.structs.replace(run_of("PASS"), commit="another")
    save(RealRuns(kind="aa", runs=[other]), path)
    with pytest.raises(StoreError, match="another --results"):
        Series("aa", 1, path).run()
    with pytest.raises(StoreError, match="holds aa runs"):
        load(path, "ci")


def test_each_run_of_an_unchanged_build_is_the_next_ones_baseline_where_it_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"needle": "PASS", "random": "INVALID", "mt-bench": "INCONCLUSIVE", "soak": None}
    lines = [
        {"gate": gate, "verdict": verdict, "sentence": "s", "seconds": 1.0, "run": f"run-of-{gate}"}
        for gate, verdict in said.items()
    ]
    document = {"verdict": "INCONCLUSIVE", "sentence": "s", "gates": lines}
    kept: list[tuple[str, Path]] = []
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(real_runs, "_ds4bench", lambda *_, **__: real_runs._Done(4, document, ""))
    monkeypatch.setattr(real_runs.runs, "load_run", lambda folder: folder)
    monkeypatch.setattr(real_runs.baselines, "save_here", lambda run, state: kept.append((run, state)))
    done = Series("aa", 1, tmp_path / "aa-runs.json").run()
    state = tmp_path / "trust" / f"aa-smoke-{this_commit()}"
    assert kept == [(str(state / "runs" / f"run-of-{gate}"), state) for gate in ("needle", "mt-bench")]
    assert done.runs[0].gates["needle"].run == "run-of-needle"


def test_the_edit_fits_the_engine_as_it_is_now() -> None:
    source = (ROOT / scratch_clone.RUNNER).read_text()
    slower = scratch_clone.slowed_source(source, 0.2)
    ast.parse(slower)
    assert "* 0.2)" in slower and slower != source
    with pytest.raises(SpecError, match="cannot make prefill slower"):
        scratch_clone.slowed_source("another engine", 0.2)


@pytest.mark.parametrize("history", [True, False])
def test_the_second_commit_is_the_edit_and_nothing_else_and_the_clone_goes_away(tmp_path: Path, history: bool) -> None:
    repository = tmp_path / "repository"
    runner = repository / scratch_clone.RUNNER
    runner.parent.mkdir(parents=True)
    runner.write_text((ROOT / scratch_clone.RUNNER).read_text())
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    if history:
        for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
            subprocess.run(["git", "-C", str(repository), *command], check=True)
    for share, files in ((0.0, ""), (0.2, str(scratch_clone.RUNNER))):
        with scratch_clone.scratch_clone(repository, share) as clone:
            changed = ["git", "-C", str(clone), "diff", "--name-only", "HEAD~1", "HEAD"]
            assert subprocess.run(changed, capture_output=True, text=True, check=True).stdout.strip() == files
        assert not clone.exists()
