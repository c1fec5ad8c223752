"""Time per op: every op is counted once, shares add up, and nothing stays hooked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ds4_kernels import ops

from ds4bench.embedded import device_benchmark
from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.device import profiler as profiler_module
from ds4bench.embedded.device.graphs import EagerCapture, Outputs
from ds4bench.embedded.device.profiler import DECODE_INTERVAL, OTHER, OpProfiler
from ds4bench.embedded.runner import ModelRunner

MODEL = ModelConfig(
    name="test", vocab_size=128, dim=128, compress_ratios=(0, 4, 128), num_experts=4, index_heads=4, index_topk=16,
    max_position=1024,
)  # fmt: skip
ENGINE = EngineConfig(block_size=128, num_blocks=8, backend="ops", num_threads=1, max_model_len=512)


class Clock:
    """A device clock that moves by one second with every op."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        clock = self
        call = ops.call

        class Mark:
            def __init__(self) -> None:
                self.time = clock.now

            def seconds_until(self, later: Mark) -> float:
                return later.time - self.time

        def ticking(*args: object, **kwargs: object) -> object:
            clock.now += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(ops, "call", ticking)
        monkeypatch.setattr(profiler_module, "HostMark", Mark)


def test_every_op_of_a_step_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    hooked = ops.call
    profiler = OpProfiler("cpu")
    runner = ModelRunner(MODEL, ENGINE, profiler=profiler)
    runner.step([StepInput([5] * 140, 0, [0, 1], True)])
    runner.step([StepInput([5], 140, [0, 1], True)])
    assert ops.call is hooked
    phases = profiler.report()["phases"]
    prefill, decode = phases["prefill"], phases["decode"]
    assert (prefill["steps"], prefill["tokens"]) == (1, 140)
    assert (decode["steps"], decode["tokens"]) == (1, 1)
    calls = {row["op"]: row["calls"] for row in prefill["ops"]}
    assert calls["sparse_attention_prefill"] == calls["mxfp4_moe"] == 3
    assert calls["mqa_logits_ragged"] == calls["topk_prefill"] == 1
    assert "sparse_attention_decode" not in calls
    for phase in (prefill, decode):
        for row in phase["ops"]:
            assert row["ms"] == (0 if "torch" in row["op"] else 1000 * row["calls"])
        assert math.isclose(sum(row["share"] for row in phase["ops"]), 1, abs_tol=0.01)
    assert clock.now == (prefill["ms"] + decode["ms"]) / 1000


def test_an_error_inside_of_a_step_leaves_nothing_hooked() -> None:
    call, profiler = ops.call, OpProfiler("cpu")
    with pytest.raises(RuntimeError), profiler.step("prefill", 1):
        raise RuntimeError
    assert ops.call is call


def test_of_replayed_decode_steps_one_in_an_interval_is_profiled() -> None:
    replays = 0

    class Counting(EagerCapture):
        def __call__(self, step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
            replay, outputs = super().__call__(step)

            def counted() -> None:
                nonlocal replays
                replays += 1
                replay()

            return counted, outputs

    profiler = OpProfiler("cpu")
    runner = ModelRunner(MODEL, ENGINE, capture=Counting(), profiler=profiler)
    for position in range(DECODE_INTERVAL + 2):
        runner.step([StepInput([5], position, [0], True)])
    assert profiler.report()["phases"]["decode"]["steps"] == 2
    assert replays == DECODE_INTERVAL


def test_the_report_is_a_table_and_a_file(tmp_path: Path) -> None:
    profiler = OpProfiler("cpu")
    with profiler.step("prefill", 3):
        ops.rms_norm(torch.ones(3, 128, dtype=torch.bfloat16), None, 1e-6)
    profiler.write(tmp_path / "ops.json")
    report = json.loads((tmp_path / "ops.json").read_text())
    assert [row["op"] for row in report["phases"]["prefill"]["ops"]] == ["rms_norm", OTHER]
    assert profiler.text().startswith("prefill: 1 profiled steps, 3 tokens")
    assert "rms_norm" in profiler.text()
    profiler.clear()
    assert profiler.report()["phases"] == {}


def test_the_benchmark_runs_every_part_and_keeps_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "speed.json"
    arguments = "--device cpu --dims tiny --prompt 140 --decode 2 --batches 2 --num-blocks 4 --rounds 1 --json"
    assert device_benchmark.main([*arguments.split(), str(path)]) == 0
    result = json.loads(path.read_text())
    assert result["schema"] == device_benchmark.SCHEMA
    assert result["prefill_tok_s"]["first"] > 0
    assert len(result["prefill_tok_s"]["rounds"]) == 1
    assert result["decode_batch_ms"]["2"] > 0
    assert set(result["ops"]["phases"]) == {"prefill", "decode"}
    assert "sparse_attention_prefill" in capsys.readouterr().out


def test_a_part_that_fails_is_a_result_and_the_next_ones_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(device_benchmark._Bench, "decode_eager", broken)
    path = tmp_path / "speed.json"
    arguments = "--device cpu --dims tiny --prompt 20 --decode 2 --batches 1 --num-blocks 4 --rounds 1 --json"
    assert device_benchmark.main([*arguments.split(), str(path)]) == 1
    result = json.loads(path.read_text())
    assert result["decode_eager_error"] == "RuntimeError: no such kernel"
    assert "ops" in result


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message of a machine without a GPU")
def test_the_benchmark_without_a_gpu_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert device_benchmark.main([]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err
