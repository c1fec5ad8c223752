"""A launched serve's GPUs from the look at NVML to the verdict. The serve is real and runs on the CPU, NVML is a fake."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds4bench.core import CheckResult, Verdict
from ds4bench.gpu_state import GpuState
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import TargetOptions, judged, measure, prepare, started
from ds4bench.spec.load import load_gate
from ds4bench.store import provenance
from tests.targets.fake_nvml import FakeGpu, FakeNvml

pytestmark = pytest.mark.integration
GATES = Path(__file__).parents[2] / "gates"


@pytest.fixture
def other() -> Iterator[int]:
    """A process that is not the serve's."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process.pid
        process.kill()


async def test_a_process_beside_a_launched_serve_on_its_gpu_makes_the_run_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(provenance, "collect", dict)  # asks NVML too, for names
    monkeypatch.setattr(provenance, "hardware_fingerprint", dict)
    nvml = FakeNvml(FakeGpu(), FakeGpu(reasons=0x40))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    gate = load_gate(
        "random", profile="smoke", repeats=1, directory=GATES,
        overrides=["matrix.prompt_tokens=[64]", "matrix.concurrency=[1]", "options.requests=1", "request.max_tokens=2"],
    )  # fmt: skip
    prepared, progress = prepare(gate, None), SilentProgress()
    options = TargetOptions("embedded", serve_args=("--weights", "random"))
    async with started(options, tmp_path / "serve.log", "r1", progress) as serve:
        assert serve.target.pid is not None
        nvml.gpus[0].pids = [serve.target.pid, other]
        run = await measure(prepared, serve, progress, run_id="r1", role="candidate")
    (batch,) = [batch for batch in run.batches if batch.phase == "measure"]
    (warmup,) = [batch for batch in run.batches if batch.phase == "warmup"]
    states: list[GpuState] = [*batch.gpus_before, *batch.gpus_after]
    assert [(state.gpu, list(state.foreign or {})) for state in states] == [(0, [other])] * 2
    assert warmup.gpus_before == warmup.gpus_after == []
    verdict = judged(prepared.gate, run, None).verdict
    quiet: CheckResult = next(check for check in verdict.checks if check.name == "gpu_quiet")
    assert verdict.verdict is Verdict.INVALID
    assert quiet.detail.startswith(f"GPU 0: process {other} (")
    assert quiet.detail.endswith(f") was on it beside the serve in {batch.cell}")
    assert nvml.opened == 0
