"""Checkpoints: DeepSeek's tensor names and storage formats, made from a seed or read back, and widened for the CPU.

A checkpoint maps names to tensors as the released one stores them: FP8 linears with E8M0 block scales (``.scale``),
routed experts in MXFP4, the rest in float. ``Weights`` gives the model plain float matrices.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from ds4_kernels.reference import compressor, quant
from torch import Tensor

from ds4bench.embedded.config import C4A, SWA_ONLY, ModelConfig

Checkpoint = dict[str, Tensor]

_FP8_LINEARS = ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "w1", "w2", "w3", "e_proj", "h_proj")

MTP_PREFIX = "mtp.0."
"""Where the checkpoint keeps the MTP block."""


def random_checkpoint(config: ModelConfig, seed: int) -> Checkpoint:
    """Random weights from a seed, quantised as the released checkpoint is (``config.quantize`` False: float)."""
    checkpoint: Checkpoint = {}
    for name, make in Initialiser(config, torch.Generator().manual_seed(seed)).model():
        value = make()
        if not config.quantize or not is_quantised_linear(name):
            checkpoint[name] = value
        elif ".experts." in name:
            checkpoint[name], checkpoint[scale_name(name)] = quant.mxfp4_quantize(value)
        else:
            checkpoint[name], checkpoint[scale_name(name)] = quant.fp8_quantize_weight(value)
    return checkpoint


def revision(checkpoint: Checkpoint) -> str:
    """Twelve hex digits that identify the weights: a hash over names, shapes, dtypes and bytes.

    Without the MTP block, which changes how fast an answer comes but not which.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name in checkpoint if not name.startswith(MTP_PREFIX)):
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
            return quant.fp8_dequantize_weight(stored, self._checkpoint[scale_name(name)], self.dtype)
        if stored.dtype == torch.uint8:
            return quant.mxfp4_dequantize(stored, self._checkpoint[scale_name(name)], self.dtype)
        return stored.to(self.dtype)

    def integer(self, name: str) -> Tensor:
        """A table of ids, as int64."""
        return self._checkpoint[name].to(torch.int64)

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return name in self._checkpoint


def scale_name(name: str) -> str:
    """The name of a quantised weight's scales."""
    return name.removesuffix(".weight") + ".scale"


def is_quantised_linear(name: str) -> bool:
    """Whether the released checkpoint stores this weight in FP8 or MXFP4."""
    parts = name.split(".")
    if "compressor" in parts:  # compressor projections stay BF16 in the released checkpoint
        return False
    return parts[-1] == "weight" and parts[-2] in _FP8_LINEARS


Make = Callable[[], Tensor]


class Initialiser:
    """Random tensors from one generator, on its device, scaled so that activations keep a root mean square near one.

    ``model`` names them all and says how each is made. Who makes them in its order gets the weights of a seed.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        self.config = config
        self.generator = generator
        self.device = generator.device

    def normal(self, *shape: int, std: float) -> Tensor:
        """Normally distributed numbers."""
        return torch.randn(*shape, generator=self.generator, device=self.device) * std

    def linear(self, rows: int, cols: int, gain: float = 1.0) -> Tensor:
        """A matrix whose outputs have ``gain`` times the root mean square of its inputs."""
        return self.normal(rows, cols, std=gain / math.sqrt(cols))

    def norm(self, size: int, gain: float = 1.0) -> Tensor:
        """The weight of an RMS norm."""
        return gain * (1 + self.normal(size, std=0.1))

    def model(self) -> Iterator[tuple[str, Make]]:
        """Name and maker of every tensor, in the order of a seed."""
        config = self.config
        yield "embed.weight", partial(self.normal, config.vocab_size, config.dim, std=1.0)
        for index in range(config.num_layers):
            for name, make in self._block(config.compress_ratios[index], hashed=index < config.num_hash_layers):
                yield f"layers.{index}.{name}", make
        yield "norm.weight", partial(self.norm, config.dim)
        yield "head.weight", partial(self.linear, config.vocab_size, config.dim, gain=3.0)
        yield from self._head_mix()
        for name, make in self._mtp():
            yield MTP_PREFIX + name, make

    def _mtp(self) -> Iterator[tuple[str, Make]]:
        dim = self.config.dim
        yield from self._block(SWA_ONLY, hashed=False)
        for part in ("e", "h"):
            yield f"{part}norm.weight", partial(self.norm, dim)
            # their sum keeps a variance of one
            yield f"{part}_proj.weight", partial(self.linear, dim, dim, gain=math.sqrt(0.5))
        yield "norm.weight", partial(self.norm, dim)
        yield from self._head_mix()

    def _head_mix(self) -> Iterator[tuple[str, Make]]:
        streams = self.config.hc_mult
        yield "hc_head_fn", partial(self.linear, streams, streams * self.config.dim)
        yield "hc_head_base", partial(self.normal, streams, std=0.5)
        yield "hc_head_scale", partial(torch.ones, 1, device=self.device)

    def _block(self, ratio: int, *, hashed: bool) -> Iterator[tuple[str, Make]]:
        config = self.config
        yield from self._attention(ratio)
        yield from self._moe(hashed=hashed)
        yield "attn_norm.weight", partial(self.norm, config.dim)
        yield "ffn_norm.weight", partial(self.norm, config.dim)
        streams = config.hc_mult
        width = (2 + streams) * streams
        for block in ("attn", "ffn"):
            yield f"hc_{block}_base", partial(self._stream_base, streams)
            yield f"hc_{block}_fn", partial(self.linear, width, streams * config.dim)
            yield f"hc_{block}_scale", partial(torch.full, (3,), 0.5, device=self.device)

    def _stream_base(self, streams: int) -> Tensor:
        base = self.normal((2 + streams) * streams, std=0.3)
        base[2 * streams :] += 2 * torch.eye(streams, device=self.device).flatten()  # streams mostly keep to themselves
        return base

    def _attention(self, ratio: int) -> Iterator[tuple[str, Make]]:
        config, linear = self.config, self.linear
        q_width, o_width = config.num_heads * config.head_dim, config.o_groups * config.o_lora_rank
        yield "attn.wq_a.weight", partial(linear, config.q_lora_rank, config.dim)
        yield "attn.q_norm.weight", partial(self.norm, config.q_lora_rank)
        yield "attn.wq_b.weight", partial(linear, q_width, config.q_lora_rank)
        yield "attn.wkv.weight", partial(linear, config.head_dim, config.dim)
        yield "attn.kv_norm.weight", partial(self.norm, config.head_dim, gain=1.5)
        yield "attn.wo_a.weight", partial(linear, o_width, q_width // config.o_groups)
        yield "attn.wo_b.weight", partial(linear, config.dim, o_width)
        yield "attn.attn_sink", partial(self.normal, config.num_heads, std=1.0)
        if ratio:
            yield from self._compressor("attn.compressor", ratio, config.head_dim)
        if ratio == C4A:
            width = config.index_heads * config.index_head_dim
            yield "attn.indexer.wq_b.weight", partial(linear, width, config.q_lora_rank)
            yield "attn.indexer.weights_proj.weight", partial(linear, config.index_heads, config.dim)
            yield from self._compressor("attn.indexer.compressor", ratio, config.index_head_dim)

    def _compressor(self, prefix: str, ratio: int, dim: int) -> Iterator[tuple[str, Make]]:
        width = compressor.overlap(ratio) * dim
        yield f"{prefix}.wkv.weight", partial(self.linear, width, self.config.dim)
        yield f"{prefix}.wgate.weight", partial(self.linear, width, self.config.dim)
        yield f"{prefix}.ape", partial(self.normal, ratio, width, std=0.5)
        yield f"{prefix}.norm.weight", partial(self.norm, dim, gain=1.5)

    def _moe(self, *, hashed: bool) -> Iterator[tuple[str, Make]]:
        config = self.config
        yield "ffn.gate.weight", partial(self.linear, config.num_experts, config.dim)
        if hashed:
            yield "ffn.gate.tid2eid", self._expert_table
        else:
            yield "ffn.gate.bias", partial(self.normal, config.num_experts, std=0.1)
        for name in [f"experts.{e}" for e in range(config.num_experts)] + ["shared_experts"]:
            yield f"ffn.{name}.w1.weight", partial(self.linear, config.expert_dim, config.dim)
            yield f"ffn.{name}.w2.weight", partial(self.linear, config.dim, config.expert_dim)
            yield f"ffn.{name}.w3.weight", partial(self.linear, config.expert_dim, config.dim)

    def _expert_table(self) -> Tensor:
        shape = self.config.vocab_size, self.config.num_experts
        scores = torch.rand(*shape, generator=self.generator, device=self.device)
        return scores.topk(self.config.experts_per_token).indices.to(torch.int32)
