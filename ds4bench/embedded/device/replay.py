"""Decode steps of a runner as replays: which inputs a graph can compute, and what the runner gets back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import EngineConfig
from ds4bench.embedded.device.decode import DecodeRow, DecodeShape
from ds4bench.embedded.device.graphs import Capture, CudaCapture, DecodeGraphs, EagerCapture
from ds4bench.embedded.device.model import DeviceModel
from ds4bench.embedded.device.mtp import DeviceMtpBlock

__all__ = ["Capture", "CudaCapture", "EagerCapture", "GraphRunner", "Replayed"]


@dataclass(frozen=True)
class Replayed:
    """Logits that were wanted, FP32 ``[n, vocab]`` on the host, and the streams that a draft may go on from."""

    logits: Tensor
    streams: list[Tensor]


class GraphRunner:
    """The graphs of the model's decode step and, with speculation, of its MTP block's."""

    def __init__(
        self, model: DeviceModel, caches: list[LayerCache], mtp: DeviceMtpBlock | None, mtp_cache: LayerCache | None,
        engine: EngineConfig, capture: Capture,
    ) -> None:  # fmt: skip
        drafts = engine.num_speculative_tokens
        self._shape = DecodeShape(engine.block_size, engine.max_model_len + drafts, drafts)
        self._depth = drafts
        shape, rows = self._shape, engine.max_num_seqs * (1 + drafts)
        self._model = DecodeGraphs(
            lambda buffers: model.decode(buffers.rows, shape, caches), capture, shape, model.device, max_rows=rows
        )
        self._mtp: DecodeGraphs | None = None
        if mtp is not None and mtp_cache is not None:
            self._mtp = DecodeGraphs(
                lambda buffers: mtp.decode(buffers, shape, mtp_cache), capture, shape, model.device, max_rows=rows,
                before=(model.config.hc_mult, model.config.dim),
            )  # fmt: skip

    def warm_up(self) -> None:
        """Capture everything."""
        self._model.warm_up()
        if self._mtp is not None:
            self._mtp.warm_up()

    def holds(self, inputs: list[StepInput]) -> bool:
        """Whether a replay can compute this step."""
        return all(item.is_decode for item in inputs) and self._model.holds(self._rows(inputs))

    def holds_draft(self, inputs: list[StepInput]) -> bool:
        """Whether a replay can compute this draft: at most the accepted drafts and one token of each sequence."""
        few = all(len(item.token_ids) <= 1 + self._depth for item in inputs)
        return few and self._mtp is not None and self._mtp.holds(self._rows(inputs))

    def step(self, inputs: list[StepInput]) -> Replayed:
        """The model's decode step."""
        streams, logits = self._model.run(self._rows(inputs))
        spans = _spans(inputs)
        rows = [row for item, span in zip(inputs, spans, strict=True) if item.want_logits for row in span]
        kept = []
        if self._mtp is not None:
            whole = streams.clone()  # the graph's own memory is another graph's workspace
            kept = [whole[span.start : span.stop] for span in spans]
        return Replayed(_chosen(logits, rows), kept)

    def draft(self, inputs: list[StepInput], before: Tensor) -> Replayed:
        """The MTP block behind each input's positions; ``before`` are the streams of all of them, in order."""
        assert self._mtp is not None
        streams, logits = self._mtp.run(self._rows(inputs), before)
        spans = [span for item, span in zip(inputs, _spans(inputs), strict=True) if item.want_logits]
        whole = streams.clone()
        return Replayed(
            _chosen(logits, [span.stop - 1 for span in spans]), [whole[span.stop - 1 : span.stop] for span in spans]
        )

    def _rows(self, inputs: list[StepInput]) -> list[DecodeRow]:
        size = self._shape.block_size
        return [
            DecodeRow(token, position, item.block_ids[: position // size + 1])
            for item in inputs
            for position, token in enumerate(item.token_ids, start=item.start)
        ]


def _spans(inputs: list[StepInput]) -> list[range]:
    """The rows of each input."""
    spans = []
    first = 0
    for item in inputs:
        spans.append(range(first, first + len(item.token_ids)))
        first += len(item.token_ids)
    return spans


def _chosen(logits: Tensor, rows: list[int]) -> Tensor:
    """Some rows, on the host. All rows are copied, as they are few; if none is wanted, nobody waits."""
    if not rows:
        return torch.empty(0, logits.shape[1])
    host = logits.to("cpu", torch.float32, copy=True)
    return host if rows == list(range(len(host))) else host[rows]
