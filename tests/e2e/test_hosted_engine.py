"""The hosted API with a real model behind it, beside the same model served here: gates of both, and ``ds4bench compare``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import running
from tests.targets.hosted_engine import EngineBehind
from tests.targets.hosted_stand_in import KEY

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.slow]
LENIENT = (
    "validity.machine_drift=1.0",
    "validity.max_foreign_cpu_share=1.0",
    "validity.max_client_lag_share_ttft=0.9",
    "validity.max_client_lag_share_gap=1.0",
)
"""Nothing here is about times."""


@pytest.fixture(scope="module")
def api(serve: str) -> Iterator[str]:
    """Base URL of the stand-in, in front of the tests' own serve with the trained weights."""
    with running(EngineBehind(serve).app()) as url:
        yield url


def ds4bench(folder: Path, *args: str) -> dict[str, Any]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "DS4BENCH_STATE_DIR": str(folder), "DEEPSEEK_API_KEY": KEY}
    words = [sys.executable, "-m", "ds4bench.cli", *args, "--json"]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def both(
    folder: Path, api: str, serve: str, gate: str, *sets: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(run here, run of the API, their comparison) of a gate's smoke profile."""
    options = [word for text in (*LENIENT, "repeats.count=1", *sets) for word in ("--set", text)]
    words = ("gate", gate, "--profile", "smoke", "--baseline", "none", *options)
    here = ds4bench(folder, *words, "--target", "attach", "--url", serve)
    hosted = ds4bench(folder, *words, "--target", "hosted-deepseek", "--url", api)
    return here, hosted, ds4bench(folder, "compare", here["run"], hosted["run"], "--other-model")


def failed(document: dict[str, Any]) -> set[str]:
    return {check["name"] for check in document["verdict"]["checks"] if check["status"] == "failed"}


def scores(comparison: dict[str, Any], name: str) -> dict[str | None, dict[str, Any]]:
    return {score["cell"]: score for score in comparison["scores"] if score["name"] == name}


def test_the_same_model_calls_the_same_tools_behind_the_api(tmp_path: Path, api: str, serve: str) -> None:
    here, hosted, comparison = both(tmp_path, api, serve, "toolcall-15", "options.scenarios=[TC-01, TC-08]")
    assert failed(here) == failed(hosted) == set()
    assert hosted["fingerprint"]["engine"] == "hosted-deepseek"
    assert any(score["second"] > 0 for score in scores(comparison, "called").values())  # calls do arrive
    points = scores(comparison, "points")
    assert {cell for cell in points if cell} == {"non-thinking", "think-high"}
    for mode, score in points.items():  # temperature 0: what the dialect loses would show as other points
        assert score["first"] == score["second"], mode
        assert (score["lost"], score["won"]) == ([], []), mode


def test_mt_bench_times_are_seen_from_the_client(tmp_path: Path, api: str, serve: str) -> None:
    here, hosted, comparison = both(tmp_path, api, serve, "mt-bench", "request.ignore_eos=false")
    assert failed(here) == failed(hosted) == set()
    assert {latency["metric"] for latency in comparison["latencies"]} >= {"ttft_s", "tpot_ms"}
    assert all(latency["ratio"] > 0 for latency in comparison["latencies"])


def test_gsm8k_goes_through_chat(tmp_path: Path, api: str, serve: str) -> None:
    sets = ("request.endpoint=chat", "matrix.limit=8", "matrix.batch=8", "validity.max_cut_share=1.0")
    here, hosted, comparison = both(tmp_path, api, serve, "gsm8k", *sets)
    assert failed(here) == failed(hosted) == set()
    for name in ("strict", "flexible"):
        [score] = scores(comparison, name).values()
        assert (score["items"], score["lost"], score["won"]) == (8, [], []), name
