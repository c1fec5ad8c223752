"""A serve on several machines, each of them this one reached through what stands for ssh: life, death, nothing left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4bench.errors import TargetError
from ds4bench.targets.engine import EngineTarget, plan_launch
from ds4bench.targets.node_reports import NodeReports
from ds4bench.targets.preflight import free_port
from ds4bench.targets.profile import load_profile
from tests.targets import two_nodes
from tests.targets.fake_serve import FAKE, GATE, ds4bench, kernel_report, plugin, runs

pytestmark = pytest.mark.integration


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Two nodes of this machine: the head through a shell, the worker as through ssh."""
    data = {
        "name": "two", "title": "two processes that stand for machines", "engine": "vllm", "kind": "launch",
        "command": ["{python}", str(FAKE), "{model}", "--host", "{host}", "--port", "{port}"],
        "validity_flags": {"enable-prompt-tokens-details": True}, "ready_deadline_s": 30, "grace_s": 1,
        "cluster": {
            **two_nodes.cluster(head_remote="env NODE_OF_TEST=127.0.0.1 sh -c {command}"),
            "serve_flags": {"nnodes": "{nodes}", "node-rank": "{rank}", "master-addr": "{head}"},
            "follower_flags": {"headless": True},
        },
        "environment": {"END_FILE": str(tmp_path / "end"), "WORKER_FILE": str(tmp_path / "workers")},
    }  # fmt: skip
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def target(profile: Path, behaviour: str) -> EngineTarget:
    launch = plan_launch(load_profile("vllm", str(profile)), behaviour, engine_python=sys.executable)
    return EngineTarget(launch, profile.parent / "logs" / "serve.log")


def processes(folder: Path) -> dict[int, str]:
    """Living processes that carry this test's folder in their environment: pid -> the node."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if f"END_FILE={folder / 'end'}".encode() in environment and runs(int(entry.name)):
            found[int(entry.name)] = next((e.decode() for e in environment if e.startswith(b"NODE_OF_TEST=")), "")
    return found


def nothing_left(folder: Path) -> bool:
    deadline = time.monotonic() + 15
    while processes(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes(folder)


async def test_two_nodes_serve_as_one_and_stop_as_one(profile: Path, tmp_path: Path) -> None:
    engine = target(profile, "healthy")
    lines: list[str] = []
    endpoint = await engine.start(lines.append)
    assert set(processes(tmp_path).values()) == {"NODE_OF_TEST=127.0.0.1", "NODE_OF_TEST=127.0.0.2"}
    assert any("[head] INFO loading healthy" in line for line in lines)
    assert any("[worker] INFO loading healthy" in line for line in lines)
    commands = {log.name: log.read_text().splitlines()[0] for log in (profile.parent / "logs").iterdir()}
    assert "--headless" in commands["serve-worker-worker.log"]
    assert "--node-rank 0" in commands["serve.log"]
    assert all(command.startswith("$ ") for command in commands.values())
    assert endpoint.fingerprint.flags["nnodes"] == "2"
    assert set(endpoint.fingerprint.flags["nodes"]) == {"head", "worker"}  # and their GPUs, if this machine has any
    assert "master-addr" not in endpoint.fingerprint.flags
    assert engine.alive()
    await engine.stop()
    assert nothing_left(tmp_path)
    assert engine.death_note() is None
    await engine.stop()


async def test_a_node_that_cannot_load_ends_the_start_with_its_own_reason(profile: Path, tmp_path: Path) -> None:
    engine = target(profile, "worker-lacks-memory")
    words = r"the vllm worker on node worker \(127.0.0.2\) ended with exit code 1; out of GPU memory"
    with pytest.raises(TargetError, match=words):
        await engine.start(lambda _: None)
    assert nothing_left(tmp_path)


async def test_a_head_that_dies_takes_its_workers_with_it(profile: Path, tmp_path: Path) -> None:
    engine = target(profile, "first-token-kills")
    with pytest.raises(TargetError, match=r"serve on node head \(127.0.0.1\) ended with exit code 9; RuntimeError"):
        await engine.start(lambda _: None)
    assert nothing_left(tmp_path)


async def test_what_a_node_leaves_behind_is_ended_too(profile: Path, tmp_path: Path) -> None:
    engine = target(profile, "leaves-workers")
    await engine.start(lambda _: None)
    workers = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    assert set(workers) <= set(processes(tmp_path))  # one has left group and session; both ignore SIGTERM
    await engine.stop()
    assert nothing_left(tmp_path)


async def test_a_lost_connection_ends_what_runs_at_the_other_end_and_the_whole_serve(
    profile: Path, tmp_path: Path
) -> None:
    engine = target(profile, "healthy")
    await engine.start(lambda _: None)
    os.kill(_connection(profile), signal.SIGKILL)
    assert await asyncio.to_thread(nothing_left, tmp_path)  # the serve was not stopped by us
    assert not engine.alive()
    assert "worker on node worker (127.0.0.2) was ended by SIGKILL" in (engine.death_note() or "")
    await engine.stop()


def _connection(profile: Path) -> int:
    """The process that stands for ssh, of this test."""
    [pid] = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        and b"fake_ssh.py" in _bytes(entry / "cmdline")
        and str(profile.parent).encode() in _bytes(entry / "cmdline")
    ]
    return pid


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_node_that_dies_in_a_gate_makes_it_invalid_with_its_last_words(profile: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(GATE.replace("deadline_s: 20", "deadline_s: 200"))
    serve = [
        "--target",
        "vllm",
        "--model",
        "healthy",
        "--serve-profile",
        str(profile),
        "--engine-python",
        sys.executable,
    ]
    process = ds4bench(tmp_path, "gate", "small.yaml", *serve, "--json")
    out, err = process.communicate(timeout=120)
    assert out, err
    document = json.loads(out)
    assert process.returncode == 3
    assert document["verdict"]["verdict"] == "INVALID", err
    sentence = document["verdict"]["sentence"]
    assert "worker on node worker (127.0.0.2) ended with exit code 7; RuntimeError: the worker lost its GPU" in sentence
    assert nothing_left(tmp_path)


def kernels_gate(profile: Path, folder: Path, told: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON document, stderr) of a gate on bundled kernels, where every process tells this of them."""
    data = yaml.safe_load(profile.read_text())
    data["environment"] |= {"PYTHONPATH": str(plugin(folder)), "TELLS": told, "HEADS_OWN": str(folder)}
    data["validity_flags"] |= {"tensor-parallel-size": 2}
    profile.write_text(yaml.safe_dump(data))
    (folder / "small.yaml").write_text(GATE.replace("count: 8", "count: 2"))
    serve = ["--target", "vllm", "--model", "healthy", "--serve-profile", str(profile), "--kernels", "bundled"]
    process = ds4bench(folder, "gate", "small.yaml", *serve, "--engine-python", sys.executable, "--json")
    out, err = process.communicate(timeout=120)
    return process.returncode, json.loads(out) if out else {}, err


def test_what_the_kernels_of_every_node_tell_proves_that_they_ran(profile: Path, tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("ds4bench-kernels-*"))
    _, document, err = kernels_gate(profile, tmp_path, kernel_report())
    (check,) = [c for c in document["verdict"]["checks"] if c["name"] == "kernels_loaded"]
    assert check["status"] == "ok", check
    assert check["detail"].startswith("2 workers ran mhc_post"), err
    assert set(Path("/tmp").glob("ds4bench-kernels-*")) <= before
    assert nothing_left(tmp_path)


def test_kernels_that_no_node_has_end_the_gate_at_the_first_token(profile: Path, tmp_path: Path) -> None:
    code, _, err = kernels_gate(profile, tmp_path, kernel_report(hooks=[], note="no table for vllm 9.9"))
    assert code == 2, err
    assert "--kernels bundled: no bundled kernel was installed in any process (no table for vllm 9.9)" in err
    assert nothing_left(tmp_path)


async def test_a_node_whose_reports_cannot_be_read_proves_nothing(profile: Path, tmp_path: Path) -> None:
    cluster = load_profile("vllm", str(profile)).cluster
    assert cluster is not None
    reports = NodeReports(cluster, sys.executable, str(tmp_path / "there"))
    for rank in range(2):
        folder = Path(reports.folder.format(rank=rank))
        folder.mkdir(parents=True)
        (folder / "ds4-kernels-vllm-1.json").write_text("{}")
    here = tmp_path / "here"
    here.mkdir()
    assert await reports.fetch(here) == []
    assert sorted(path.name for path in here.iterdir()) == [f"node{rank}-ds4-kernels-vllm-1.json" for rank in range(2)]
    lost = replace(reports, cluster=cluster.model_copy(update={"remote": "false {host} {command}"}))
    (line,) = await lost.fetch(here)
    assert line.startswith("node worker (127.0.0.2): the kernel reports there cannot be read")
    assert [path.name for path in here.iterdir()] == ["node0-ds4-kernels-vllm-1.json"]
    await reports.discard()
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_however_the_harness_ends_all_nodes_end_with_it(profile: Path, tmp_path: Path, number: signal.Signals) -> None:
    serve = ["serve", "vllm", "stubborn", "--profile", str(profile), "--engine-python", sys.executable]
    process = ds4bench(tmp_path, *serve, "--port", str(free_port()))
    assert process.stderr is not None
    assert any("ready:" in line for line in process.stderr)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 0)
    assert nothing_left(tmp_path)


def test_a_serve_that_loses_a_node_ends_with_its_reason(profile: Path, tmp_path: Path) -> None:
    serve = ["serve", "vllm", "healthy", "--profile", str(profile), "--engine-python", sys.executable]
    process = ds4bench(tmp_path, *serve, "--port", str(free_port()))
    assert process.stderr is not None
    assert any("ready:" in line for line in process.stderr)
    (tmp_path / "end").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "worker on node worker (127.0.0.2) ended with exit code 7" in err
    assert "[worker] RuntimeError: the worker lost its GPU" in out
    assert nothing_left(tmp_path)


async def test_nodes_that_never_get_ready_are_given_up_with_the_words_of_all(profile: Path, tmp_path: Path) -> None:
    launch = plan_launch(load_profile("vllm", str(profile)), "hangs", engine_python=sys.executable)
    engine = EngineTarget(launch, tmp_path / "serve.log", ready_deadline_s=6.0)
    words = r"serve on node head .* is not ready after 6 s.*worker on node worker .*its last words: INFO loading hangs"
    with pytest.raises(TargetError, match=words):
        await engine.start(lambda _: None)
    assert await asyncio.to_thread(nothing_left, tmp_path)


def test_a_dry_run_shows_all_nodes_and_touches_none(profile: Path, tmp_path: Path) -> None:
    process = ds4bench(tmp_path, "serve", "vllm", "healthy", "--profile", str(profile), "--dry-run")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "fake_ssh.py 127.0.0.2 'exec env " in out
    assert "--node-rank 1" in out
    assert processes(tmp_path) == {}
