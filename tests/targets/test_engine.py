"""Launching an engine: how it dies, what is said, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from ds4bench.core import Fingerprint
from ds4bench.errors import TargetError
from ds4bench.targets.engine import EngineTarget, Launch, launched_fingerprint, plan_launch
from ds4bench.targets.preflight import free_port
from ds4bench.targets.profile import load_profile
from tests.targets.fake_serve import (
    GATE,
    PROFILE,
    ds4bench,
    fake_processes,
    gone_soon,
    kernel_report,
    plugin,
    runs,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "fake.yaml"
    path.write_text(PROFILE)
    return path


def target(
    profile: Path, behaviour: str, *extra: str, deadline_s: float = 20.0, env: dict[str, str] | None = None
) -> EngineTarget:
    launch = plan_launch(load_profile("vllm", str(profile)), behaviour, extra, environment=env)
    return EngineTarget(launch, profile.parent / "serve.log", ready_deadline_s=deadline_s)


async def test_a_launched_engine_answers_with_its_flags_in_the_fingerprint_and_stops(profile: Path) -> None:
    engine = target(profile, "healthy")
    lines: list[str] = []
    endpoint = await engine.start(lines.append)
    assert (endpoint.model, endpoint.dialect.engine, endpoint.max_model_len) == ("fake", "vllm", 4096)
    assert endpoint.fingerprint.flags["enable-prompt-tokens-details"] is True
    assert endpoint.fingerprint.prefix_caching is True
    log = (profile.parent / "serve.log").read_text().splitlines()
    assert log[0] == f"$ {engine.launch.shell_text()}"
    assert not any("fake_engine.py" in line for line in lines)  # what the engine says, and that alone
    assert engine.alive()
    pid = engine.pid
    await engine.stop()
    assert pid is not None
    assert gone_soon(pid)
    assert engine.death_note() is None


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("unknown-model", "ended with exit code 1; unknown model"),
        ("out-of-memory", "ended with exit code 1; out of GPU memory"),
        ("odd-failure", "ValueError: No common block size for 16; its last words"),
        ("first-token-kills", "ended with exit code 9; RuntimeError: the first request broke the engine"),
    ],
)
async def test_an_engine_that_never_gets_ready_says_why(profile: Path, behaviour: str, words: str) -> None:
    engine = target(profile, behaviour)
    with pytest.raises(TargetError, match=words):
        await engine.start(lambda _: None)
    assert engine.pid is not None
    assert gone_soon(engine.pid)


async def test_an_engine_that_hangs_while_loading_is_given_up_and_stopped(profile: Path) -> None:
    engine = target(profile, "hangs", deadline_s=5.0)
    with pytest.raises(TargetError, match=r"not ready after 5 s.*INFO loading hangs"):
        await engine.start(lambda _: None)
    assert engine.pid is not None
    assert gone_soon(engine.pid)


async def test_stopping_ends_workers_that_ignore_sigterm_and_left_the_group(profile: Path, tmp_path: Path) -> None:
    engine = target(profile, "leaves-workers", env={"WORKER_FILE": str(tmp_path / "workers")})
    await engine.start(lambda _: None)
    workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    assert all(runs(pid) for pid in workers)
    await engine.stop()
    assert gone_soon(*workers)


async def test_workers_of_a_killed_engine_are_ended_too(profile: Path, tmp_path: Path) -> None:
    engine = target(profile, "leaves-workers", env={"WORKER_FILE": str(tmp_path / "workers")})
    await engine.start(lambda _: None)
    workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    assert gone_soon(engine.pid)
    assert "was ended by SIGKILL" in (engine.death_note() or "")
    await engine.stop()
    assert gone_soon(*workers)


async def test_a_port_in_use_is_refused_and_its_owner_left_alone(profile: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        engine = EngineTarget(
            plan_launch(load_profile("vllm", str(profile)), "healthy", port=port), profile.parent / "serve.log"
        )
        with pytest.raises(TargetError, match=f"port {port} is in use"):
            await engine.start(lambda _: None)
        assert engine.pid is None


def test_an_engine_that_dies_in_a_gate_makes_it_invalid_with_its_last_words(profile: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(GATE)
    args = [
        "gate",
        "small.yaml",
        "--target",
        "vllm",
        "--model",
        "dies-in-gate",
        "--serve-profile",
        str(profile),
        "--json",
    ]
    out, err = ds4bench(tmp_path, *args).communicate(timeout=120)
    assert out, err
    document = json.loads(out)
    assert document["verdict"]["verdict"] == "INVALID", err
    assert "exit code 11; RuntimeError: engine core died" in document["verdict"]["sentence"]
    assert fake_processes(tmp_path) == []


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (None, "no process of vllm wrote a report"),
        (kernel_report(hooks=[], note="no table for vllm 9.9 (known: 0.25.0, 0.33.0)"), "(known: 0.25.0, 0.33.0)"),
    ],
)
@pytest.mark.parametrize("command", ["gate", pytest.param("serve", marks=pytest.mark.slow)])
def test_kernels_that_are_not_there_end_it_at_the_first_token(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, told: str | None, words: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, str(plugin(tmp_path))]))
    monkeypatch.setenv("HEADS_OWN", str(tmp_path))
    if told is not None:
        monkeypatch.setenv("TELLS", told)
    (tmp_path / "small.yaml").write_text(GATE)
    args = {
        "gate": ["gate", "small.yaml", "--target", "vllm", "--model", "healthy", "--serve-profile", str(profile)],
        "serve": ["serve", "vllm", "healthy", "--profile", str(profile), "--port", str(free_port())],
    }[command]
    process = ds4bench(tmp_path, *args, "--kernels", "bundled", "--engine-python", sys.executable)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    (line,) = [line for line in err.splitlines() if "--kernels bundled: no " in line]
    assert words in line
    assert fake_processes(tmp_path) == []
    assert not list((tmp_path / ".ds4bench").rglob("run.json"))  # nothing was measured


def test_where_a_launch_reports_is_no_part_of_what_it_is(profile: Path) -> None:
    """A run that is resumed is launched with another report folder."""
    environment = {"DS4_KERNELS": "force", "DS4_KERNELS_REPORT": "/tmp/launch-0"}
    launch = plan_launch(load_profile("vllm", str(profile)), "healthy", environment=environment)
    flags = launched_fingerprint(Fingerprint(engine="vllm", model="m"), launch, None).flags
    assert flags["environment"] == {"DS4_KERNELS": "force"}


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_however_the_harness_ends_the_engine_ends_with_it(
    profile: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = ds4bench(tmp_path, "serve", "vllm", "stubborn", "--profile", str(profile), "--port", str(port))
    assert process.stderr is not None
    assert any("ready:" in line for line in process.stderr)
    engines = fake_processes(tmp_path)
    assert len(engines) == 1
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 0)
    assert gone_soon(*engines)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["gate", "long-context", "--target", "vllm"], "needs --model"),
        (["gate", "long-context", "--target", "vllm", "--model", "m", "--serve-profile", "h20"], "did you mean 'h200'"),
        (["gate", "long-context", "--target", "vllm", "--model", "/no/such", "--dry-run"], "no model at /no/such"),
        (
            ["gate", "long-context", "--target", "vllm", "--model", "m", "--engine-python", "/no/python"],
            "no python there",
        ),
        (
            ["gate", "long-context", "--target", "vllm", "--model", "m", "--engine-python", sys.executable],
            "vllm is not installed",
        ),
        (
            ["gate", "long-context", "--engine-python", sys.executable],
            "--engine-python belongs to --target vllm or sglang",
        ),
        (["gate", "long-context", "--max-cost", "1"], "--max-cost belongs to --target hosted-deepseek"),
        (["serve", "vllm", "m", "--dry-run", "--", "--no-enable-prompt-tokens-details"], "belongs to every vllm serve"),
        (["serve", "sglang", "m", "--profile", "rtx-pro-6000-tp2", "--dry-run"], "no serve profile"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(tmp_path: Path, args: list[str], words: str) -> None:
    process = ds4bench(tmp_path, *args)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert words in err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("told", "words", "speculative"),
    [
        ("unknown-2", ["--speculative-config", '{"method":"mtp","num_speculative_tokens":2}'], "mtp-2"),
        ("unknown-3", [], "unknown-3"),  # the model's own configuration asks for it
        ("EAGLE", ["--speculative-algorithm", "NEXTN"], "EAGLE"),
        (None, [], None),
    ],
)
def test_the_flags_name_the_method_of_speculation_that_the_serve_does_not(
    told: str | None, words: list[str], speculative: str | None
) -> None:
    launch = Launch(load_profile("vllm"), "m", "python", ("vllm", *words), {}, "127.0.0.1", 1)
    found = launched_fingerprint(Fingerprint(engine="vllm", model="m", speculative=told), launch, None)
    assert found.speculative == speculative


def test_a_serve_that_failed_keeps_its_log_and_one_that_was_stopped_leaves_nothing(
    profile: Path, tmp_path: Path
) -> None:
    options = ["--profile", str(profile), "--port", str(free_port())]
    _, err = ds4bench(tmp_path, "serve", "vllm", "odd-failure", *options).communicate(timeout=60)
    (log,) = (tmp_path / ".ds4bench" / "serves").glob("*/serve.log")
    assert f"whole log: {log}" in err
    assert "No common block size" in log.read_text()
    process = ds4bench(tmp_path, "serve", "vllm", "healthy", *options)
    assert process.stderr is not None
    assert any("ready:" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert list((tmp_path / ".ds4bench" / "serves").glob("*")) == [log.parent]
