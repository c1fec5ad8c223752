"""Suites, ci and calibrate on the embedded engine: real serves, real runs, small gates with wide margins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration

HEAD = """
purpose: the long-context gate in small, for tests
workload: long_context
seed: 5
request: {max_tokens: 4, ignore_eos: true, deadline_s: 60}
matrix: {prompt_tokens: [300], concurrency: [1, 2]}
warmup: {requests_per_cell: 1}
validity: {machine_drift: 0.9, max_foreign_cpu_share: 1.0, max_client_lag_share_ttft: 0.9, max_client_lag_share_gap: 0.9}
"""
COMPARING = """
name: small
title: Small cold prompts
repeats: {count: 3}
rules:
  - {name: ttft, kind: ratio, metric: ttft_s, margin: 0.9, session_cv: 0.02}
  - {name: failures, kind: zero_failures}
"""
ABSOLUTE = """
name: bounded
title: Small cold prompts with a limit
repeats: {count: 1}
rules:
  - {name: ttft, kind: limit, measure: ttft_max_s, at_most: LIMIT}
"""
SUITE = """
name: mine
title: Two small gates
gates:
  - bounded.yaml
  - small.yaml
"""


def fill(folder: Path) -> Path:
    """The gates and the suite in a folder."""
    (folder / "small.yaml").write_text(HEAD + COMPARING)
    (folder / "bounded.yaml").write_text(HEAD + ABSOLUTE.replace("LIMIT", "1e-6"))
    (folder / "mine.yaml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("suite"))


def start(folder: Path, *args: str, home: Path = ROOT) -> subprocess.Popen[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(home)}
    command = [sys.executable, "-m", "ds4bench.cli", *args]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON document, stderr)."""
    process = start(folder, *args, "--json")
    out, err = process.communicate(timeout=240)
    return process.returncode, json.loads(out) if out else {}, err


def promote(*args: str) -> list[str]:
    return ["promote", "--suite", "mine.yaml", "--serve-arg=--weights=random", *args]


def state_of(folder: Path) -> dict[str, Any]:
    """The newest suite run."""
    newest = max((folder / ".ds4bench" / "suites").iterdir(), key=lambda p: p.stat().st_ctime)
    document: dict[str, Any] = json.loads((newest / "suite.json").read_text())
    return document


def batches(folder: Path, run_id: str) -> list[dict[str, Any]]:
    path = folder / ".ds4bench" / "runs" / run_id / "batches.jsonl"
    return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []


def wait_for_gate(folder: Path, process: subprocess.Popen[str], place: int, before: str) -> dict[str, Any]:
    """The suite's state once its gate at ``place`` has measured a batch."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
        state = state_of(folder)
        begun = state["gates"][place]["run"] if state["run_id"] != before else None
        if begun is not None and any(row["phase"] == "measure" for row in batches(folder, begun)):
            return state


@pytest.fixture(scope="module")
def promoted(folder: Path) -> tuple[int, dict[str, Any]]:
    code, document, err = run(folder, *promote("--baseline", "here", "--junit", "j.xml", "--summary", "s.md"))
    assert document, err
    return code, document


def test_a_suite_goes_on_after_a_fail_and_ends_with_one_verdict(
    promoted: tuple[int, dict[str, Any]], folder: Path
) -> None:
    code, document = promoted
    verdicts = {gate["gate"]: gate["verdict"] for gate in document["gates"]}
    assert (code, document["verdict"], verdicts["bounded"]) == (1, "FAIL", "FAIL")
    assert verdicts["small"] in ("PASS", "INCONCLUSIVE")  # the machine may be busy with other tests
    assert document["sentence"].startswith("bounded: ttft_max_s is ")
    cases = [case.get("name") for case in ElementTree.parse(folder / "j.xml").iter("testcase")]
    assert cases == ["bounded.full", "small.full"]
    assert "| bounded | full | ❌ FAIL |" in (folder / "s.md").read_text()


def test_only_a_gate_that_compares_is_measured_twice_and_one_serve_carries_all(
    promoted: tuple[int, dict[str, Any]], folder: Path
) -> None:
    state = state_of(folder)
    assert [bool(gate["baseline_run"]) for gate in state["gates"]] == [False, True]
    suite = folder / ".ds4bench" / "suites" / state["run_id"]
    assert len(list(suite.glob("serve-*.log"))) == 2  # the baseline's and the candidates'
    second = json.loads((folder / ".ds4bench" / "runs" / state["gates"][1]["run"] / "run.json").read_text())
    assert second["detectable"][0].startswith(
        "ttft: with 3 repeats and the baseline's noise this gate can see a change of "
    )


def test_an_interrupted_suite_goes_on_where_it_stopped(promoted: tuple[int, dict[str, Any]], folder: Path) -> None:
    process = start(folder, *promote("--baseline", "here"))
    state = wait_for_gate(folder, process, 1, promoted[1]["suite_run"])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"ds4bench promote --resume {state['run_id']}" in err
    kept = batches(folder, state["gates"][1]["run"])
    code, document, err = run(folder, "promote", "--resume", state["run_id"])
    assert (code, document["verdict"]) == (1, "FAIL"), err
    assert [gate["run"] for gate in document["gates"]] == [gate["run"] for gate in state["gates"]]
    assert batches(folder, state["gates"][1]["run"])[: len(kept)] == kept
    assert len(list((folder / ".ds4bench" / "suites" / state["run_id"]).glob("serve-*.log"))) == 1


@pytest.mark.slow
def test_a_serve_that_dies_ends_the_suite_invalid(promoted: tuple[int, dict[str, Any]], folder: Path) -> None:
    before = state_of(folder)["run_id"]
    process = start(folder, *promote("--baseline", "here", "--json"))
    wait_for_gate(folder, process, 0, before)
    (serve,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(serve), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    document = json.loads(out)
    assert (process.returncode, document["verdict"]) == (3, "INVALID"), err
    assert "server died" in document["sentence"]


def test_an_open_comparison_is_extended_once_in_the_same_session(
    promoted: tuple[int, dict[str, Any]], folder: Path
) -> None:
    looks = ["--set", "repeats.count=2", "--set", "repeats.extend_to=3", "--set", "rules.ttft.margin=0.0001"]
    code, document, err = run(
        folder, "gate", "small.yaml", "--baseline", "here", "--serve-arg=--weights=random", *looks
    )
    assert code in (1, 4), err  # no margin at all: never a PASS
    rows = batches(folder, document["run"])
    extended = any(row["repeat"] == 2 for row in rows)
    estimate = document["verdict"]["rules"][0]["estimate"]
    assert estimate["candidate_repeats"] == (3 if extended else 2)
    assert extended or document["verdict"]["verdict"] == "FAIL"  # decided at the first look on a very noisy machine
    assert sum(row["phase"] == "warmup" for row in rows) == 2


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's files in two commits; in the second the prefill of the engine takes three times as long."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("ds4bench", "kernels", "prompts", "gates"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tests", "benchmarks"))
    fill(folder)
    (folder / ".gitignore").write_text("__pycache__/\n.ds4bench/\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "good")
    main = folder / "ds4bench" / "embedded" / "__main__.py"
    text = main.read_text()
    slow = text.replace("share = options.prefill_delay_share\n", "share = options.prefill_delay_share or 2.0\n")
    assert slow != text
    main.write_text(slow)
    git(folder, "commit", "-q", "-am", "slower prefill")
    return folder


def ci(folder: Path, base: str) -> tuple[int, dict[str, Any], str]:
    gate = ["--gate", "small.yaml", "--profile", "full", "--serve-arg=--weights=random"]
    return run(folder, "ci", "--base", base, *gate, "--set", "rules.ttft.margin=0.5", "--junit", "ci.xml")


def test_ci_blames_the_commit_that_made_prefill_slower(repository: Path) -> None:
    code, document, err = ci(repository, "HEAD~1")
    assert (code, document["verdict"]) == (1, "FAIL"), (document, err)
    assert document["base"] == git(repository, "rev-parse", "--short", "HEAD~1")
    estimate = document["gates"][0]["rules"][0]["estimate"]
    assert estimate["paired"] is True
    assert estimate["ratio"] > 1.5
    assert f"slower than {document['base']}" in document["gates"][0]["sentence"]
    assert ElementTree.parse(repository / "ci.xml").find(".//failure") is not None
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_ci_measures_base_and_head_in_turns(repository: Path) -> None:
    runs = sorted((repository / ".ds4bench" / "runs").iterdir())
    role = {json.loads((path / "run.json").read_text())["target"]["role"]: path for path in runs[:2]}
    ends = []
    for side in ("baseline", "candidate"):
        verdict = json.loads((role[side] / "verdict.json").read_text())
        assert verdict["verdict"] in ("FAIL", "INCONCLUSIVE")
        measured = [row for row in batches(repository, role[side].name) if row["phase"] == "measure"]
        ends.append([(row["cell"], row["repeat"]) for row in measured])
        assert sum(row["phase"] == "warmup" for row in batches(repository, role[side].name)) == 2
    assert ends[0] == ends[1] == [(f"p300-c{c}", repeat) for repeat in range(3) for c in (1, 2)]


@pytest.mark.slow
def test_ci_does_not_blame_an_unchanged_commit(repository: Path) -> None:
    code, document, err = ci(repository, "HEAD")
    assert (code, document["verdict"]) in {(0, "PASS"), (4, "INCONCLUSIVE")}, (document, err)


def test_ci_with_an_unknown_base_is_a_usage_error(repository: Path) -> None:
    code, _, err = ci(repository, "nowhere")
    assert code == 2
    assert "git rev-parse --verify" in err


@pytest.mark.slow
def test_calibrate_restarts_the_serve_measures_the_noise_and_keeps_it(folder: Path) -> None:
    arguments = ["small.yaml", "--runs", "3", "--set", "rules.ttft.margin=1.0", "--serve-arg=--weights=random"]
    code, document, err = run(folder, "calibrate", *arguments)
    assert code in (0, 2), err
    (rule,) = document["rules"]
    assert rule["noise"]["sessions"] == 3
    assert rule["noise"]["repeat_cv"] > 0
    assert "this gate can see a change of" in rule["sight"]
    kept = json.loads(Path(document["baseline"]).read_text())
    assert kept["noise"]["ttft"]["runs"] == rule["noise"]["runs"]
    logs = [folder / ".ds4bench" / "runs" / run_id / "serve.log" for run_id in rule["noise"]["runs"]]
    assert all(log.exists() for log in logs)
    code, _, err = run(folder, "calibrate", *arguments, *(f"--from={run_id}" for run_id in rule["noise"]["runs"][:2]))
    assert code == 2
    assert "2 sessions show no noise between them" in err


def test_calibrate_wants_runs_that_exist(folder: Path) -> None:
    code, _, err = run(folder, "calibrate", "long-context", "--profile", "smoke", "--from", "none-such")
    assert code == 2
    assert "no run in" in err
