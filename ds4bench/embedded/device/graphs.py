"""Decode steps as CUDA graphs: one per number of rows, captured when it is first needed, replayed on new inputs.

A captured step is a function of buffers that stay where they are. ``DecodeGraphs`` fills the buffers, has the step replayed
and hands out the rows of its outputs. Who captures is exchangeable: ``CudaCapture`` on a GPU; ``EagerCapture`` runs the
same function anew and copies its results into the first run's outputs, so that all but the graph itself can be tested
without a GPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ds4bench.embedded.device.decode import DecodeRow, DecodeShape, PackedRows

log = logging.getLogger(__name__)

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
"""Numbers of rows that are captured. More rows than the last run without a graph; a step is padded to the next size."""

Outputs = tuple[Tensor, Tensor]
"""Streams BF16 ``[rows, 4, dim]`` and logits FP32 ``[rows, vocab]``."""


@dataclass(frozen=True)
class StepBuffers:
    """What a captured step reads: packed rows, and for the MTP block the streams BF16 ``[rows, 4, dim]`` to go on from."""

    rows: PackedRows
    before: Tensor | None


Step = Callable[[StepBuffers], Outputs]


class Capture(Protocol):
    """Makes a step replayable."""

    def __call__(self, step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """(replay, the outputs that a replay overwrites). Runs ``step`` on what the buffers hold, which is padding."""
        ...


class CudaCapture:
    """``torch.cuda.CUDAGraph``. All graphs share one memory pool: an output is valid until another graph is replayed."""

    WARM_UPS = 2
    """Runs before the capture: Triton compiles and cuBLAS allocates there, which a capture must not do."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """See ``Capture``."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UPS):
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = step()
        return graph.replay, outputs


class EagerCapture:
    """Stands in for graphs where there are none: a replay runs the step and writes to the same outputs."""

    def __call__(self, step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """See ``Capture``."""
        outputs = step()

        def replay() -> None:
            for kept, new in zip(outputs, step(), strict=True):
                kept.copy_(new)

        return replay, outputs


@dataclass(frozen=True)
class _Captured:
    buffers: StepBuffers
    replay: Callable[[], None]
    outputs: Outputs


class DecodeGraphs:
    """Replays ``step`` for any number of rows up to the largest of ``sizes``.

    ``before`` is the shape of one row of the streams that the step goes on from, None if it needs none.
    """

    def __init__(
        self, step: Step, capture: Capture, shape: DecodeShape, device: torch.device, *,
        max_rows: int, before: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        self._step = step
        self._capture = capture
        self._shape = shape
        self._device = device
        self._before = before
        self.sizes = sizes_up_to(max_rows)
        self._captured: dict[int, _Captured] = {}

    def holds(self, rows: list[DecodeRow]) -> bool:
        """Whether a replay can compute these rows."""
        return 0 < len(rows) <= self.sizes[-1] and all(row.position < self._shape.max_len for row in rows)

    def run(self, rows: list[DecodeRow], before: Tensor | None = None) -> Outputs:
        """Streams and logits of the rows: views that the next run overwrites."""
        captured = self._for(len(rows))
        captured.buffers.rows.fill(rows)
        if captured.buffers.before is not None:
            assert before is not None
            captured.buffers.before[: len(rows)].copy_(before)
        captured.replay()
        streams, logits = captured.outputs
        return streams[: len(rows)], logits[: len(rows)]

    def warm_up(self) -> float:
        """Capture every size, largest first, so that the smaller ones live in its memory; returns the seconds it took."""
        started = time.perf_counter()
        for size in reversed(self.sizes):
            self._for(size)
        return time.perf_counter() - started

    def _for(self, count: int) -> _Captured:
        size = next(size for size in self.sizes if size >= count)
        if size not in self._captured:
            started = time.perf_counter()
            self._captured[size] = self._new(size)
            log.info("captured a decode step of %d rows in %.2f s", size, time.perf_counter() - started)
        return self._captured[size]

    def _new(self, size: int) -> _Captured:
        before = None
        if self._before is not None:
            before = torch.zeros(size, *self._before, dtype=torch.bfloat16, device=self._device)
        buffers = StepBuffers(PackedRows(size, self._shape, self._device), before)
        replay, outputs = self._capture(lambda: self._step(buffers))
        return _Captured(buffers, replay, outputs)


def sizes_up_to(max_rows: int) -> tuple[int, ...]:
    """The sizes to capture for steps of up to ``max_rows`` rows."""
    smaller = tuple(size for size in SIZES if size < max_rows)
    covering = tuple(size for size in SIZES if size >= max_rows)[:1]
    return smaller + covering
