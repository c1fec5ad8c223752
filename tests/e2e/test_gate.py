"""The whole path on the embedded engine: every verdict, from real requests to a real serve.

A small gate of its own keeps it quick: 540-token prompts at c = 1 and 2. Its margin is wide (60 %), because these tests run
on whatever machine is busy with other tests; the promoted profiles' margins are what `ds4bench gate` is for.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration

GATE = """
name: small
title: Small cold prompts
purpose: the long-context gate in small, for tests
workload: long_context
seed: 5
request: {max_tokens: 24, ignore_eos: true, thinking: false, deadline_s: 60}
matrix: {prompt_tokens: [540], concurrency: [1, 2]}
warmup: {requests_per_cell: 1}
repeats: {count: 3}
validity: {machine_drift: 0.9, max_foreign_cpu_share: 1.0, max_client_lag_share_ttft: 0.9, max_client_lag_share_gap: 0.9}
rules:
  - {name: ttft, kind: ratio, metric: ttft_s, margin: 0.6, per_cell_margin: 2.0, session_cv: 0.02}
  - {name: failures, kind: zero_failures}
  - {name: recall, kind: recall, threshold: 0.9}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the gate and, after the first test, a baseline of this machine."""
    folder = tmp_path_factory.mktemp("e2e")
    (folder / "small.yaml").write_text(GATE)
    return folder


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "OPENAI_API_KEY": "sk-secret-in-the-environment"}
    command = [sys.executable, "-m", "ds4bench.cli", "gate", "small.yaml", *args]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def gate(folder: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON document, stderr)."""
    process = start(folder, "--json", *args)
    out, err = process.communicate(timeout=240)
    return process.returncode, json.loads(out) if out else {}, err


def newest_run(folder: Path) -> Path:
    return max((folder / ".ds4bench" / "runs").iterdir(), key=lambda p: p.stat().st_ctime)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Any, process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.05)


def measured(folder: Path) -> int:
    """Complete measured batches of the newest run."""
    runs = folder / ".ds4bench" / "runs"
    if not runs.is_dir() or not any(runs.iterdir()):
        return 0
    return sum(b["phase"] == "measure" for b in lines(newest_run(folder) / "batches.jsonl"))


@pytest.fixture(scope="module")
def baselined(folder: Path) -> Path:
    """The folder after a first run, which measured this machine's baseline and then compared with it."""
    code, document, err = gate(folder, "--baseline", "here")
    # On a machine with other work the noise may be larger than even this margin; the gate must then say so, not FAIL.
    assert (code, document["verdict"]["verdict"]) in {(0, "PASS"), (4, "INCONCLUSIVE")}, err
    return folder


def test_a_first_run_measures_a_baseline_and_ends_in_a_real_comparison(baselined: Path) -> None:
    assert len(list((baselined / ".ds4bench" / "baselines" / "here").glob("*.json"))) == 1
    runs = sorted((baselined / ".ds4bench" / "runs").iterdir())
    roles = [json.loads((run / "run.json").read_text())["target"]["role"] for run in runs[:2]]
    assert roles == ["baseline", "candidate"]
    verdict = json.loads((runs[1] / "verdict.json").read_text())
    overall = [rule for rule in verdict["rules"] if rule["rule"] == "ttft" and rule["cell"] is None]
    assert overall[0]["estimate"]["baseline_repeats"] == 3
    recall = [rule for rule in verdict["rules"] if rule["rule"] == "recall"]
    assert recall[0]["verdict"] == "PASS"  # the trained weights find the codes


def test_every_request_was_cold_exact_and_kept(baselined: Path) -> None:
    rows = lines(sorted((baselined / ".ds4bench" / "runs").iterdir())[1] / "requests.jsonl")
    measured_rows = [row for row in rows if row["phase"] == "measure"]
    assert len(measured_rows) == 9
    for row in measured_rows:
        result = row["result"]
        assert abs(result["prompt_tokens"] - 540) <= 1  # some lengths no sentence of the filler can fill to the token
        assert (result["completion_tokens"], result["cached_tokens"]) == (24, 0)
        assert 0 < result["ttft_s"] <= result["e2e_s"]
    assert len({row["expect"]["salt"] for row in rows}) == len(rows)


def test_no_secret_of_the_environment_reaches_an_artifact(baselined: Path) -> None:
    files = [path for path in (baselined / ".ds4bench").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not [path for path in files if b"sk-secret-in-the-environment" in path.read_bytes()]


def test_prompts_without_salt_make_the_run_invalid_and_name_the_cached_tokens(baselined: Path) -> None:
    code, document, _ = gate(baselined, "--set", "request.salt=false", "--baseline", "here")
    assert (code, document["verdict"]["verdict"]) == (3, "INVALID")
    assert "512 of 540 tokens cached" in document["verdict"]["sentence"]


def test_a_slowed_serve_fails(baselined: Path) -> None:
    code, document, _ = gate(baselined, "--baseline", "here", "--serve-arg=--prefill-delay-share=2.0")
    assert (code, document["verdict"]["verdict"]) == (1, "FAIL")
    assert "slower than here" in document["verdict"]["sentence"]
    assert document["fingerprint"]["faults"] == ["slow-prefill:200%"]


def test_a_killed_serve_makes_the_run_invalid_keeps_the_data_and_resume_completes_it(baselined: Path) -> None:
    before = newest_run(baselined)
    process = start(baselined, "--baseline", "here", "--json")
    wait_for(lambda: newest_run(baselined) != before and measured(baselined) >= 2, process, "second batch")
    run = newest_run(baselined)
    os.kill(child_of(process.pid), signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    verdict = json.loads(out)["verdict"]
    assert (process.returncode, verdict["verdict"]) == (3, "INVALID")
    assert "server died" in verdict["sentence"]
    assert "SIGKILL" in verdict["sentence"]
    kept = lines(run / "batches.jsonl")
    assert len(kept) >= 2

    code, document, err = gate(baselined, "--baseline", "here", "--resume", run.name)
    assert code in (0, 4), err
    assert document["run"] == run.name
    after = lines(run / "batches.jsonl")
    assert after[: len(kept)] == kept
    done = [(b["cell"], b["repeat"]) for b in after if b["phase"] == "measure"]
    assert sorted(done) == sorted({(c, r) for c in ("p540-c1", "p540-c2") for r in range(3)})


def test_ctrl_c_keeps_what_was_measured_and_says_how_to_resume(baselined: Path) -> None:
    before = newest_run(baselined)
    process = start(baselined, "--baseline", "here")
    wait_for(lambda: newest_run(baselined) != before and measured(baselined) >= 1, process, "batch")
    run = newest_run(baselined)
    serve = child_of(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {run.name}" in err
    assert "Traceback" not in err
    assert measured(baselined) >= 1
    assert not Path(f"/proc/{serve}").exists()


def test_a_killed_client_loses_at_most_the_requests_in_flight(baselined: Path) -> None:
    before = newest_run(baselined)
    process = start(baselined, "--baseline", "here")
    wait_for(lambda: newest_run(baselined) != before and measured(baselined) >= 2, process, "second batch")
    run = newest_run(baselined)
    process.kill()
    process.communicate()
    kept = lines(run / "batches.jsonl")
    code, _, err = gate(baselined, "--baseline", "here", "--resume", run.name)
    assert code in (0, 4), err
    assert lines(run / "batches.jsonl")[: len(kept)] == kept


def test_a_resume_on_another_serve_is_refused(baselined: Path) -> None:
    run = newest_run(baselined)
    batches = (run / "batches.jsonl").read_bytes().splitlines(keepends=True)
    (run / "batches.jsonl").write_bytes(b"".join(batches[:-1]))
    code, _, err = gate(baselined, "--baseline", "here", "--resume", run.name, "--serve-arg=--num-blocks=99")
    assert code == 2
    assert "cannot resume on another serve" in err


def child_of(pid: int) -> int:
    """The process that ``pid`` launched."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


@pytest.fixture(scope="module")
def attached(serve: str) -> Iterator[str]:
    yield serve


def test_attach_works_against_a_serve_started_by_hand(baselined: Path, attached: str) -> None:
    code, document, err = gate(baselined, "--target", "attach", "--url", attached, "--repeats", "2")
    assert (code, document["verdict"]["verdict"]) == (4, "INCONCLUSIVE"), err
    assert "no baseline" in document["verdict"]["sentence"]
    assert document["fingerprint"]["model"] == "ds4-nano"
    assert [cell["requests"] for cell in document["cells"]] == [2, 4]
