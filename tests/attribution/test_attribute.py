"""``ds4bench attribute`` on real serves of the embedded engine: an op that is wrong on purpose is named, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration

GATE = """
name: small
title: A few greedy replies
purpose: the oracle gate in small, for tests
workload: oracle
seed: 5
request: {endpoint: completions, max_tokens: 4, temperature: 0.0, salt: true, deadline_s: 60}
matrix: {words: [20], concurrency: [2]}
options: {prompts: 2, top_logprobs: 8, again: false}
warmup: {requests_per_cell: 0}
repeats: {count: 1}
rules:
  - {name: agreement, kind: agreement, top1_at_least: 0.99, overlap_at_least: 0.95, error_at_most_nats: 0.02,
     least_compared: 0.1}
  - {name: failures, kind: zero_failures}
"""
TIMED = """
name: timed
title: Short prompts
purpose: a gate that judges times, in small
workload: long_context
seed: 5
request: {max_tokens: 4, ignore_eos: true, thinking: false, deadline_s: 120}
matrix: {prompt_tokens: [300], concurrency: [1]}
warmup: {requests_per_cell: 0}
repeats: {count: 2}
validity: {machine_drift: 0.9, max_foreign_cpu_share: 1.0, max_client_lag_share_ttft: 0.9, max_client_lag_share_gap: 0.9}
rules:
  - {name: ttft, kind: ratio, metric: ttft_s, margin: 1.0, session_cv: 0.02}
"""
SERVE = [f"--serve-arg={flag}" for flag in ("--backend=ops", "--weights=random", "--num-blocks=16", "--threads=1")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(GATE)
    (tmp_path / "timed.yaml").write_text(TIMED)
    return tmp_path


def attribute(
    folder: Path, *args: str, gate: str = "small.yaml", sabotage: str = "", serve: list[str] | None = None
) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON document, stderr)."""
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "DS4_KERNELS_SABOTAGE": sabotage}
    command = [sys.executable, "-m", "ds4bench.cli", "attribute", gate, "--json"]
    done = subprocess.run(
        [*command, *(SERVE if serve is None else serve), *args],
        cwd=folder, env=env, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def words(document: dict[str, Any]) -> dict[str, str]:
    return {row["op"]: row["verdict"] for row in document["ops"]}


def runs(folder: Path) -> list[Path]:
    return sorted((folder / ".ds4bench" / "runs").iterdir())


def forget_last_step(folder: Path) -> None:
    """As if the process had been killed between the run of the last step and its verdict."""
    (state,) = (folder / ".ds4bench" / "attributions").glob("*/attribution.json")
    document = json.loads(state.read_text())
    document["steps"][-1] |= {"done": False, "effect": None}
    state.write_text(json.dumps(document))


@pytest.mark.slow
def test_a_sabotaged_op_is_named_and_a_resume_repeats_nothing(folder: Path) -> None:
    code, document, err = attribute(folder, "--ops", "mhc_post,route", sabotage="mhc_post:1.4")
    assert (code, document["verdict"]) == (1, "FAIL"), err
    assert words(document) == {"mhc_post": "worse", "route": "no difference"}
    assert document["sentence"].startswith("mhc_post is worse alone on the bundle: top-1 agrees with engine-kernels")
    ran = runs(folder)
    manifests = [json.loads((run / "run.json").read_text()) for run in ran]
    kernels = [manifest["fingerprint"]["kernels"]["choice"] for manifest in manifests]
    assert kernels == ["engine", "ops=mhc_post,route", "ops=mhc_post", "ops=route"]
    faults = [manifest["fingerprint"]["faults"] for manifest in manifests]
    assert faults == [[], ["kernel:mhc_post:1.4"], ["kernel:mhc_post:1.4"], []]

    forget_last_step(folder)
    again = attribute(
        folder, "--ops", "mhc_post,route", "--resume", document["attribution"], sabotage="mhc_post:1.4"
    )  # fmt: skip
    assert (again[0], again[1]["sentence"]) == (1, document["sentence"])
    assert runs(folder) == ran  # every run was complete: none is repeated

    other = attribute(folder, "--ops", "mhc", "--resume", document["attribution"])
    assert other[0] == 2
    assert "begun with another ops" in other[2]


@pytest.mark.slow
def test_nothing_wrong_is_two_serves_and_no_blame(folder: Path) -> None:
    code, document, err = attribute(folder, "--ops", "mhc_post,route")
    assert (code, document["verdict"]) == (0, "PASS"), err
    assert document["sentence"].startswith("no difference: ")
    assert len(runs(folder)) == 2


@pytest.mark.slow
def test_the_fused_cpu_model_has_no_ops_to_switch(folder: Path) -> None:
    code, document, _ = attribute(folder, serve=["--serve-arg=--weights=random", "--serve-arg=--num-blocks=16"])
    assert (code, document["verdict"]) == (3, "INVALID")
    assert "--serve-arg=--backend=ops" in document["sentence"]


def test_a_dry_run_says_what_it_would_cost_and_starts_nothing(folder: Path) -> None:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT)}
    command = [sys.executable, "-m", "ds4bench.cli", "attribute", "small.yaml", "--dry-run", "--ops", "mhc,moe"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert "mhc (6), moe (3)" in done.stdout
    assert "2 serves if nothing differs" in done.stdout
    assert not (folder / ".ds4bench").exists()


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--ops", "mhc,nonsense"], "no op or group named 'nonsense'"),
        (["--resume", "x"], "no attribution 'x'"),
        (["--target", "vllm"], "needs --model"),
    ],
)
def test_bad_input_is_one_line(folder: Path, args: list[str], why: str) -> None:
    code, _, err = attribute(folder, *args, serve=[])
    assert (code, err.count("\n")) == (2, 1), err
    assert why in err


def test_a_selection_of_the_shell_is_refused_before_the_baseline_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS4_KERNELS_OPS", "moe")
    code, _, err = attribute(folder)
    assert (code, err.count("\n")) == (2, 1), err
    assert "DS4_KERNELS_OPS is set in this shell" in err
    assert not (folder / ".ds4bench").exists()


@pytest.mark.slow
def test_one_op_of_the_whole_table_is_named(folder: Path) -> None:
    code, document, err = attribute(folder, sabotage="fp8_einsum:1.7")
    assert (code, document["verdict"]) == (1, "FAIL"), err
    assert {op for op, verdict in words(document).items() if verdict != "no difference"} == {"fp8_einsum"}


@pytest.mark.slow
def test_two_ops_that_are_wrong_are_both_named(folder: Path) -> None:
    code, document, err = attribute(folder, "--ops", "mhc,moe,norm", sabotage="mhc_post:1.4,rms_norm:1.5")
    assert code == 1, err
    assert {op for op, verdict in words(document).items() if verdict == "worse"} == {"mhc_post", "rms_norm"}


@pytest.mark.slow
def test_a_machine_that_slows_down_gets_a_new_baseline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU probe is scripted: from the second serve on the machine is half as fast. All else is real."""
    from ds4bench.attribution.op_table import switchable
    from ds4bench.attribution.runner import AttributionRunner, new_state
    from ds4bench.attribution.search import Effect
    from ds4bench.report.progress import SilentProgress
    from ds4bench.run_session import TargetOptions, prepare
    from ds4bench.spec.load import load_gate
    from ds4bench.store import cpu_probe

    monkeypatch.chdir(folder)
    monkeypatch.setenv("DS4BENCH_HOME", str(ROOT))
    target = TargetOptions("embedded", serve_args=tuple(flag.removeprefix("--serve-arg=") for flag in SERVE))
    gate = load_gate("timed.yaml", profile=None, overrides=("validity.machine_drift=0.3",), repeats=None)
    prepared = prepare(gate, None)
    state = new_state(prepared, Effect.WORSE, {"ops": "mhc_post"}, switchable("embedded", "mhc_post"))
    monkeypatch.setattr(cpu_probe, "cpu_probe_ms", lambda: 20.0 if state.steps else 10.0)
    import asyncio

    found = asyncio.run(AttributionRunner(prepared, target, state, SilentProgress()).run())
    assert len(state.baselines) == 2
    assert state.steps[0].baseline_run == state.baselines[1].run
    assert state.steps[0].earlier == []  # the step was judged again, not measured again
    assert found.whole in (Effect.SAME, Effect.UNSURE, Effect.BETTER, Effect.WORSE)
