"""A serve on the ops: its options, and the profile that it leaves behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from ds4bench.embedded import __main__ as serve


@pytest.mark.integration
def test_a_stopped_serve_leaves_its_profile(tmp_path: Path) -> None:
    port_file, profile, log_path = tmp_path / "port", tmp_path / "ops.json", tmp_path / "log"
    command = [
        sys.executable,
        "-m",
        "ds4bench.embedded",
        "--port",
        "0",
        "--port-file",
        str(port_file),
        "--backend",
        "ops",
    ]
    command += ["--num-blocks", "8", "--threads", "1", "--die-with-parent", "--profile-ops", str(profile)]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 100
        while not port_file.exists():
            assert process.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, "the serve did not start"
            time.sleep(0.05)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port_file.read_text().strip()}", timeout=100)
        body = {"prompt": "The baker counted", "max_tokens": 3, "ignore_eos": True}
        assert client.post("/v1/completions", json=body).status_code == 200
        flags = client.get("/version").json()["flags"]
        assert (flags["backend"], flags["num_layers"], flags["cuda_graphs"]) == ("ops", 6, False)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    phases = json.loads(profile.read_text())["phases"]
    assert phases["prefill"]["steps"] == 1
    assert phases["decode"]["steps"] == 1  # the first of an interval
    assert "mxfp4_moe" in log_path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dims", "flash", "--layers", "2"], "--dims flash runs on the ops backend"),
        (["--dims", "flash", "--backend", "ops"], "on a CPU --dims flash needs --layers"),
        (["--dims", "flash", "--backend", "ops", "--layers", "44"], "layers must be 1 to 43, not 44"),
        (["--layers", "3"], "--layers needs --dims flash"),
        (["--dims", "flash", "--weights", "somewhere"], "leave out --weights"),
        (["--profile-ops"], "--profile-ops times the ops backend"),
    ],
)
def test_options_that_exclude_each_other_end_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(["--port", "0", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
