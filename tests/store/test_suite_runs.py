"""A suite's state on disk, and calibrated noise that stays with its baseline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ds4bench.core import CheckResult, CheckStatus, Noise, RunData
from ds4bench.errors import StoreError
from ds4bench.store import baselines, suite_runs
from ds4bench.store.suite_runs import SuiteGate, SuiteRun

NOISE = Noise(
    sessions=5,
    repeats=4,
    repeat_cv=0.01,
    session_cv=0.004,
    session_cv_upper=0.006,
    confidence=0.8,
    created="",
    runs=["a"],
)


@pytest.fixture
def run(state: Path, manifest: Any, request_row: Any, batch_row: Any) -> Callable[..., RunData]:
    def make(run_id: str = "20261101-000000-small-smoke-aaaa", **changes: Any) -> RunData:
        rows = [request_row(repeat) for repeat in range(3)]
        made = msgspec.structs.replace(manifest(run_id), **changes)
        return RunData(manifest=made, requests=rows, batches=[batch_row(repeat) for repeat in range(3)])

    return make


def test_a_suites_state_comes_back(state: Path) -> None:
    gates = [SuiteGate(gate="random", profile="smoke", run="r1", done=True), SuiteGate(gate="soak", profile="smoke")]
    kept = SuiteRun(
        schema=suite_runs.SCHEMA, run_id="s1", suite="smoke", baseline="here", asked={"target": "x"}, gates=gates
    )
    suite_runs.save(kept)
    assert suite_runs.load("s1") == kept
    with pytest.raises(StoreError, match=r"no suite run 's2'.*the newest: s1"):
        suite_runs.load("s2")
    (state / "suites" / "s1" / "suite.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        suite_runs.load("s1")


def test_noise_makes_the_run_this_machines_baseline_and_stays_when_the_baseline_is_measured_again(run: Any) -> None:
    baselines.store_noise(run(), {"ttft": NOISE})
    found = baselines.list_baselines()
    assert [(b.name, b.run_id[-4:], b.noise) for b in found] == [("here", "aaaa", {"ttft": NOISE})]
    baselines.save_here(run("20261102-000000-small-smoke-bbbb"))
    (again,) = baselines.list_baselines()
    assert (again.run_id[-4:], again.noise) == ("bbbb", {"ttft": NOISE})
    baselines.store_noise(run(), {"tpot": NOISE})
    (kept,) = baselines.list_baselines()
    assert (kept.run_id[-4:], set(kept.noise)) == ("bbbb", {"ttft", "tpot"})


def test_noise_of_another_machine_or_measurement_is_not_kept_with_a_baseline(run: Any, verdict: Any) -> None:
    good = run()
    baselines.promote(msgspec.structs.replace(good, verdict=verdict()), "box")
    baselines.store_noise(good, {"ttft": NOISE}, name="box")
    assert baselines.load_baseline("box").noise == {"ttft": NOISE}
    elsewhere = msgspec.structs.replace(good.manifest.fingerprint, hardware={"cpu": "other", "cores": 8})
    for changed in ({"fingerprint": elsewhere}, {"measurement_hash": "f" * 16}):
        with pytest.raises(StoreError, match="another measurement, model or machine"):
            baselines.store_noise(run(**changed), {"ttft": NOISE}, name="box")
        other = msgspec.structs.replace(run(**changed), verdict=verdict())
        baselines.promote(other, "box")
        assert baselines.load_baseline("box").noise == {}
        baselines.promote(msgspec.structs.replace(good, verdict=verdict()), "box")
        baselines.store_noise(good, {"ttft": NOISE}, name="box")
    with pytest.raises(StoreError, match="no baseline 'nobody'"):
        baselines.store_noise(good, {"ttft": NOISE}, name="nobody")


def test_a_run_with_an_unverified_check_is_promoted_only_with_a_reason(run: Any, verdict: Any) -> None:
    def with_check(name: str) -> RunData:
        check = CheckResult(name=name, status=CheckStatus.UNVERIFIED, detail="no cached_tokens in usage")
        return msgspec.structs.replace(run(), verdict=msgspec.structs.replace(verdict(), checks=[check]))

    with pytest.raises(StoreError, match=r"cold_verified is not verified .*--force"):
        baselines.promote(with_check("cold_verified"), "box")
    baselines.promote(with_check("cold_verified"), "box", force_reason="an engine without usage details")
    assert baselines.load_baseline("box").note == "forced: an engine without usage details"
    baselines.promote(with_check("comparable"), "box2")
    for reason in ("", "  "):
        with pytest.raises(StoreError, match="--force needs a reason"):
            baselines.promote(with_check("cold_verified"), "box3", force_reason=reason)
    with pytest.raises(StoreError, match=r"no \.json"):
        baselines.promote(with_check("comparable"), "box.json")


def test_a_suites_state_holds_no_key(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4BENCH_API_KEY", "sk-verysecretkey")
    asked: dict[str, object] = {"data": {"needle": "/tmp/sk-verysecretkey/x"}}
    suite_runs.save(
        SuiteRun(schema=suite_runs.SCHEMA, run_id="s3", suite="smoke", baseline="here", asked=asked, gates=[])
    )
    assert "verysecret" not in (state / "suites" / "s3" / "suite.json").read_text()
    assert suite_runs.load("s3").asked == {"data": {"needle": "/tmp/***/x"}}


def test_what_the_gate_allows_to_stay_unverified_needs_no_reason(run: Any, verdict: Any) -> None:
    check = CheckResult(name="cold_verified", status=CheckStatus.UNVERIFIED, detail="no cached_tokens in usage")
    good: RunData = msgspec.structs.replace(run(), verdict=msgspec.structs.replace(verdict(), checks=[check]))

    def of_gate(allowed: bool) -> RunData:
        gate = {"spec": {"validity": {"allow_unverified_cold": allowed}}}
        return msgspec.structs.replace(good, manifest=msgspec.structs.replace(good.manifest, effective_gate=gate))

    baselines.promote(of_gate(True), "box")
    assert baselines.load_baseline("box").note is None
    with pytest.raises(StoreError, match=r"cold_verified is not verified .*--force"):
        baselines.promote(of_gate(False), "box2")
