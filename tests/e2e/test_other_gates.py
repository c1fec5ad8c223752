"""The gates prefix-cache, needle, soak, mixed-arrival, long-context-decode and oracle on the embedded engine, in small.

The healthy serve is the session's. A faulty one is started for its test as that one is, but for the fault, and attached to
like it: the options of a serve belong to a target that launches one, so `--target attach` refuses them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving import SMALL, launched

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.integration
QUIET = ("validity.machine_drift=1.0", "validity.max_foreign_cpu_share=1.0", "repeats.count=1")
LENIENT = (*QUIET, "validity.max_client_lag_share_ttft=0.9", "validity.max_client_lag_share_gap=1.0")


def gate(folder: Path, name: str, *args: str, sets: tuple[str, ...] = LENIENT) -> tuple[dict[str, Any], Path]:
    """(JSON document, run folder) of a gate's smoke profile."""
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "DS4BENCH_STATE_DIR": str(folder)}
    options = [word for text in sets for word in ("--set", text)]
    command = [sys.executable, "-m", "ds4bench.cli", "gate", name, "--profile", "smoke", "--json", *options, *args]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document, next(folder.rglob(document["run"]))


def attached(url: str) -> tuple[str, ...]:
    """Options for the tests' own serve, which has the trained weights and 16 blocks."""
    return "--target", "attach", "--url", url


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in document["verdict"]["checks"]}


def rules(document: dict[str, Any]) -> dict[str, str]:
    return {rule["rule"]: rule["verdict"] for rule in document["verdict"]["rules"] if rule.get("cell") is None}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


SHAPE = (*QUIET, "matrix.words=[800]", "matrix.arrangement=[solo]")


def test_a_sound_prefix_cache_reaches_its_ideal(tmp_path: Path, serve: str) -> None:
    sets = (*QUIET, "matrix.words=[100]", "matrix.arrangement=[pair, shared]")
    document, _ = gate(tmp_path, "prefix-cache", *attached(serve), sets=sets)
    found = statuses(document)
    assert {found["hits_reported"], found["hit_sources_agree"], found["no_accidental_hits"]} == {"ok"}
    assert rules(document) == {
        "hit_rate": "INCONCLUSIVE", "of_ideal": "PASS", "answers": "PASS", "same": "SKIPPED", "failures": "PASS",
    }  # fmt: skip


@pytest.mark.slow
def test_hits_that_are_released_at_800_words_fail_the_gate_by_itself(tmp_path: Path) -> None:
    with launched(tmp_path, *SMALL, "--fault=release-active-prefix-hits") as url:
        document, _ = gate(tmp_path, "prefix-cache", *attached(url), sets=SHAPE)
    assert document["fingerprint"]["faults"] == ["release-active-prefix-hits:800"]
    assert document["verdict"]["verdict"] == "FAIL"
    assert "hit_of_ideal" in document["verdict"]["sentence"]


@pytest.mark.slow
def test_an_oracle_reference_passes_the_same_engine_and_fails_wrong_attention(tmp_path: Path, serve: str) -> None:
    sets = (*QUIET, "matrix.words=[200]")
    same, _ = gate(tmp_path, "oracle", *attached(serve), "--baseline", "here", sets=sets)
    assert same["verdict"]["verdict"] == "PASS", same["verdict"]["sentence"]
    with launched(tmp_path, *SMALL, "--fault=lse-inf") as url:
        wrong, _ = gate(tmp_path, "oracle", *attached(url), "--baseline", "here", sets=sets)
    assert wrong["verdict"]["verdict"] == "FAIL", wrong["verdict"]["sentence"]


def test_a_needle_is_hidden_at_fifteen_places_of_cold_prompts(tmp_path: Path, serve: str) -> None:
    sets = (*LENIENT, "matrix.prompt_tokens=[256]", "request.max_tokens=6")
    document, run = gate(tmp_path, "needle", *attached(serve), sets=sets)
    assert statuses(document)["cold_verified"] == "ok"
    assert rules(document) == {"needle": "PASS", "failures": "PASS"}
    keys = [script["key"] for script in lines(run / "scripts.jsonl")]
    assert len(set(keys)) == 15


def test_soaked_conversations_grow_and_answer(tmp_path: Path, serve: str) -> None:
    sets = (*LENIENT, "options.rounds=3", "matrix.concurrency=[2]", "options.words_per_round=30")
    document, run = gate(tmp_path, "soak", *attached(serve), sets=sets)
    assert statuses(document)["conversations_grow"] == "ok"
    assert rules(document)["failures"] == "PASS"
    measured = [row for row in lines(run / "requests.jsonl") if row["phase"] == "measure"]
    assert len(measured) == 6


@pytest.mark.slow
def test_the_second_request_meets_the_first_where_its_cell_says(tmp_path: Path, serve: str) -> None:
    sets = (*LENIENT, "matrix.prompt_tokens=[1536]", "options.decode_tokens=48", "options.short_tokens=224")
    document, run = gate(tmp_path, "mixed-arrival", *attached(serve), sets=sets)
    found = statuses(document)
    assert {found["arrivals_overlap"], found["client_not_starved"]} == {"ok"}
    rows = [row for row in lines(run / "requests.jsonl") if row["phase"] == "measure"]
    assert sorted(row["expect"]["role"] for row in rows) == ["first", "first", "second", "second"]


@pytest.mark.slow
def test_all_decode_behind_prompts_that_were_prefilled_before(tmp_path: Path, serve: str) -> None:
    sets = (*LENIENT, "matrix.prompt_tokens=[520]", "request.max_tokens=8")
    document, run = gate(tmp_path, "long-context-decode", *attached(serve), sets=sets)
    assert statuses(document)["primed"] == "ok"
    rows = [row for row in lines(run / "requests.jsonl") if row["phase"] == "measure"]
    steps = [(row["cell"], row["expect"]["step"]) for row in rows]
    assert steps.count(("p520-c2", "decode")) == steps.count(("p520-c2", "prefill")) == 2
    assert all(row["result"]["cached_tokens"] == 0 for row in rows if row["expect"]["step"] == "prefill")
