"""``transformers serve``: another dialect of the same API. Its streams end without ``[DONE]``; no models, no cache counts.

It is in the environment of vLLM (``make test-engine``), which needs the library anyway.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
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

READY_S = 120
ANY_LENGTH = ["--set", "request.ignore_eos=false"]  # it refuses the field
BUSY = {"client_not_starved", "delivered_concurrency", "machine_quiet", "machine_steady"}
"""What a machine with two cores does to a client beside the serve; a gate then says INVALID, and is right."""


@pytest.fixture(scope="module")
def serve(engine_python: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a serve of the small model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    command = [engine_python, "-m", "transformers.cli.transformers", "serve", "--port", str(port)]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--device", "cpu"],
            env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, log)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


def gate(folder: Path, serve: str, model: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "DS4BENCH_STATE_DIR": str(folder / "state")}
    command = [sys.executable, "-m", "ds4bench.cli", "gate", *args, "--json"]
    done = subprocess.run(
        [*command, "--target", "attach", "--url", serve, "--model", f"{model}@main"],  # as its replies name it
        cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def checks(document: dict[str, Any], status: str) -> set[str]:
    return {check["name"] for check in document["verdict"]["checks"] if check["status"] == status}


def test_streams_without_an_end_mark_are_read_whole(serve: str, tiny_model: Path, tmp_path: Path) -> None:
    """Streamed and unstreamed answers of one prompt agree, and every stream is known to have ended."""
    code, document, err = gate(tmp_path, serve, tiny_model, "stream-parity", "--profile", "smoke")
    assert document, err
    assert {"all_requests_ok", "model_identity"} <= checks(document, "ok"), document["verdict"]["checks"]
    assert checks(document, "failed") == {"mode_effective", "tools_called"}  # a base model thinks not and calls nothing
    assert code == 3
    rows = [json.loads(line) for line in (tmp_path / "state/runs" / document["run"] / "requests.jsonl").open()]
    assert len(rows) == 20
    assert {row["result"]["completion_tokens"] > 0 for row in rows} == {True}


def test_a_serve_whose_first_chunk_is_the_prompt_is_found_out(serve: str, tiny_model: Path, tmp_path: Path) -> None:
    """It streams the prompt back before the reply: a TTFT from that chunk would be of no token. There are too many chunks."""
    code, document, err = gate(tmp_path, serve, tiny_model, "mt-bench", "--profile", "smoke", *ANY_LENGTH)
    assert document, err
    assert checks(document, "failed") - BUSY == {"possible_values"}, document["verdict"]["checks"]
    said = next(check["detail"] for check in document["verdict"]["checks"] if check["name"] == "possible_values")
    assert "16 tokens in 17 chunks" in said
    assert {"all_requests_ok", "model_identity"} <= checks(document, "ok")
    assert code == 3
    assert document["fingerprint"]["engine"] == "openai"


def test_cold_is_not_claimed_where_nothing_tells_of_the_cache(serve: str, tiny_model: Path, tmp_path: Path) -> None:
    args = [*ANY_LENGTH, "--profile", "short", "--set", "matrix.prompt_tokens=[600]", "--set", "matrix.concurrency=[1]"]
    code, document, err = gate(tmp_path, serve, tiny_model, "long-context", *args, "--repeats", "1")
    assert document, err
    assert "cold_verified" in checks(document, "unverified"), document["verdict"]["checks"]
    assert code == 3
