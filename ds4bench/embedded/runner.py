"""Runs steps of the model over the paged caches: the only part of the engine that touches tensors of the model."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from ds4_kernels import ops
from torch import Tensor

from ds4bench.embedded.batch import Batch, StepInput
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import C128A, SWA_ONLY, EngineConfig, ModelConfig
from ds4bench.embedded.device.model import DeviceModel
from ds4bench.embedded.device.mtp import DeviceMtpBlock
from ds4bench.embedded.device.profiler import OpProfiler
from ds4bench.embedded.device.replay import Capture, CudaCapture, GraphRunner
from ds4bench.embedded.device.upload import upload
from ds4bench.embedded.device.weights import ModelWeights, StoredWeights
from ds4bench.embedded.model import DeepseekV4
from ds4bench.embedded.mtp import MtpBlock
from ds4bench.embedded.weights import MTP_PREFIX, Checkpoint, Weights, random_checkpoint, revision

__all__ = ["ModelRunner", "StepInput"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ModelRunner:
    """The model with its caches on one device. ``checkpoint`` None means random weights from ``engine.seed``.

    Decode steps are captured by ``capture`` and replayed: with CUDA graphs on a GPU unless ``enforce_eager`` or an op runs
    on its reference (``DS4_KERNELS``), by default not at all elsewhere. ``profiler`` times the steps.

    Raises ValueError for a device that is not there, for a model that the backend cannot run, and for speculation with a
    checkpoint that has no MTP block.
    """

    def __init__(
        self,
        model: ModelConfig,
        engine: EngineConfig,
        checkpoint: Checkpoint | ModelWeights | None = None,
        *,
        capture: Capture | None = None,
        profiler: OpProfiler | None = None,
    ) -> None:
        require_device(engine.device)
        if torch.device(engine.device).index is not None:
            torch.cuda.set_device(torch.device(engine.device))  # of this thread: where Triton launches
        _keep_freed_memory()
        if engine.num_threads is not None:
            torch.set_num_threads(engine.num_threads)
        self.model_config = model
        self.engine_config = engine
        self._profiler = profiler
        self.model: DeepseekV4 | DeviceModel
        self.mtp: MtpBlock | DeviceMtpBlock | None = None
        self._graphs: GraphRunner | None = None
        if checkpoint is None:
            checkpoint = random_checkpoint(model, engine.seed)
        dtype = _DTYPES[engine.dtype]
        if engine.uses_ops:
            weights = (
                StoredWeights(checkpoint, torch.device(engine.device)) if isinstance(checkpoint, dict) else checkpoint
            )
            self._load_device(weights)
        elif isinstance(checkpoint, dict):
            self._load_fused(checkpoint, dtype)
        else:
            raise ValueError("the fused backend reads whole checkpoints; these weights need --backend ops")
        self.caches = [LayerCache(model, engine, ratio, dtype) for ratio in model.compress_ratios]
        self.mtp_cache = LayerCache(model, engine, SWA_ONLY, dtype) if engine.num_speculative_tokens else None
        if capture is None and engine.device != "cpu" and not engine.enforce_eager and capturable(engine.device):
            capture = CudaCapture()
        if capture is not None and isinstance(self.model, DeviceModel):
            mtp = self.mtp if isinstance(self.mtp, DeviceMtpBlock) else None
            self._graphs = GraphRunner(self.model, self.caches, mtp, self.mtp_cache, engine, capture)
        self._streams: list[Tensor] = []  # of each input of the last call, as a draft may go on from them

    def _load_device(self, weights: ModelWeights) -> None:
        drafts = self.engine_config.num_speculative_tokens
        self.weights_revision = weights.revision()
        _require_mtp(drafts, weights.has_mtp())
        self.model = model = DeviceModel(self.model_config, weights, drafts)
        self.mtp = DeviceMtpBlock(model, weights) if drafts else None

    def _load_fused(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        drafts = self.engine_config.num_speculative_tokens
        self.weights_revision = revision(checkpoint)
        _require_mtp(drafts, any(name.startswith(MTP_PREFIX) for name in checkpoint))
        weights = Weights(checkpoint, dtype)
        self.model = model = DeepseekV4(self.model_config, weights)
        self.mtp = MtpBlock(self.model_config, weights, model) if drafts else None

    @property
    def num_blocks(self) -> int:
        """Blocks that the caches hold."""
        return self.engine_config.num_blocks

    @property
    def uses_graphs(self) -> bool:
        """Whether decode steps are replayed."""
        return self._graphs is not None

    @contextmanager
    def without_graphs(self) -> Iterator[None]:
        """Decode step by step inside."""
        graphs, self._graphs = self._graphs, None
        try:
            yield
        finally:
            self._graphs = graphs

    @contextmanager
    def profiled(self, profiler: OpProfiler) -> Iterator[None]:
        """Let ``profiler`` time the steps inside."""
        before, self._profiler = self._profiler, profiler
        try:
            yield
        finally:
            self._profiler = before

    def warm_up(self) -> None:
        """Compile the kernels and capture the decode steps now instead of when they are first needed; on a GPU only.

        Runs a prefill chunk and an answer's first tokens over blocks that nobody owns yet: call it before any request.
        """
        if self._graphs is None and self.engine_config.device == "cpu":
            return
        engine = self.engine_config
        room = min(self.num_blocks * engine.block_size, engine.max_model_len)
        length = min(engine.max_num_batched_tokens, room - 2)
        blocks = list(range(-(-(length + 2) // engine.block_size)))
        for count in (length, min(length, 2 * C128A)):  # a full chunk, and one whose kernels have small tiles
            inputs = [StepInput([2] * count, 0, blocks, want_logits=True)]
            self.step(inputs)
            if self.mtp is not None:
                self.draft(inputs, [0])
        self.capture_all()
        if self._profiler is not None:
            self._profiler.clear()

    @torch.inference_mode()
    def capture_all(self) -> None:
        """Capture every decode step; no cache changes."""
        if self._graphs is not None:
            self._graphs.warm_up()

    @torch.inference_mode()
    def step(self, inputs: list[StepInput]) -> Tensor:
        """Run one step; the logits that ``inputs`` want, in their order, FP32 ``[n, vocab]`` on the host."""
        decodes = all(item.is_decode for item in inputs)
        profiled = self._profiler is not None and (not decodes or self._profiler.wants_decode())
        if decodes and not profiled and self._graphs is not None and self._graphs.holds(inputs):
            result = self._graphs.step(inputs)
            self._streams = result.streams
            return result.logits
        with self._profile("decode" if decodes else "prefill", inputs, profiled):
            batch = Batch(inputs, self.engine_config.block_size)
            streams = self.model.streams(batch, self.caches)
            if self.mtp is not None:
                self._streams = [streams[rows] for rows in batch.rows]
            logits = self._logits(self.model.head, streams, batch)
        return self._on_host(logits)

    @torch.inference_mode()
    def draft(self, inputs: list[StepInput], sources: list[int]) -> Tensor:
        """Run the MTP block; logits as those of ``step``.

        Input i has the tokens *behind* the positions that it names. It goes on from input ``sources[i]`` of the last
        call: after ``step`` from that input's first positions, after ``draft`` from the last position, where only inputs
        that wanted logits are counted.
        """
        assert self.mtp is not None and self.mtp_cache is not None
        before = [self._streams[source][: len(item.token_ids)] for source, item in zip(sources, inputs, strict=True)]
        if self._graphs is not None and self._graphs.holds_draft(inputs):
            result = self._graphs.draft(inputs, torch.cat(before))
            self._streams = result.streams
            return result.logits
        batch = Batch(inputs, self.engine_config.block_size)
        streams = self.mtp.streams(batch, torch.cat([before[i] for i in batch.order]), self.mtp_cache)
        wanted = [rows for rows, item in zip(batch.rows, inputs, strict=True) if item.want_logits]
        self._streams = [streams[rows.stop - 1 : rows.stop] for rows in wanted]
        return self._on_host(self._logits(self.mtp.head, streams, batch))

    def _profile(self, phase: str, inputs: list[StepInput], profiled: bool) -> AbstractContextManager[None]:
        if self._profiler is None or not profiled:
            return nullcontext()
        return self._profiler.step(phase, sum(len(item.token_ids) for item in inputs))

    def _on_host(self, logits: Tensor) -> Tensor:
        """Waits for the device only if there are logits: a prefill's chunks are queued one behind the other."""
        if not len(logits):
            return torch.empty(logits.shape)
        host = logits.to("cpu", torch.float32)
        if self._profiler is not None:
            self._profiler.settle()
        return host

    @staticmethod
    def _logits(head: Callable[[Tensor], Tensor], streams: Tensor, batch: Batch) -> Tensor:
        return head(streams[upload(batch.logit_rows, streams.device)])


def require_device(device: str) -> None:
    """Raise ValueError for a CUDA device where torch finds none."""
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch {torch.__version__} finds no CUDA device here")


def capturable(device: str) -> bool:
    """Whether every op may run inside a CUDA graph: the references synchronise with the host."""
    return all(choice.backend == "triton" for choice in ops.describe(device))


def _require_mtp(drafts: int, has_mtp: bool) -> None:
    if drafts and not has_mtp:
        raise ValueError("the checkpoint has no MTP block to speculate with; use num_speculative_tokens 0")


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: a step's temporaries would else be unmapped and faulted in anew each time.

    Measured on two cores: a gather of 128 MiB takes an eighth of the time, a pass over 64 MiB a tenth.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # names of malloc.h
    mallopt(mmap_max, 0)
    mallopt(arena_max, 1)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 64 * 2**20)
