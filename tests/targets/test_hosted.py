"""The hosted API through the whole tool, against a stand-in that speaks its dialect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds4bench.targets.pacing import MOST_REFUSALS
from tests.targets.hosted_stand_in import FOR_GOOD, KEY

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration

GATE = """
name: hosted
title: Short chats
purpose: a gate that costs little
workload: long_context
seed: 5
request: {max_tokens: 4, thinking: false, deadline_s: 30}
matrix: {prompt_tokens: [2000], concurrency: [1, 2]}
warmup: {requests_per_cell: 1}
repeats: {count: 2}
validity: {max_client_lag_share_ttft: 1.0, max_client_lag_share_gap: 1.0}
rules:
  - {name: failures, kind: zero_failures}
"""
SUITE = """
name: paid
title: Two gates of an API that costs
gates: [hosted.yaml, again.yaml]
"""
COMPARING = """  - {name: ttft, kind: ratio, metric: ttft_s, margin: 0.9, session_cv: 0.02}
"""
SMALLEST = 1 + 1
"""Requests before the first batch: the one that shows that the API answers, and at least one to count tokens."""

BEFORE_THE_FIRST_BATCH = 1 + 2 + 1
"""The one that shows that the API answers, two to count tokens, the warm-up of the first cell."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port_file = tmp_path_factory.mktemp("hosted") / "port"
    process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("hosted_stand_in.py")), str(port_file)])
    deadline = time.monotonic() + 30
    while not (port_file.exists() and port_file.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    url = f"http://127.0.0.1:{port_file.read_text()}"
    while True:
        try:
            httpx.get(f"{url}/log")
            break
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def command(api: str, tmp_path: Path) -> Run:
    """Runs any command in a folder with two gates and a suite of them; the API begins anew before it."""
    (tmp_path / "hosted.yaml").write_text(GATE)
    (tmp_path / "again.yaml").write_text(GATE.replace("name: hosted", "name: again"))
    (tmp_path / "paid.yaml").write_text(SUITE)

    def call(*args: str, key: str | None = KEY, **state: Any) -> subprocess.CompletedProcess[str]:
        httpx.post(f"{api}/control", json=state)
        env = {k: v for k, v in os.environ.items() if k != "DEEPSEEK_API_KEY"} | {"DS4BENCH_HOME": str(ROOT)}
        if key is not None:
            env["DEEPSEEK_API_KEY"] = key
        words = [sys.executable, "-m", "ds4bench.cli", *args]
        return subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)

    return call


@pytest.fixture
def run(command: Run, api: str) -> Run:
    """Runs the gate."""
    return partial(command, "gate", "hosted.yaml", "--target", "hosted-deepseek", "--url", api)


def log(api: str) -> list[dict[str, Any]]:
    found = httpx.get(f"{api}/log").json()
    assert isinstance(found, list)
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    [run] = (folder / ".ds4bench" / "runs").iterdir()
    return [json.loads(line) for line in (run / "requests.jsonl").read_text().splitlines()]


def test_a_run_speaks_the_apis_dialect_and_no_artifact_holds_the_key(run: Run, api: str, tmp_path: Path) -> None:
    out = run("--json")
    document = json.loads(out.stdout)
    failed = [check for check in document["verdict"]["checks"] if check["status"] == "failed"]
    # A busy test machine starves the client, which then may read a whole reply at once: no time per token is possible.
    assert {check["name"] for check in failed} <= {"client_not_starved", "possible_values"}, failed
    assert out.returncode == (3 if failed else 0), out.stderr
    assert document["fingerprint"]["engine"] == "hosted-deepseek"
    assert document["fingerprint"]["model_revision"] == "fp_stand_in"
    assert document["fingerprint"]["flags"]["rerouted_to"] == "deepseek-v4.1-flash"
    checks = {check["name"]: check["status"] for check in document["verdict"]["checks"]}
    assert (checks["model_identity"], checks["all_requests_ok"]) == ("ok", "ok")
    streamed = [entry["body"] for entry in log(api) if entry["body"].get("stream")]
    assert streamed
    assert all(body["thinking"] == {"type": "disabled"} for body in streamed)
    assert not any("chat_template_kwargs" in body or "cache_salt" in body for body in streamed)
    measured = [row["result"] for row in rows(tmp_path)]
    assert all(result["comments"] >= 1 for result in measured)  # keep-alive comments are no tokens
    assert all(result["cached_tokens"] == 0 for result in measured)
    assert not any(result["reasoning"] for result in measured)  # the switch was heard; its default is to think
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in everything + (out.stdout + out.stderr).encode()


def checks(out: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(out.stdout)["verdict"]["checks"]}


def test_a_rate_limit_is_waited_out_by_new_requests_that_are_reported(run: Run, api: str, tmp_path: Path) -> None:
    out = run("--json", refuse=4, refuse_from=BEFORE_THE_FIRST_BATCH)
    assert out.returncode in (0, 3), out.stderr  # INVALID only where a busy machine starves the client
    refused = [row for row in rows(tmp_path) if row["phase"] == "refused"]
    assert len(refused) == 4
    assert all(row["result"]["error"] == "http_429" and row["result"]["retry_after_s"] == 0.05 for row in refused)
    check = checks(out)["all_requests_ok"]
    assert check["status"] == "ok"
    assert "4 were refused for their rate" in check["detail"]


@pytest.mark.parametrize(
    "answered", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_rate_limit_is_waited_out_at_the_start_and_while_prompts_are_counted(
    run: Run, api: str, tmp_path: Path, answered: int
) -> None:
    out = run("--json", refuse=4, refuse_from=answered)
    assert out.returncode in (0, 3), out.stderr
    assert checks(out)["all_requests_ok"]["status"] == "ok"
    entries = log(api)
    assert [entry["status"] for entry in entries[: answered + 5]] == [200] * answered + [429] * 4 + [200]
    assert not any(entry["body"].get("stream") for entry in entries[: answered + 5])
    assert {row["phase"] for row in rows(tmp_path)} == {"warmup", "measure"}


@pytest.mark.parametrize("answered", [pytest.param(1, marks=pytest.mark.slow), BEFORE_THE_FIRST_BATCH])
def test_a_rate_limit_that_never_lifts_ends_the_run_which_can_go_on_later(
    run: Run, api: str, tmp_path: Path, answered: int
) -> None:
    never = {"refuse": FOR_GOOD, "retry_after": "0.01"}
    out = run("--json", **never, refuse_from=answered)
    assert out.returncode == 3, out.stderr
    document = json.loads(out.stdout)
    assert "the API refuses for its rate limit (HTTP 429" in document["verdict"]["sentence"]
    assert "everything is kept, go on later with --resume" in document["verdict"]["sentence"]
    assert sum(entry["status"] == 429 for entry in log(api)) <= 2 * (MOST_REFUSALS + 1)  # two in flight at most
    again = run("--json", "--resume", document["run"])
    assert again.returncode in (0, 3), again.stderr
    assert checks(again)["all_requests_ok"]["status"] == "ok"


def test_a_rate_limit_that_never_lifts_at_the_start_is_one_line_and_exit_code_2(run: Run, api: str) -> None:
    out = run(refuse=FOR_GOOD, refuse_from=0, retry_after="0.01")
    assert out.returncode == 2, out.stdout + out.stderr
    assert "HTTP 429: the rate limit is reached before the run began" in out.stderr.strip().splitlines()[-1]
    assert len(log(api)) == MOST_REFUSALS + 1


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"key_ends_after": 1}, "the key was refused (HTTP 401); check the environment variable"),
        ({"no_balance_after": 2}, "the account has no balance left (HTTP 402"),
    ],
)
def test_a_key_or_balance_that_ends_while_prompts_are_counted_is_one_line_and_exit_code_2(
    run: Run, state: dict[str, Any], words: str
) -> None:
    out = run(**state)
    assert out.returncode == 2, out.stdout + out.stderr
    assert words in out.stderr.strip().splitlines()[-1]
    assert "/tokenize" not in out.stderr


def test_a_suite_whose_key_ends_is_not_a_suite_of_skipped_gates(api: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "paid.yaml").write_text("name: paid\ntitle: One gate\ngates: [hosted.yaml]\n")
    httpx.post(f"{api}/control", json={"no_balance_after": 1})
    out = subprocess.run(
        [sys.executable, "-m", "ds4bench.cli", "promote", "--suite", "paid.yaml", "--target", "hosted-deepseek",
         "--url", api, "--baseline", "none", "--json"],
        cwd=tmp_path, env={**os.environ, "DS4BENCH_HOME": str(ROOT), "DEEPSEEK_API_KEY": KEY}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert out.returncode == 2, out.stdout + out.stderr
    assert "no balance left (HTTP 402" in out.stderr.strip().splitlines()[-1]
    [suite] = (tmp_path / ".ds4bench" / "suites").glob("*/suite.json")
    [gate] = json.loads(suite.read_text())["gates"]
    assert (gate["skipped"], gate["done"]) == (None, False)


def test_a_balance_that_ends_in_the_middle_ends_the_run_invalid(run: Run, tmp_path: Path) -> None:
    out = run("--json", no_balance_after=8)
    assert out.returncode == 3, out.stderr
    assert "402" in json.loads(out.stdout)["verdict"]["sentence"]
    assert any(row["result"]["ok"] for row in rows(tmp_path))


@pytest.mark.parametrize(
    ("key", "state", "words"),
    [
        (None, {}, "export DEEPSEEK_API_KEY"),
        ("sk-wrong-0123456789", {}, "401: the key in DEEPSEEK_API_KEY is refused"),
        (KEY, {"no_balance_after": 0}, "402: the account has no balance"),
        (KEY, {"served": "deepseek-v4.1-flash"}, "it says that deepseek-v4.1-flash answered"),
    ],
)
def test_what_cannot_begin_is_one_line_and_exit_code_2(
    run: Run, key: str | None, state: dict[str, Any], words: str
) -> None:
    out = run(key=key, **state)
    assert out.returncode == 2, out.stdout + out.stderr
    line = out.stderr.strip().splitlines()[-1]
    assert line.startswith("ds4bench: ")
    assert words in line
    assert key is None or key not in out.stderr


def test_no_more_requests_are_sent_than_allowed(run: Run, api: str, tmp_path: Path) -> None:
    out = run("--json", "--max-requests", "9")
    assert out.returncode == 3, out.stderr
    assert "--max-requests 9 is reached" in json.loads(out.stdout)["verdict"]["sentence"]
    assert len(log(api)) <= 9


def test_no_request_is_sent_that_could_pass_the_cost_limit(run: Run, api: str, tmp_path: Path) -> None:
    prices = "currency: EUR\nchecked: '2026-11-21'\nsource: a test\nmodels:\n"
    (tmp_path / "prices.yaml").write_text(
        prices + "  deepseek-v4-flash: {cache_hit: 1.0, cache_miss: 1000.0, output: 1000.0}\n"
    )
    out = run("--json", "--max-cost", "3", "--prices", "prices.yaml")
    assert out.returncode in (2, 3), out.stderr
    assert "--max-cost 3 could be passed" in out.stdout + out.stderr
    sent = [entry["body"] for entry in log(api)]
    assert 0 < sum(len(body["messages"][0]["content"]) / 4 for body in sent) * 1000 / 1e6 <= 3


def test_a_dry_run_shows_requests_and_cost_and_sends_nothing(run: Run, api: str) -> None:
    out = run("--dry-run", key=None)
    assert out.returncode == 0, out.stderr
    assert "total: at least 8 requests" in out.stdout
    assert '"type": "disabled"' in out.stdout
    assert "cost: at most about" in out.stdout
    assert log(api) == []


def test_a_model_without_a_price_cannot_have_a_cost_limit(run: Run) -> None:
    out = run("--model", "deepseek-v9", "--max-cost", "1")
    assert out.returncode == 2
    assert "no price for deepseek-v9" in out.stderr


def newest_suite(folder: Path) -> dict[str, Any]:
    [path] = (folder / ".ds4bench" / "suites").glob("*/suite.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_the_budget_is_of_the_whole_suite_and_what_is_spent_stays_spent(command: Run, api: str, tmp_path: Path) -> None:
    promote = partial(command, "promote", "--json")
    whole = ["--suite", "paid.yaml", "--target", "hosted-deepseek", "--url", api, "--baseline", "none"]
    out = promote(*whole, "--max-requests", "14")
    assert out.returncode == 3, out.stderr
    first, second = json.loads(out.stdout)["gates"]
    assert first["verdict"] in ("PASS", "INVALID"), first  # INVALID where a busy machine starves the client
    assert "--max-requests" not in first["sentence"]
    assert second["verdict"] == "INVALID"
    assert "--max-requests 14 is reached (14 requests sent" in second["sentence"]
    assert len(log(api)) == 14
    suite = newest_suite(tmp_path)
    assert suite["spending"]["requests"] == 14

    out = promote("--resume", suite["run_id"])
    assert log(api) == []  # the limit still stands, and what was sent before counts
    assert "--max-requests 14 is reached" in json.loads(out.stdout)["gates"][1]["sentence"]

    out = promote("--resume", suite["run_id"], "--max-requests", "60")
    gates = json.loads(out.stdout)["gates"]
    assert [gate["run"] for gate in gates] == [first["run"], second["run"]]
    assert "--max-requests" not in gates[1]["sentence"]
    assert 0 < len(log(api)) <= 60 - 14
    assert newest_suite(tmp_path)["spending"]["requests"] == 14 + len(log(api))


def test_a_suite_whose_budget_ends_before_a_gate_says_so(command: Run, api: str) -> None:
    target = ["--target", "hosted-deepseek", "--url", api, "--baseline", "none"]
    prices = ["--max-cost", "0.0000001"]
    out = command("promote", "--suite", "paid.yaml", *target, *prices, "--json")
    assert out.returncode == 4, out.stderr
    document = json.loads(out.stdout)
    assert "hosted was not run: --max-cost 1e-07 could be passed by the next request" in document["sentence"]
    assert log(api) == []


def test_a_baseline_that_is_measured_first_counts_in_the_budget(run: Run, api: str, tmp_path: Path) -> None:
    (tmp_path / "hosted.yaml").write_text(GATE + COMPARING)
    out = run("--json", "--baseline", "here", "--max-requests", "13")
    assert out.returncode in (3, 4), out.stderr
    assert len(log(api)) <= 13


def test_calibrate_has_one_budget_for_all_its_runs(command: Run, api: str, tmp_path: Path) -> None:
    (tmp_path / "hosted.yaml").write_text(GATE + COMPARING)
    out = command(
        "calibrate", "hosted.yaml", "--target", "hosted-deepseek", "--url", api, "--runs", "3", "--max-requests", "6"
    )
    assert out.returncode == 2, out.stdout
    assert "--max-requests 6 is reached" in out.stderr
    assert len(log(api)) == 6


def test_a_flag_for_a_launched_serve_is_refused(run: Run, api: str) -> None:
    out = run("--serve-arg=--enable-prefix-caching")
    assert out.returncode == 2
    assert "--serve-arg belongs to a target that ds4bench launches, not to --target hosted-deepseek" in out.stderr
    assert log(api) == []
