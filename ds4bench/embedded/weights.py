"""Checkpoints: DeepSeek's tensor names and storage formats, made from a seed or read back, and widened for the CPU.

A checkpoint maps names to tensors as the released one stores them: FP8 linears with E8M0 block scales (``.scale``), routed
experts in MXFP4, the rest in float. ``Weights`` gives the model plain float matrices.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from ds4_kernels.reference import compressor, quant
from torch import Tensor

from ds4bench.embedded.config import C4A, ModelConfig

Checkpoint = dict[str, Tensor]

_FP8_LINEARS = ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "w1", "w2", "w3")


def random_checkpoint(config: ModelConfig, seed: int) -> Checkpoint:
    """Random weights from a seed, quantised as the released checkpoint is (``config.quantize`` False: float)."""
    generator = torch.Generator().manual_seed(seed)
    checkpoint: Checkpoint = {}
    for name, value in _random_tensors(config, generator):
        if not config.quantize or not _is_quantised_linear(name):
            checkpoint[name] = value
        elif ".experts." in name:
            checkpoint[name], checkpoint[_scale_name(name)] = quant.mxfp4_quantize(value)
        else:
            checkpoint[name], checkpoint[_scale_name(name)] = quant.fp8_quantize_weight(value)
    return checkpoint


def revision(checkpoint: Checkpoint) -> str:
    """Twelve hex digits that identify the weights: a hash over names, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint):
        tensor = checkpoint[name].contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


class Weights:
    """Typed access to a checkpoint: every matrix dequantised to ``dtype``."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self._checkpoint = checkpoint
        self.dtype = dtype

    def matrix(self, name: str) -> Tensor:
        """A linear's weight ``[out, in]``, whatever it is stored as. Raises KeyError for a name that is not there."""
        stored = self._checkpoint[name]
        if stored.dtype == torch.float8_e4m3fn:
            return quant.fp8_dequantize_weight(stored, self._checkpoint[_scale_name(name)], self.dtype)
        if stored.dtype == torch.uint8:
            return quant.mxfp4_dequantize(stored, self._checkpoint[_scale_name(name)], self.dtype)
        return stored.to(self.dtype)

    def integer(self, name: str) -> Tensor:
        """A table of ids, as int64."""
        return self._checkpoint[name].to(torch.int64)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return name in self._checkpoint


def _scale_name(name: str) -> str:
    return name.removesuffix(".weight") + ".scale"


def _is_quantised_linear(name: str) -> bool:
    parts = name.split(".")
    if "compressor" in parts:  # compressor projections stay BF16 in the released checkpoint
        return False
    return parts[-1] == "weight" and parts[-2] in _FP8_LINEARS


def _random_tensors(config: ModelConfig, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    def linear(rows: int, cols: int, gain: float = 1.0) -> Tensor:
        return normal(rows, cols, std=gain / math.sqrt(cols))

    def norm(size: int, gain: float = 1.0) -> Tensor:
        return gain * (1 + normal(size, std=0.1))

    yield "embed.weight", normal(config.vocab_size, config.dim, std=1.0)
    for index in range(config.num_layers):
        prefix = f"layers.{index}"
        yield from ((f"{prefix}.{k}", v) for k, v in _attention_tensors(config, index, linear, norm, normal))
        yield from ((f"{prefix}.ffn.{k}", v) for k, v in _moe_tensors(config, index, linear, normal, generator))
        yield f"{prefix}.attn_norm.weight", norm(config.dim)
        yield f"{prefix}.ffn_norm.weight", norm(config.dim)
        for block in ("attn", "ffn"):
            yield from ((f"{prefix}.hc_{block}_{k}", v) for k, v in _hyper_connection(config, linear, normal))
    yield "norm.weight", norm(config.dim)
    yield "head.weight", linear(config.vocab_size, config.dim, gain=3.0)
    yield "hc_head_fn", linear(config.hc_mult, config.hc_mult * config.dim)
    yield "hc_head_base", normal(config.hc_mult, std=0.5)
    yield "hc_head_scale", torch.ones(1)


def _attention_tensors(config: ModelConfig, index: int, linear, norm, normal):  # type: ignore[no-untyped-def]
    q_width = config.num_heads * config.head_dim
    yield "attn.wq_a.weight", linear(config.q_lora_rank, config.dim)
    yield "attn.q_norm.weight", norm(config.q_lora_rank)
    yield "attn.wq_b.weight", linear(q_width, config.q_lora_rank)
    yield "attn.wkv.weight", linear(config.head_dim, config.dim)
    yield "attn.kv_norm.weight", norm(config.head_dim, gain=1.5)
    yield "attn.wo_a.weight", linear(config.o_groups * config.o_lora_rank, q_width // config.o_groups)
    yield "attn.wo_b.weight", linear(config.dim, config.o_groups * config.o_lora_rank)
    yield "attn.attn_sink", normal(config.num_heads, std=1.0)
    ratio = config.compress_ratios[index]
    if ratio:
        yield from _compressor_tensors(config, "attn.compressor", ratio, config.head_dim, linear, norm, normal)
    if ratio == C4A:
        yield "attn.indexer.wq_b.weight", linear(config.index_heads * config.index_head_dim, config.q_lora_rank)
        yield "attn.indexer.weights_proj.weight", linear(config.index_heads, config.dim)
        yield from _compressor_tensors(
            config, "attn.indexer.compressor", ratio, config.index_head_dim, linear, norm, normal
        )


def _compressor_tensors(config: ModelConfig, prefix: str, ratio: int, dim: int, linear, norm, normal):  # type: ignore[no-untyped-def]
    width = compressor.overlap(ratio) * dim
    yield f"{prefix}.wkv.weight", linear(width, config.dim)
    yield f"{prefix}.wgate.weight", linear(width, config.dim)
    yield f"{prefix}.ape", normal(ratio, width, std=0.5)
    yield f"{prefix}.norm.weight", norm(dim, gain=1.5)


def _moe_tensors(config: ModelConfig, index: int, linear, normal, generator: torch.Generator):  # type: ignore[no-untyped-def]
    yield "gate.weight", linear(config.num_experts, config.dim)
    if index < config.num_hash_layers:
        picks = torch.rand(config.vocab_size, config.num_experts, generator=generator).topk(config.experts_per_token)
        yield "gate.tid2eid", picks.indices.to(torch.int32)
    else:
        yield "gate.bias", normal(config.num_experts, std=0.1)
    names = [f"experts.{e}" for e in range(config.num_experts)] + ["shared_experts"]
    for name in names:
        yield f"{name}.w1.weight", linear(config.expert_dim, config.dim)
        yield f"{name}.w2.weight", linear(config.dim, config.expert_dim)
        yield f"{name}.w3.weight", linear(config.expert_dim, config.dim)


def _hyper_connection(config: ModelConfig, linear, normal):  # type: ignore[no-untyped-def]
    streams = config.hc_mult
    width = (2 + streams) * streams
    yield "fn", linear(width, streams * config.dim)
    base = normal(width, std=0.3)
    base[2 * streams :] += 2 * torch.eye(streams).flatten()  # streams mostly keep to themselves
    yield "base", base
    yield "scale", torch.full((3,), 0.5)
