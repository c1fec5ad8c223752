"""Share of time per op, from CUDA events around every op of a step.

A prefill step keeps the device busy, so the time between an op's two events is its kernels'. A decode step waits for the
host instead; so the device is told to sleep first, until the host has queued the whole step. Decode steps that come from
a graph show no ops: with ``--profile-ops`` every 32nd runs without one and stands for the others.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from ds4_kernels import ops

from ds4bench.embedded.device import measured

SCHEMA = "ds4bench-op-profile/1"
HOLD_CYCLES = 60_000_000
"""About 30 ms of a GPU's clock: longer than the host needs to queue a decode step of 43 layers."""

DECODE_INTERVAL = 32
OTHER = "other (torch)"


class Mark(Protocol):
    """A point in the device's time."""

    def seconds_until(self, later: Mark) -> float:
        """Seconds from here to ``later``, once the device has passed both."""
        ...


class CudaMark:
    """A CUDA event in the current stream."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._event.record()

    def seconds_until(self, later: Mark) -> float:
        """See ``Mark``."""
        assert isinstance(later, CudaMark)
        later._event.synchronize()
        return float(self._event.elapsed_time(later._event)) / 1e3


class HostMark:
    """The host's clock, where ops run on the host."""

    def __init__(self) -> None:
        self._time = time.perf_counter()

    def seconds_until(self, later: Mark) -> float:
        """See ``Mark``."""
        assert isinstance(later, HostMark)
        return later._time - self._time


@dataclass
class Spent:
    """Seconds on the device and calls of one op."""

    seconds: float = 0.0
    calls: int = 0


@dataclass
class Phase:
    """Prefill or decode: its steps, their tokens, and what they spent."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    ops: defaultdict[str, Spent] = field(default_factory=lambda: defaultdict(Spent))

    def table(self) -> list[dict[str, Any]]:
        """Ops by falling time; what no op spent is the last row."""
        rows = sorted(self.ops.items(), key=lambda item: -item[1].seconds)
        rows.append((OTHER, Spent(max(0.0, self.seconds - sum(spent.seconds for _, spent in rows)))))
        return [
            {
                "op": name,
                "ms": round(1e3 * spent.seconds, 4),
                "calls": spent.calls,
                "share": round(spent.seconds / self.seconds, 4) if self.seconds else 0.0,
            }
            for name, spent in rows
        ]


class OpProfiler:
    """Times the steps that run inside of ``step``. One at a time may be active in a process."""

    def __init__(self, device: torch.device | str) -> None:
        self._on_gpu = torch.device(device).type == "cuda"
        self._mark: Callable[[], Mark] = CudaMark if self._on_gpu else HostMark
        self._open: list[tuple[str, list[tuple[str, Mark, Mark]], Mark, Mark]] = []
        self._decodes = 0
        self.phases: defaultdict[str, Phase] = defaultdict(Phase)

    def wants_decode(self) -> bool:
        """Whether the next decode step is one to profile; counts it."""
        self._decodes += 1
        return self._decodes % DECODE_INTERVAL == 1

    @contextmanager
    def step(self, phase: str, tokens: int) -> Iterator[None]:
        """Time the ops that run inside, as one step of ``phase``."""
        marks: list[tuple[str, Mark, Mark]] = []
        call = ops.call

        def timed(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            begin = self._mark()
            result = function(*args, **kwargs)
            marks.append((name, begin, self._mark()))
            return result

        if self._on_gpu and phase == "decode":
            torch.cuda._sleep(HOLD_CYCLES)  # type: ignore[no-untyped-call]
        begin = self._mark()
        ops.call = lambda name, *args, **kwargs: timed(
            name, call, name, *args, **kwargs
        )  # all ops go through this name
        measured.push(timed)
        try:
            yield
        finally:
            ops.call = call
            measured.pop()
        self._open.append((phase, marks, begin, self._mark()))
        self.phases[phase].steps += 1
        self.phases[phase].tokens += tokens

    def clear(self) -> None:
        """Forget what was timed: kernels were compiled in it."""
        self._open.clear()
        self._decodes = 0
        self.phases.clear()

    def settle(self) -> None:
        """Add up the steps so far; waits for the device."""
        for phase, marks, begin, end in self._open:
            total = self.phases[phase]
            total.seconds += begin.seconds_until(end)
            for name, first, last in marks:
                total.ops[name].seconds += first.seconds_until(last)
                total.ops[name].calls += 1
        self._open.clear()

    def report(self) -> dict[str, Any]:
        """The table of every phase, for JSON."""
        self.settle()
        return {
            "schema": SCHEMA,
            "phases": {
                name: {
                    "steps": phase.steps, "tokens": phase.tokens, "ms": round(1e3 * phase.seconds, 3), "ops": phase.table(),
                }
                for name, phase in self.phases.items()
            },
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """The report as a JSON file, whole at once."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.report(), indent=1) + "\n")
        partial.replace(path)

    def text(self) -> str:
        """The report to read."""
        return "\n".join(line for name, phase in self.report()["phases"].items() for line in _lines(name, phase))


def _lines(name: str, phase: dict[str, Any]) -> Iterator[str]:
    per_step = phase["ms"] / max(1, phase["steps"])
    yield f"{name}: {phase['steps']} profiled steps, {phase['tokens']} tokens, {per_step:.3f} ms a step"
    for row in phase["ops"]:
        yield f"  {row['op']:28} {row['share']:7.1%} {row['ms'] / max(1, phase['steps']):10.4f} ms  {row['calls']:7} calls"
