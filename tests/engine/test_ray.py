"""A real Ray, two nodes of it on this machine: started for a serve, joined, and ended with it.

The interpreter comes from DS4BENCH_TEST_RAY_PYTHON (any environment with ``pip install ray``). The serve itself is a process
that stands for an engine: vLLM's Ray executor wants GPUs.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ds4bench.errors import TargetError
from ds4bench.targets.engine import EngineTarget, plan_launch
from ds4bench.targets.profile import TargetProfile, load_profile
from tests.targets import two_nodes
from tests.targets.fake_serve import FAKE

pytestmark = pytest.mark.engine


@pytest.fixture
def python() -> str:
    """The interpreter that has Ray."""
    found = os.environ.get("DS4BENCH_TEST_RAY_PYTHON")
    if not found:
        pytest.skip("DS4BENCH_TEST_RAY_PYTHON names no interpreter with Ray")
    return found


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


@pytest.fixture
def profile(tmp_path: Path, python: str, short: Path) -> TargetProfile:
    """The profile that comes along, on two loopback addresses and with the stand-in as its serve."""
    mine = {
        "name": "mine", "title": "Ray on one machine", "engine": "vllm", "kind": "launch", "extends": "vllm-gb10-2node-ray",
        "command": [python, str(FAKE), "{model}", "--host", "{host}", "--port", "{port}"], "grace_s": 20,
        "environment": {two_nodes.MARK: str(tmp_path), "RAY_TMPDIR": str(short / "{node}")},
        "cluster": two_nodes.cluster(python),
    }  # fmt: skip
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(mine))
    return load_profile("vllm", str(path)).model_copy(update={"module": "ray"})  # vLLM is not installed there


def target(profile: TargetProfile, python: str, folder: Path) -> EngineTarget:
    return EngineTarget(plan_launch(profile, "healthy", engine_python=python), folder / "serve.log")


def left(folder: Path) -> dict[int, str]:
    deadline = time.monotonic() + 20
    while two_nodes.processes(str(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return two_nodes.processes(str(folder))


async def test_ray_is_started_on_both_nodes_serves_and_ends(
    profile: TargetProfile, python: str, tmp_path: Path
) -> None:
    engine = target(profile, python, tmp_path)
    lines: list[str] = []
    endpoint = await engine.start(lines.append)
    raylets = [command for command in two_nodes.processes(str(tmp_path)).values() if "raylet/raylet" in command]
    assert len(raylets) == 2
    assert endpoint.fingerprint.flags["distributed-executor-backend"] == "ray"
    assert any("waiting until every node has joined" in line for line in lines)
    assert any(line.strip().startswith("[worker]") and "Ray runtime started" in line for line in lines)
    await engine.stop()
    assert await asyncio.to_thread(left, tmp_path) == {}


async def test_a_node_that_does_not_join_is_named_with_its_last_words(
    profile: TargetProfile, python: str, tmp_path: Path
) -> None:
    cluster = profile.cluster
    assert cluster is not None
    wrong = cluster.model_copy(update={"follower_service": ["sleep", "300"], "join_deadline_s": 1.0})
    engine = target(profile.model_copy(update={"cluster": wrong}), python, tmp_path)
    with pytest.raises(TargetError, match="1 of 2 nodes are in the Ray cluster"):
        await engine.start(lambda _: None)
    assert await asyncio.to_thread(left, tmp_path) == {}
