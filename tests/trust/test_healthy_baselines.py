"""Broken serves are compared with a healthy run only if that run was a measurement."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ds4bench import env
from ds4bench.core import CheckResult, CheckStatus, Fingerprint, GateVerdict, RunData, Verdict
from ds4bench.run_session import Outcome
from ds4bench.spec.suite import load_suite
from ds4bench.trust import healthy_baselines, matrix
from ds4bench.trust.expectations import Row
from ds4bench.trust.matrix import MatrixRun
from tests.records import batch_row, run_manifest

ROW = Row(name="r", proxy=["other-model"], expected={"prefix-cache": ["model_identity"]})


@dataclass
class Serves:
    """Serves that were started, and what each next healthy run is like."""

    fit: list[bool]
    started: int = 0
    measured: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def start(self, *_: Any) -> AsyncIterator[None]:
        self.started += 1
        yield None

    async def measure(self, prepared: Any, *_: Any, role: str, **__: Any) -> RunData:
        self.measured.append(role)
        gate = prepared.gate
        cells = [cell.id for cell in gate.spec.matrix.cells()]
        batches = [batch_row(cell, repeat=k) for k in range(gate.spec.repeats.count) for cell in cells]
        prints = Fingerprint(engine="e", engine_version="1", model="m", local=False)
        return RunData(manifest=run_manifest(gate, fingerprint=prints), requests=[], batches=batches)

    def judged(self, gate: Any, run: RunData, baseline: Any) -> Outcome:
        good = baseline is not None or self.fit.pop(0)
        status = CheckStatus.OK if good else CheckStatus.FAILED
        check = CheckResult(name="machine_quiet", status=status, detail="others used 1.5 of 2 cores")
        word = Verdict.PASS if good else Verdict.INVALID
        return Outcome(run, baseline, GateVerdict(verdict=word, sentence="s", checks=[check], rules=[]))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(env.STATE_DIR, str(tmp_path / "state"))
    return tmp_path / "faults.json"


async def seen(path: Path, monkeypatch: pytest.MonkeyPatch, serves: Serves) -> Any:
    for module in (healthy_baselines, matrix):
        monkeypatch.setattr(module, "started", serves.start)
        monkeypatch.setattr(module, "measure", serves.measure)
        monkeypatch.setattr(module, "judged", serves.judged)
    run = MatrixRun([ROW], [], load_suite("smoke"), path, say=lambda _: None)
    await run.run()
    return run.matrix.cells["r"]["prefix-cache"]


async def test_a_healthy_run_that_is_no_measurement_is_measured_once_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves = Serves(fit=[False, True])
    found = await seen(path, monkeypatch, serves)
    assert found.verdict == "PASS"
    assert serves.measured == ["baseline", "baseline", "candidate"] and serves.started == 3


async def test_without_a_healthy_run_that_is_one_the_gate_is_an_error_with_the_reason(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves = Serves(fit=[False, False])
    found = await seen(path, monkeypatch, serves)
    assert found.verdict == "ERROR" and "machine_quiet: others used 1.5 of 2 cores" in found.sentence
    assert serves.measured == ["baseline", "baseline"] and found.gate and found.commit


async def test_a_stored_run_that_is_not_fit_any_more_is_measured_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seen(path, monkeypatch, Serves(fit=[True]))
    path.unlink()
    kept = next((path.parent / "state" / "trust").glob("baselines.json")).read_text()
    assert "prefix-cache" in kept
    folder = path.parent / "state" / "runs" / "r1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    whole = await Serves([]).measure(MatrixRun([ROW], [], load_suite("smoke"), path)._gate("prefix-cache"), role="x")
    monkeypatch.setattr(healthy_baselines.runs, "load_run", lambda run_id: whole)
    again = Serves(fit=[False, True])
    assert (await seen(path, monkeypatch, again)).verdict == "PASS"
    assert again.measured == ["baseline", "candidate"]
