"""The DeepSeek-V4 decoder on the ops of ``ds4_kernels``: BF16 streams, FP8 and MXFP4 weights as they are stored."""

from __future__ import annotations

import torch
from ds4_kernels import ops
from ds4_kernels.reference.hyper_connections import mhc_split_weights
from torch import Tensor

from ds4bench.embedded.batch import Batch
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.device.attention import Attention, Plan
from ds4bench.embedded.device.decode import DecodePlan, DecodeShape, PackedRows
from ds4bench.embedded.device.layers import HyperConnection, MoE
from ds4bench.embedded.device.plan import StepPlan
from ds4bench.embedded.device.weights import BLOCK, Fp32Matrix, ModelWeights
from ds4bench.embedded.model import rope_tables


class Block:
    """Attention, then MoE, each read from and written to the streams by its hyper-connection."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, prefix: str, ratio: int, rope: Tensor) -> None:
        self.attention = Attention(config, weights, f"{prefix}.attn", ratio, rope)
        self.attn_hc = HyperConnection(config, weights, f"{prefix}.hc_attn", f"{prefix}.attn_norm.weight")
        self.moe = MoE(config, weights, f"{prefix}.ffn")
        self.ffn_hc = HyperConnection(config, weights, f"{prefix}.hc_ffn", f"{prefix}.ffn_norm.weight")

    def __call__(self, streams: Tensor, plan: Plan, cache: LayerCache) -> Tensor:
        """streams BF16 ``[T, 4, dim]`` -> the same shape."""
        x, post, comb = self.attn_hc.pre(streams)
        streams = ops.mhc_post(self.attention(x, plan, cache), streams, post, comb)
        x, post, comb = self.ffn_hc.pre(streams)
        streams = ops.mhc_post(self.moe(x, plan.token_ids), streams, post, comb)
        return streams


class Head:
    """Streams to logits: the hyper-connections' last mix, a norm, and the vocabulary's matrix."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, prefix: str, vocabulary: Fp32Matrix) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.norm = weights.tensor(f"{prefix}norm.weight")
        self.fn = mhc_split_weights(weights.tensor(f"{prefix}hc_head_fn"))
        self.scale = weights.tensor(f"{prefix}hc_head_scale")
        self.base = weights.tensor(f"{prefix}hc_head_base")

    def __call__(self, streams: Tensor) -> Tensor:
        """streams BF16 ``[n, 4, dim]`` -> logits FP32 ``[n, vocab]``."""
        if not len(streams):
            return torch.empty(0, self.config.vocab_size, device=streams.device)
        eps = self.config.norm_eps
        x = ops.rms_norm(ops.mhc_head(streams, self.fn, self.scale, self.base, eps, self.config.hc_eps), self.norm, eps)
        return self.vocabulary(x)


class DeviceModel:
    """The whole decoder over paged caches, used as ``model.DeepseekV4`` is.

    The caches lie on the device of ``weights``, their rings made for steps of ``num_drafts`` drafts. Raises ValueError for
    a model that the ops' formats cannot hold.
    """

    def __init__(self, config: ModelConfig, weights: ModelWeights, num_drafts: int = 0) -> None:
        _check(config)
        self.config = config
        self.num_drafts = num_drafts
        self.device = weights.device
        self.embed = weights.tensor("embed.weight", torch.bfloat16)
        self.window_rope, compressed_rope = (table.to(self.device) for table in rope_tables(config, torch.float32))
        self.blocks = [
            Block(config, weights, f"layers.{index}", ratio, compressed_rope if ratio else self.window_rope)
            for index, ratio in enumerate(config.compress_ratios)
        ]
        self.head = Head(config, weights, "", Fp32Matrix(weights.tensor("head.weight")))

    def streams(self, batch: Batch, caches: list[LayerCache]) -> Tensor:
        """Run the step's tokens: the residual streams BF16 ``[T, 4, dim]`` behind the last block."""
        return self._run(StepPlan(batch, self.config, self.device, self.num_drafts), caches)

    def decode(self, rows: PackedRows, shape: DecodeShape, caches: list[LayerCache]) -> tuple[Tensor, Tensor]:
        """Streams and logits FP32 ``[rows, vocab]`` of single tokens that lie in a buffer. Can be captured."""
        streams = self._run(DecodePlan(rows, self.config, shape), caches)
        return streams, self.head(streams)

    def _run(self, plan: Plan, caches: list[LayerCache]) -> Tensor:
        streams = self.embed[plan.token_ids].unsqueeze(1).repeat(1, self.config.hc_mult, 1)
        for block, cache in zip(self.blocks, caches, strict=True):
            streams = block(streams, plan, cache)
        return streams


def _check(config: ModelConfig) -> None:
    if not config.quantize:
        raise ValueError("the ops backend computes on FP8 and MXFP4 weights: it cannot run a model with quantize=False")
    widths = {
        "dim": config.dim,
        "q_lora_rank": config.q_lora_rank,
        "o_lora_rank": config.o_lora_rank,
        "expert_dim": config.expert_dim,
        "num_heads * head_dim / o_groups": config.num_heads * config.head_dim // config.o_groups,
    }
    for name, width in widths.items():
        if width % BLOCK:
            raise ValueError(f"the ops backend needs {name} to be a multiple of {BLOCK}, not {width}")
