"""Launching, losing and stopping a real process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from ds4bench.errors import TargetError
from ds4bench.targets.embedded import EmbeddedTarget
from tests.targets.fake_serve import gone_soon, runs

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_engine.py")))

pytestmark = pytest.mark.integration


def target(folder: Path, *args: str, ready_s: float = 30.0, grace_s: float = 10.0) -> EmbeddedTarget:
    return EmbeddedTarget(
        folder / "serve.log",
        args,
        hardware={"cpu": "this one"},
        command=STAND_IN,
        ready_deadline_s=ready_s,
        grace_s=grace_s,
    )


async def test_a_launched_engine_answers_and_stops(tmp_path: Path) -> None:
    engine = target(tmp_path)
    endpoint = await engine.start(str)
    pid = engine.pid
    assert pid is not None
    try:
        assert (endpoint.model, endpoint.dialect.engine, endpoint.max_model_len) == ("stand-in", "embedded", 64)
        assert endpoint.fingerprint.hardware == {"cpu": "this one"}
        assert os.getpgid(pid) == pid != os.getpgid(0)
        assert engine.alive()
        assert engine.death_note() is None
    finally:
        await engine.stop()
    assert gone_soon(pid)
    assert not engine.alive()
    assert engine.death_note() is None  # stopped on purpose is not a death
    await engine.stop()


async def test_an_engine_that_dies_at_its_start_gives_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"ended with exit code 3.*no room for the cache"):
        await target(tmp_path, "--fail").start(str)


async def test_an_engine_that_never_opens_its_port_is_given_up_and_stopped(tmp_path: Path) -> None:
    engine = target(tmp_path, "--silent", ready_s=1.0)
    with pytest.raises(TargetError, match="not ready after 1 s: it did not open its port"):
        await engine.start(str)
    assert engine.pid is not None
    assert gone_soon(engine.pid)


async def test_a_killed_engine_has_a_death_note(tmp_path: Path) -> None:
    engine = target(tmp_path)
    await engine.start(str)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    assert gone_soon(engine.pid)
    assert not engine.alive()
    assert "was ended by SIGKILL" in (engine.death_note() or "")
    await engine.stop()
    assert "was ended by SIGKILL" in (engine.death_note() or "")


@pytest.mark.parametrize("stubborn", [False, True])
async def test_stopping_ends_the_whole_group_even_what_ignores_sigterm(tmp_path: Path, stubborn: bool) -> None:
    child_file = tmp_path / "child"
    args = ["--child-file", str(child_file), *(["--stubborn"] if stubborn else [])]
    engine = target(tmp_path, *args, grace_s=0.5)
    await engine.start(str)
    child = int(child_file.read_text())
    assert runs(child)
    await engine.stop()
    assert engine.pid is not None
    assert gone_soon(engine.pid)
    assert gone_soon(child)


async def test_a_command_that_cannot_be_run_is_a_target_error(tmp_path: Path) -> None:
    engine = EmbeddedTarget(tmp_path / "serve.log", command=(str(tmp_path / "missing"),))
    with pytest.raises(TargetError, match="cannot launch"):
        await engine.start(str)
    await engine.stop()
