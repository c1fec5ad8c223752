"""Speed of the engine on the ops' backend: ``python -m ds4bench.embedded.device_benchmark --json speed.json``.

Without server or client: prefill of one long prompt in the serve's own chunks, greedy decode behind it with and without
CUDA graphs, decode of several sequences, the share of time per op, the kernels inside a replay, and memory. Every result is
printed (and written to the JSON file) when it is there; a part that fails says so and the next one runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ds4bench.embedded.config import GPU_BATCHED_TOKENS, GPU_BLOCKS, EngineConfig, ModelConfig, flash
from ds4bench.embedded.device.memory import flash_that_fits
from ds4bench.embedded.device.profiler import OpProfiler
from ds4bench.embedded.device.random_weights import RandomWeights
from ds4bench.embedded.runner import ModelRunner, StepInput, require_device

SCHEMA = "ds4bench-device-benchmark/1"
VOCABULARY = 2048
"""Of the engine's tokenizer, see ``config.flash``."""

EAGER_TOKENS = 16
PROFILED_DECODES = 3


@dataclass
class Results:
    """What has been measured so far, printed line by line and kept in a file."""

    path: Path | None
    deadline: float
    values: dict[str, Any] = field(default_factory=lambda: {"schema": SCHEMA})

    def add(self, name: str, value: Any, line: str) -> None:
        """Keep a result and say it."""
        self.values[name] = value
        say(line)
        if self.path is not None:
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text(json.dumps(self.values, indent=1) + "\n")
            partial.replace(self.path)

    def part(self, name: str, measure: Callable[[], None]) -> None:
        """Measure one part. An error in it is a result, too."""
        if time.monotonic() > self.deadline:
            self.add(f"{name}_error", "no time left", f"{name}: left out, no time left (--budget)")
            return
        try:
            measure()
        except Exception as error:
            traceback.print_exc()
            self.add(f"{name}_error", f"{type(error).__name__}: {error}", f"{name}: FAILED, {error}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a part failed, 2 if nothing can run here."""
    options = _parser().parse_args(argv)
    results = Results(options.json, time.monotonic() + options.budget)
    try:
        bench = _Bench(options, results)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    results.part("prefill", bench.prefill)
    results.part("decode_graphs", bench.decode_graphs)
    results.part("decode_eager", bench.decode_eager)
    results.part("decode_batches", bench.decode_batches)
    results.part("ops", bench.ops)
    results.part("kernels", bench.kernels)
    results.part("memory", bench.memory)
    return int(any(name.endswith("_error") for name in results.values))


class _Bench:
    """A runner with one long sequence in its cache."""

    def __init__(self, options: argparse.Namespace, results: Results) -> None:
        require_device(options.device)
        self.results = results
        self.decode_tokens = options.decode
        self.rounds = options.rounds
        self.batches = options.batches
        self.on_gpu = options.device != "cpu"
        reach = options.prompt + 2 * options.decode + 64
        self.config = config = EngineConfig(
            num_blocks=max(options.num_blocks, -(-reach // 256) + max(options.batches)),
            max_num_seqs=max(options.batches),
            max_num_batched_tokens=options.max_num_batched_tokens,
            max_model_len=max(131_072, reach),
            device=options.device,
            backend="ops",
        )
        model = ModelConfig(vocab_size=VOCABULARY)
        if options.dims == "flash":
            model = flash(options.layers, VOCABULARY) if options.layers else flash_that_fits(config, VOCABULARY)
        started = time.perf_counter()
        self.profiler = OpProfiler(options.device)
        self.runner = ModelRunner(model, config, RandomWeights(model, config.seed, config.device))
        self.sync()
        seconds = time.perf_counter() - started
        self.prompt = torch.randint(
            20, VOCABULARY, (options.prompt,), generator=torch.Generator().manual_seed(1)
        ).tolist()
        self.blocks = list(range(-(-reach // config.block_size)))
        self.position = options.prompt
        self.token = 20
        device = torch.cuda.get_device_name() if self.on_gpu else "cpu"
        gib = torch.cuda.memory_allocated() / 2**30 if self.on_gpu else 0.0
        results.add(
            "setup",
            {"device": device, "torch": torch.__version__, "model": model.name, "layers": model.num_layers,
             "compress_ratios": model.compress_ratios, "prompt": options.prompt, "chunk": config.max_num_batched_tokens,
             "build_s": round(seconds, 2), "allocated_gib": round(gib, 2)},
            f"{device}, torch {torch.__version__}: {model.name}, {model.num_layers} layers and caches "
            f"made in {seconds:.1f} s, {gib:.1f} GiB",
        )  # fmt: skip

    def sync(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def prefill(self) -> None:
        """The whole prompt, ``rounds`` times; the first one compiles."""
        rates = []
        for index in range(self.rounds + 1):
            seconds = self._prefill_once()
            rates.append(len(self.prompt) / seconds)
            self.results.add(
                "prefill_tok_s",
                {"first": round(rates[0], 1), "rounds": [round(rate, 1) for rate in rates[1:]]},
                f"prefill of {len(self.prompt):,} tokens, round {index}: {rates[-1]:,.0f} tok/s ({seconds:.3f} s)"
                + (" with compilation" if index == 0 else ""),
            )

    def decode_graphs(self) -> None:
        """Decode at c=1; captures first."""
        if not self.runner.uses_graphs:
            say("decode with graphs: none on this device")
            return
        started = time.perf_counter()
        self._decode(1, 2)
        self.results.add("capture_s", round(time.perf_counter() - started, 2), "captured a decode step of one row")
        self._report_decode("decode_ms", "decode with a graph", self._decode(1, self.decode_tokens))

    def decode_eager(self) -> None:
        """Decode at c=1 without graphs."""
        with self.runner.without_graphs():
            self._decode(1, 2)
            self._report_decode("decode_eager_ms", "decode without graphs", self._decode(1, EAGER_TOKENS))

    def decode_batches(self) -> None:
        """Steps of several sequences, which share all blocks but the last."""
        rows = {}
        for batch in self.batches:
            self._decode(batch, 2)
            times = self._decode(batch, EAGER_TOKENS)
            rows[str(batch)] = round(statistics.median(times), 4)
            rate = 1e3 * batch / statistics.median(times)
            self.results.add(
                "decode_batch_ms", rows, f"decode of {batch} sequences: {rows[str(batch)]} ms a step, {rate:,.0f} tok/s"
            )

    def ops(self) -> None:
        """Share of time per op: a prefill of the whole prompt, then decode steps without graphs."""
        with self.runner.profiled(self.profiler):
            self._prefill_once()
            self.runner.step([self._input(0)])
        report = self.profiler.report()
        self.results.add("ops", report, self.profiler.text())

    def kernels(self) -> None:
        """What runs on the GPU inside one decode step, by kernel, from the GPU's own record."""
        if not self.on_gpu:
            return
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as record:
            for _ in range(PROFILED_DECODES):
                self.runner.step([self._input(0)])
            self.sync()
        spent = [(event.key, event.self_device_time_total, event.count) for event in record.key_averages()]
        spent = sorted((item for item in spent if item[1] > 0), key=lambda item: -item[1])
        rows = [
            {"kernel": key[:100], "us_per_step": round(us / PROFILED_DECODES, 2), "calls": count // PROFILED_DECODES}
            for key, us, count in spent[:40]
        ]
        total = sum(us for _, us, _ in spent) / PROFILED_DECODES
        lines = [f"  {row['us_per_step']:9.2f} us {row['calls']:5} x {row['kernel']}" for row in rows]
        self.results.add("kernels", rows, "\n".join([f"kernels of a decode step: {total:,.0f} us", *lines]))

    def memory(self) -> None:
        """Peaks of torch's allocator."""
        if self.on_gpu:
            peak, reserved = torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30
            self.results.add(
                "memory", {"peak_gib": round(peak, 2), "reserved_gib": round(reserved, 2)},
                f"memory: {peak:.1f} GiB at most, {reserved:.1f} GiB reserved",
            )  # fmt: skip

    def _prefill_once(self) -> float:
        chunk, end = self.config.max_num_batched_tokens, len(self.prompt)
        self.sync()
        started = time.perf_counter()
        for begin in range(0, end, chunk):
            stop = min(end, begin + chunk)
            logits = self.runner.step([StepInput(self.prompt[begin:stop], begin, self.blocks, stop == end)])
        self.token = int(logits.argmax())
        return time.perf_counter() - started

    def _decode(self, batch: int, count: int) -> list[float]:
        """Milliseconds of each of ``count`` steps."""
        times = []
        for _ in range(count):
            inputs = [self._input(row) for row in range(batch)]
            started = time.perf_counter()
            self.token = int(self.runner.step(inputs)[0].argmax())
            times.append(1e3 * (time.perf_counter() - started))
            self.position = self.position + 1 if self.position + 1 < len(self.prompt) + 60 else len(self.prompt)
        return times

    def _input(self, row: int) -> StepInput:
        blocks = self.blocks[: self.position // self.config.block_size + 1]
        own = blocks[-1] if row == 0 else self.config.num_blocks - row
        return StepInput([self.token], self.position, [*blocks[:-1], own], True)

    def _report_decode(self, name: str, what: str, times: list[float]) -> None:
        median, slow = statistics.median(times), sorted(times)[int(0.9 * len(times))]
        self.results.add(
            name, {"median": round(median, 4), "p90": round(slow, 4), "steps": len(times)},
            f"{what} behind {len(self.prompt):,} tokens: median {median:.3f} ms, p90 {slow:.3f} ms a token",
        )  # fmt: skip


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ds4bench.embedded.device_benchmark", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:<index> or cpu")
    parser.add_argument("--dims", choices=["tiny", "flash"], default="flash")
    parser.add_argument("--layers", type=int, default=8, help="layers of flash (default 8; 0: as many as fit)")
    parser.add_argument("--prompt", type=int, default=62_080, metavar="TOKENS")
    parser.add_argument("--decode", type=int, default=64, metavar="TOKENS")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="sequences a decode step"
    )
    parser.add_argument("--rounds", type=int, default=2, help="prefills behind the first, which compiles")
    parser.add_argument("--max-num-batched-tokens", type=int, default=GPU_BATCHED_TOKENS, help="prefill chunk")
    parser.add_argument("--num-blocks", type=int, default=GPU_BLOCKS)
    parser.add_argument("--budget", type=float, default=200.0, metavar="S", help="no part starts after this time")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
