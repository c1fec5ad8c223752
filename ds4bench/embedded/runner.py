"""Runs steps of the model over the paged caches: the only part of the engine that touches tensors of the model."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

from ds4bench.embedded.batch import Batch, StepInput
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.device.model import DeviceModel
from ds4bench.embedded.model import DeepseekV4
from ds4bench.embedded.weights import Checkpoint, Weights, random_checkpoint, revision

__all__ = ["ModelRunner", "StepInput"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ModelRunner:
    """The model with its caches on one device. ``checkpoint`` None means random weights from ``engine.seed``.

    Raises ValueError for a device that is not there and for a model that the backend cannot run.
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
        if engine.uses_ops:
            self.model = DeviceModel(model, checkpoint, engine.device)
        else:
            self.model = DeepseekV4(model, Weights(checkpoint, dtype))
        self.caches = [LayerCache(model, engine, ratio, dtype) for ratio in model.compress_ratios]

    @property
    def num_blocks(self) -> int:
        """Blocks that the caches hold."""
        return self.engine_config.num_blocks

    @torch.inference_mode()
    def step(self, inputs: list[StepInput]) -> Tensor:
        """Run one step; logits FP32 ``[inputs with want_logits, vocab]`` on the host, in the order of ``inputs``."""
        batch = Batch(inputs, self.engine_config.block_size)
        return self.model(batch, self.caches).to("cpu", torch.float32)


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
