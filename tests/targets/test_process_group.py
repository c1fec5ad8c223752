"""What counts as a living process of a launch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds4bench.targets import process_group
from ds4bench.targets.launched import ServeProcess
from tests.targets.fake_serve import gone_soon, runs

pytestmark = pytest.mark.integration

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def half_dead() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose first thread has ended while another one sleeps: /proc calls it a zombie."""
    with subprocess.Popen(
        [sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while state(process.pid) != "Z":
            os.sched_yield()
        yield process
        process.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_whose_first_thread_alone_has_ended_still_lives(half_dead: subprocess.Popen[bytes]) -> None:
    assert half_dead.poll() is None
    assert half_dead.pid in process_group.members(half_dead.pid, "no mark")
    assert runs(half_dead.pid)


def test_one_that_only_waits_to_be_reaped_does_not(half_dead: subprocess.Popen[bytes]) -> None:
    half_dead.kill()
    assert gone_soon(half_dead.pid)
    assert half_dead.pid not in process_group.members(half_dead.pid, "no mark")
    assert half_dead.poll() == -9


async def test_a_process_that_the_kernel_does_not_let_go_is_named_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve = ServeProcess(
        [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", name="it", grace_s=0.1
    )
    serve.launch()
    assert serve.pid is not None
    with monkeypatch.context() as stuck:  # signals change nothing, as for one that hangs in a driver
        stuck.setattr(process_group, "REAP_S", 0.2)
        stuck.setattr(process_group, "signal_all", lambda *_, **__: None)
        lines = await serve.stop()
    assert [line for line in lines if f"process {serve.pid} survived SIGKILL" in line]
    serve.kill()
    assert gone_soon(serve.pid)


def test_a_watcher_waits_no_longer_either(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as child:
        with monkeypatch.context() as stuck:
            stuck.setattr(process_group, "REAP_S", 0.2)
            stuck.setattr(process_group, "signal_all", lambda *_, **__: None)
            assert process_group._end_child(child, "no mark", 0.1) == -9
        child.kill()
    assert f"process {child.pid} survived SIGKILL" in capsys.readouterr().out


@pytest.mark.parametrize("unreaped", [False, True])
def test_a_group_is_signalled_only_while_its_number_is_ours(monkeypatch: pytest.MonkeyPatch, unreaped: bool) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append((group, number)))
    with subprocess.Popen([sys.executable, "-c", ""], start_new_session=True) as ended:
        ended.wait()
    process_group.signal_all(ended.pid, "no mark", 15, unreaped=unreaped)
    assert sent == ([(ended.pid, 15)] if unreaped else [])
