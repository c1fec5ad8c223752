"""vLLM itself, launched, gated and stopped by the tool. Slow (minutes): ``make test-engine``."""

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

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.integration]

LAUNCH_S = 300
PORT = "18231"
GATES = {
    "long-context": ["--profile", "short", "--set", "matrix.prompt_tokens=[600]", "--set", "matrix.concurrency=[1, 2]"],
    "random": ["--profile", "smoke"],
    "mt-bench": ["--profile", "smoke"],
    "prefill-sweep": ["--profile", "smoke"],
    "long-context-decode": ["--profile", "smoke", "--set", "request.max_tokens=24"],
    "prefix-cache": ["--profile", "smoke", "--set", "matrix.words=[100, 400]"],
    "needle": ["--profile", "smoke"],
    "oracle": ["--profile", "smoke"],
    "soak": ["--profile", "smoke"],
}
"""All that make sense for a base model with random weights: it calls no tools, switches no thinking and counts no apples; and
mixed-arrival is INVALID (arrivals_overlap), because two layers prefill 6,000 tokens before a second request can come."""
FINDS_CODES = ("prefix-cache", "needle")  # random weights find none: FAIL
STARVED = {"client_not_starved", "possible_values", "delivered_concurrency", "machine_quiet", "machine_steady"}
"""What a busy machine with two cores does to a client beside the serve; a gate then says INVALID, and is right."""


def ds4bench(folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "DS4BENCH_STATE_DIR": str(folder / "state")}
    return subprocess.Popen(
        [sys.executable, "-m", "ds4bench.cli", *args],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def engine_processes(model: Path) -> list[str]:
    """Command lines of living processes that serve this model, without the serve of the fixture."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(model) in line and "ds4bench.cli" not in line and PORT not in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def serve(engine_python: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of `ds4bench serve vllm`, stopped by Ctrl-C; nothing may be left of it."""
    folder = tmp_path_factory.mktemp("serve")
    args = ["serve", "vllm", str(tiny_model), "--profile", "cpu", "--engine-python", engine_python, "--port", PORT]
    process = ds4bench(folder, *args)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "ready:" in line:
            break
    assert process.poll() is None, "".join(lines)
    # Its output must be read, or the engine's log would fill the pipe.
    drains = [
        subprocess.Popen(["cat"], stdin=pipe, stdout=subprocess.DEVNULL) for pipe in (process.stdout, process.stderr)
    ]
    yield f"http://127.0.0.1:{PORT}"
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0
    for drain in drains:
        drain.wait(10)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{PORT}/health")


def gate(folder: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    process = ds4bench(folder, "gate", *args, "--json")
    out, err = process.communicate(timeout=LAUNCH_S + 300)
    return process.returncode, json.loads(out) if out else {}, err


def failed_checks(document: dict[str, Any]) -> set[str]:
    return {check["name"] for check in document["verdict"]["checks"] if check["status"] == "failed"}


def test_a_launched_vllm_is_gated_and_nothing_of_it_is_left(
    engine_python: str, tiny_model: Path, tmp_path: Path
) -> None:
    args = ["--target", "vllm", "--model", str(tiny_model), "--engine-python", engine_python, "--serve-profile", "cpu"]
    code, document, err = gate(tmp_path, "long-context", *args, *GATES["long-context"], "--repeats", "2")
    assert document, err
    assert failed_checks(document) <= STARVED, document["verdict"]["checks"]
    assert code in (3, 4)
    fingerprint = document["fingerprint"]
    assert fingerprint["engine"] == "vllm"
    assert fingerprint["engine_version"].startswith("0.")
    assert fingerprint["prefix_caching"] is True
    assert fingerprint["flags"]["enable-prompt-tokens-details"] is True
    assert engine_processes(tiny_model) == []


@pytest.mark.parametrize("name", GATES)
def test_gates_measure_an_attached_vllm_that_is_detected(serve: str, tmp_path: Path, name: str) -> None:
    extra = ["--repeats", "1"] if name in ("long-context", "random") else []
    code, document, err = gate(tmp_path, name, "--target", "attach", "--url", serve, *GATES[name], *extra)
    assert document, err
    assert document["fingerprint"]["engine"] == "vllm"
    failed = failed_checks(document)
    assert failed <= STARVED, document["verdict"]["checks"]
    assert code == (3 if failed else 1 if name in FINDS_CODES else 4), document["verdict"]["sentence"]


def test_cached_tokens_and_counters_of_a_real_vllm_are_read(serve: str) -> None:
    from ds4bench.client.prometheus import parse_counters
    from ds4bench.targets.dialect import cached_tokens, dialect_of

    dialect = dialect_of("vllm")
    model = httpx.get(f"{serve}/v1/models").json()["data"][0]["id"]
    body = {"model": model, "prompt": "a long prefix of many words " * 40, "max_tokens": 2}
    usages = [httpx.post(f"{serve}/v1/completions", json=body, timeout=60).json()["usage"] for _ in range(2)]
    assert cached_tokens(usages[0], dialect) == 0
    assert (cached_tokens(usages[1], dialect) or 0) > 0
    time.sleep(1)
    seen = parse_counters(httpx.get(f"{serve}/metrics").text)
    found = {ours for theirs, ours in dialect.metrics.items() if theirs in seen}
    assert {
        "prefix_cache_hits",
        "prefix_cache_queries",
        "prompt_tokens",
        "generation_tokens",
        "ttft_seconds_count",
    } <= found


def test_a_model_that_vllm_cannot_load_ends_with_its_own_reason(
    engine_python: str, tiny_model: Path, tmp_path: Path
) -> None:
    args = ["--target", "vllm", "--model", str(tiny_model), "--engine-python", engine_python, "--serve-profile", "cpu"]
    code, _, err = gate(tmp_path, "long-context", *args, "--serve-arg=--block-size=7")
    assert code == 2
    assert "block" in err.strip().splitlines()[-1]
    assert engine_processes(tiny_model) == []
