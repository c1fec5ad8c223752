"""Runs steps of the model over the paged caches: the only part of the engine that touches tensors of the model."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from ds4bench.embedded.batch import Batch, StepInput
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import SWA_ONLY, EngineConfig, ModelConfig
from ds4bench.embedded.device.model import DeviceModel
from ds4bench.embedded.device.mtp import DeviceMtpBlock
from ds4bench.embedded.model import DeepseekV4
from ds4bench.embedded.mtp import MtpBlock
from ds4bench.embedded.weights import MTP_PREFIX, Checkpoint, Weights, random_checkpoint, revision

__all__ = ["ModelRunner", "StepInput"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ModelRunner:
    """The model with its caches on one device. ``checkpoint`` None means random weights from ``engine.seed``.

    Raises ValueError for a device that is not there, for a model that the backend cannot run, and for speculation with a
    checkpoint that has no MTP block.
    """

    def __init__(self, model: ModelConfig, engine: EngineConfig, checkpoint: Checkpoint | None = None) -> None:
        if engine.device != "cpu" and not torch.cuda.is_available():
            raise ValueError(f"device {engine.device}: torch {torch.__version__} finds no CUDA device here")
        _keep_freed_memory()
        if engine.num_threads is not None:
            torch.set_num_threads(engine.num_threads)
        checkpoint = random_checkpoint(model, engine.seed) if checkpoint is None else checkpoint
        dtype = _DTYPES[engine.dtype]
        self.model_config = model
        self.engine_config = engine
        self.weights_revision = revision(checkpoint)
        self.model: DeepseekV4 | DeviceModel
        self.mtp: MtpBlock | DeviceMtpBlock | None = None
        speculates = engine.num_speculative_tokens > 0
        if speculates and not any(name.startswith(MTP_PREFIX) for name in checkpoint):
            raise ValueError("the checkpoint has no MTP block to speculate with; use num_speculative_tokens 0")
        if engine.uses_ops:
            self.model = device_model = DeviceModel(model, checkpoint, engine.device, engine.num_speculative_tokens)
            self.mtp = DeviceMtpBlock(device_model, checkpoint) if speculates else None
        else:
            weights = Weights(checkpoint, dtype)
            self.model = fused_model = DeepseekV4(model, weights)
            self.mtp = MtpBlock(model, weights, fused_model) if speculates else None
        self.caches = [LayerCache(model, engine, ratio, dtype) for ratio in model.compress_ratios]
        self.mtp_cache = LayerCache(model, engine, SWA_ONLY, dtype) if speculates else None
        self._streams: list[Tensor] = []  # of each input of the last call, as a draft may go on from them

    @property
    def num_blocks(self) -> int:
        """Blocks that the caches hold."""
        return self.engine_config.num_blocks

    @torch.inference_mode()
    def step(self, inputs: list[StepInput]) -> Tensor:
        """Run one step; the logits that ``inputs`` want, in their order, FP32 ``[n, vocab]`` on the host."""
        batch = Batch(inputs, self.engine_config.block_size)
        streams = self.model.streams(batch, self.caches)
        if self.mtp is not None:
            self._streams = [streams[rows] for rows in batch.rows]
        return self._logits(self.model.head, streams, batch)

    @torch.inference_mode()
    def draft(self, inputs: list[StepInput], sources: list[int]) -> Tensor:
        """Run the MTP block; logits as those of ``step``.

        Input i has the tokens *behind* the positions that it names. It goes on from input ``sources[i]`` of the last
        call: after ``step`` from that input's first positions, after ``draft`` from the last position, where only inputs
        that wanted logits are counted.
        """
        assert self.mtp is not None and self.mtp_cache is not None
        batch = Batch(inputs, self.engine_config.block_size)
        before = torch.cat([self._streams[sources[i]][: len(inputs[i].token_ids)] for i in batch.order])
        streams = self.mtp.streams(batch, before, self.mtp_cache)
        wanted = [rows for rows, item in zip(batch.rows, inputs, strict=True) if item.want_logits]
        self._streams = [streams[rows.stop - 1 : rows.stop] for rows in wanted]
        return self._logits(self.mtp.head, streams, batch)

    @staticmethod
    def _logits(head: Callable[[Tensor], Tensor], streams: Tensor, batch: Batch) -> Tensor:
        return head(streams[batch.logit_rows.to(streams.device)]).to("cpu", torch.float32)


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
