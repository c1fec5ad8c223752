"""How many layers of a model a device holds, with their caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from ds4_kernels.reference import compressor

from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import C4A, FLASH_LAYERS, EngineConfig, ModelConfig, flash

FP4_BYTES = 1 / 2 + 1 / 32
BF16_BYTES = 2
STEP_BYTES_PER_TOKEN = 1_000_000
"""What a step's temporaries take at most, for each of its tokens, at Flash's dimensions (calculated): streams three times
(3 x 32 KiB), queries and outputs of 64 heads (4 x 64 KiB), the experts' pairs (6 x about 70 KiB), FP32 projections."""

FIXED_BYTES = 6 * 2**30
"""Vocabulary, rope tables, MTP block's caches, score buffers, CUDA context and graphs."""


def layer_bytes(model: ModelConfig, ratio: int) -> int:
    """Bytes of a layer's weights on the device, small vectors left out."""
    q_width, o_width = model.num_heads * model.head_dim, model.o_groups * model.o_lora_rank
    fp8 = model.dim * (model.q_lora_rank + model.head_dim + o_width) + model.q_lora_rank * q_width
    fp8 += o_width * q_width // model.o_groups
    fp8 += 3 * model.dim * model.expert_dim  # the shared expert
    wide = model.num_experts
    if ratio:
        wide += 2 * compressor.overlap(ratio) * model.head_dim
    if ratio == C4A:
        fp8 += model.q_lora_rank * model.index_heads * model.index_head_dim
        wide += 2 * compressor.overlap(ratio) * model.index_head_dim + model.index_heads
    experts = 3 * model.num_experts * model.dim * model.expert_dim * FP4_BYTES
    return int(experts + fp8 + wide * model.dim * BF16_BYTES)


def cache_bytes(model: ModelConfig, engine: EngineConfig, ratio: int) -> int:
    """Bytes of a layer's caches and rings."""
    block = LayerCache(model, replace(engine, num_blocks=1, device="cpu"), ratio, torch.float32)
    parts = (block.window, block.compressed, block.index)
    caches = sum(part.data.nbytes for part in parts if part is not None)
    rings = sum(ring.rows.nbytes for ring in (block.ring, block.index_ring) if ring is not None)
    return (caches + rings) * engine.num_blocks


def layers_that_fit(model_of: Callable[[int], ModelConfig], most: int, engine: EngineConfig, free_bytes: int) -> int:
    """The largest number of layers, up to ``most``, that ``free_bytes`` hold. Raises ValueError if not even one fits."""
    whole = model_of(most)
    left = free_bytes - FIXED_BYTES - STEP_BYTES_PER_TOKEN * engine.max_num_batched_tokens
    if engine.num_speculative_tokens:
        left -= layer_bytes(whole, 0)
    count = 0
    for ratio in whole.compress_ratios:
        left -= layer_bytes(whole, ratio) + cache_bytes(whole, engine, ratio)
        if left < 0:
            break
        count += 1
    if not count:
        raise ValueError(
            f"not one layer of {whole.name} fits into {free_bytes / 2**30:.1f} GiB of free GPU memory; lower --num-blocks"
        )
    return count


def flash_that_fits(engine: EngineConfig, vocab_size: int) -> ModelConfig:
    """``config.flash`` with as many layers as the GPU's free memory holds. Raises ValueError on a CPU."""
    if engine.device == "cpu":
        raise ValueError("on a CPU --dims flash needs --layers: one layer takes 3.5 GB and a step many minutes")
    if not torch.cuda.is_available():
        raise ValueError(f"device {engine.device}: torch {torch.__version__} finds no CUDA device here")
    free, _ = torch.cuda.mem_get_info(torch.device(engine.device))
    return flash(layers_that_fit(lambda count: flash(count, vocab_size), FLASH_LAYERS, engine, free), vocab_size)
