"""Whose GPUs are looked at, what is kept of them, and what becomes of it where NVML does not tell. NVML is a fake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from ds4bench.gpu_state import GpuState
from ds4bench.targets import launched, process_group
from ds4bench.targets.gpu_watch import GpuWatch
from ds4bench.targets.launched import ServeProcess, launched_here
from tests.targets.fake_nvml import FakeGpu, FakeNvml

SERVE, WORKER, OTHER = 2_000_000_001, 2_000_000_002, os.getpid()
"""No process has the serve's ids; the other one lives, so that its name can be told."""
ASKED = [name for name in vars(FakeNvml) if name.startswith("nvml") and callable(getattr(FakeNvml, name))]
READINGS = [name for name in ASKED if name.startswith("nvmlDeviceGet") and name != "nvmlDeviceGetCount"]


def states(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, *, launched: bool = True) -> list[GpuState]:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    watch = GpuWatch.open(lambda pid: pid in (SERVE, WORKER), launched=launched)
    assert watch is not None
    try:
        return watch.states()
    finally:
        watch.close()


@pytest.mark.parametrize("name", [*ASKED, "NVMLError", "NVML_CLOCK_SM", "NVML_TEMPERATURE_GPU", "nvmlMemory_v2"])
def test_what_the_fake_has_the_real_one_has(name: str) -> None:
    assert hasattr(pynvml, name)


def test_only_the_gpus_of_the_serve_count_and_all_of_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu([OTHER], reasons=0x40), FakeGpu([SERVE], used_mib=71_000), FakeGpu([WORKER, SERVE]))
    first, second = states(nvml, monkeypatch)
    assert first == GpuState(
        gpu=1, memory_mib=71_000, power_w=690.4, utilisation_percent=97, sm_clock_mhz=1980, temperature_c=71,
        slowdowns=[], power_capped=False, foreign={},
    )  # fmt: skip
    assert (second.gpu, second.foreign) == (2, {})
    assert nvml.opened == 0


def test_who_else_computes_on_the_serves_gpu_is_named_by_its_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    (state,) = states(FakeNvml(FakeGpu([SERVE, OTHER, 2_000_000_009])), monkeypatch)
    name = Path(f"/proc/{OTHER}/comm").read_text().strip()
    assert state.foreign == {OTHER: name, 2_000_000_009: ""}


@pytest.mark.parametrize(
    ("bits", "slowdowns", "capped"),
    [
        (0x00, [], False),
        (0x01 | 0x02 | 0x10 | 0x100, [], False),  # idle, clocks that somebody set, sync boost, display
        (pynvml.nvmlClocksThrottleReasonSwPowerCap, [], True),
        (pynvml.nvmlClocksThrottleReasonHwSlowdown, ["hardware slowdown"], False),
        (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, ["software thermal slowdown"], False),
        (pynvml.nvmlClocksThrottleReasonHwThermalSlowdown, ["hardware thermal slowdown"], False),
        (pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown, ["hardware power brake"], False),
        (0x04 | 0x08 | 0x40, ["hardware slowdown", "hardware thermal slowdown"], True),
    ],
)
def test_reasons_of_hardware_and_heat_are_slowdowns_and_the_power_limit_is_none(
    monkeypatch: pytest.MonkeyPatch, bits: int, slowdowns: list[str], capped: bool
) -> None:
    (state,) = states(FakeNvml(FakeGpu([SERVE], reasons=bits)), monkeypatch)
    assert (state.slowdowns, state.power_capped) == (slowdowns, capped)


def test_a_launched_serve_that_is_on_no_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(FakeNvml(FakeGpu([OTHER], used_mib=9000), FakeGpu()), monkeypatch) == []


@pytest.mark.parametrize(
    ("gpu", "launched"),
    [
        (FakeGpu([OTHER]), False),  # a serve that somebody else started
        (FakeGpu([2_000_000_009]), True),  # ids of another container's or the host's processes
        (FakeGpu(used_mib=71_000), True),  # in use by nobody that is listed
        (FakeGpu(refused=("nvmlDeviceGetComputeRunningProcesses",)), True),
    ],
)
def test_where_it_cannot_be_told_whose_gpu_it_is_all_are_kept_and_nobody_is_foreign(
    monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu, launched: bool
) -> None:
    found = states(FakeNvml(gpu, FakeGpu()), monkeypatch, launched=launched)
    assert [(state.gpu, state.foreign, state.sm_clock_mhz) for state in found] == [(0, None, 1980), (1, None, 1980)]


@pytest.mark.parametrize("refused", READINGS)
def test_what_a_gpu_cannot_be_asked_is_left_out(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    whole = states(FakeNvml(FakeGpu([SERVE], reasons=0x40)), monkeypatch)
    found = states(FakeNvml(FakeGpu([SERVE], reasons=0x40, refused=(refused,))), monkeypatch)
    assert found != whole
    assert all(state.slowdowns is None for state in found) == (
        refused in ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetHandleByIndex")
    )


def test_a_gpu_that_tells_nothing_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    mute = FakeGpu([SERVE], refused=tuple(name for name in READINGS if name != "nvmlDeviceGetHandleByIndex"))
    assert states(FakeNvml(mute), monkeypatch, launched=False) == []


def test_nvml_that_stops_answering_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(FakeGpu([SERVE]))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    watch = GpuWatch.open(lambda pid: pid == SERVE, launched=True)
    assert watch is not None
    assert watch.states()
    nvml.lost = True
    assert watch.states() == []
    watch.close()
    watch.close()  # shut down before: refused, and nobody minds
    assert nvml.opened == 0


def test_without_nvml_there_is_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GpuWatch.open(lambda pid: True, launched=True) is None


GRANDCHILD = (
    "import subprocess, sys\n"
    "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
    "subprocess.run([sys.executable, '-c', code], start_new_session=True, env={})"
)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServeProcess]:
    """A serve whose worker has left its session and lost its environment."""
    process = ServeProcess([sys.executable, "-c", GRANDCHILD], tmp_path / "serve.log", name="a serve", grace_s=1.0)
    process.launch()
    try:
        yield process
    finally:
        worker = worker_of(process)
        process.kill()
        os.kill(worker, 9)


def worker_of(process: ServeProcess) -> int:
    while not (text := process.log_path.read_text().strip()):
        assert process.alive()
        os.sched_yield()
    return int(text)


@pytest.mark.integration
def test_a_worker_with_a_session_of_its_own_and_no_environment_is_of_the_serve(serve: ServeProcess) -> None:
    worker = worker_of(serve)
    assert serve.pid is not None
    assert worker not in process_group.members(serve.pid, "no mark")
    assert launched_here(worker)
    assert launched_here(serve.pid)


@pytest.mark.integration
def test_a_process_beside_the_serve_is_not_of_it_and_an_ended_serve_has_none(serve: ServeProcess) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        assert not launched_here(other.pid)
        assert not launched_here(os.getpid())
        other.kill()
    worker = worker_of(serve)
    serve.kill()
    assert not launched_here(worker)
    assert serve.pid not in {group for group, _ in launched._RUNNING}
