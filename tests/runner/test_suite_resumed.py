"""A suite goes on, whatever had become of its gates: refused, killed before the first byte, ended with their serve."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ds4bench.core import Fingerprint, Verdict
from ds4bench.errors import StoreError
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Started, TargetOptions
from ds4bench.spec.suite import SuiteEntry, SuiteSpec
from ds4bench.store import suite_runs
from ds4bench.store.suite_runs import SuiteGate, SuiteRun
from ds4bench.suite_runner import SuiteRunner, lines_of, make_jobs, reopen
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.base import Endpoint
from ds4bench.targets.dialect import dialect_of

SUITE = SuiteSpec(name="mine", title="One gate of completions", profile="smoke", gates=[SuiteEntry(gate="gsm8k")])


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))


def suite_run(*gates: SuiteGate, died: str | None = None) -> SuiteRun:
    return SuiteRun(
        schema=suite_runs.SCHEMA, run_id="s1", suite="mine", baseline="none", asked={}, gates=list(gates), died=died
    )


@contextlib.asynccontextmanager
async def without_completions(*_: Any) -> AsyncIterator[Started]:
    """Stands for a started serve that has no /v1/completions."""
    endpoint = Endpoint(
        "http://127.0.0.1:9", "m", dialect_of("hosted-deepseek"), Fingerprint(engine="hosted-deepseek", model="m")
    )
    yield Started(AttachTarget("http://127.0.0.1:9"), endpoint, {})


async def test_a_suite_with_a_refused_gate_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4bench.suite_runner.started", without_completions)
    state = suite_run()
    jobs = make_jobs(SUITE, {})
    state.gates = [job.record for job in jobs]
    await SuiteRunner(jobs, TargetOptions("attach", "http://127.0.0.1:9"), "none", state, SilentProgress()).run()

    kept = suite_runs.load("s1")
    kept.died = "the serve was lost in a later gate"
    assert kept.gates[0].refused and kept.gates[0].run
    reopen(kept)
    again = make_jobs(SUITE, {}, kept.gates)
    assert again[0].record.done
    [line] = lines_of(again)
    assert line.verdict is Verdict.INCONCLUSIVE
    assert "gate gsm8k sends /v1/completions" in line.sentence


async def test_a_gate_that_was_killed_before_its_folder_was_made_is_begun_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ds4bench.suite_runner.started", without_completions)
    state = suite_run(SuiteGate(gate="gsm8k", profile="smoke", run="r1"), died="gone")
    reopen(state)
    jobs = make_jobs(SUITE, {}, state.gates)
    await SuiteRunner(jobs, TargetOptions("attach", "http://127.0.0.1:9"), "none", state, SilentProgress()).run()
    assert "which hosted-deepseek does not have" in (jobs[0].record.refused or "")


def test_a_measured_gate_whose_folder_is_gone_is_said_before_the_suite_goes_on() -> None:
    with pytest.raises(StoreError, match=r"no run in .*r1"):
        reopen(suite_run(SuiteGate(gate="gsm8k", profile="smoke", run="r1", done=True)))
