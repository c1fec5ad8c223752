"""The DeepSeek-V4 decoder on the ops of ``ds4_kernels``: BF16 streams, FP8 and MXFP4 weights as they are stored."""

from __future__ import annotations

import torch
from ds4_kernels import ops
from torch import Tensor

from ds4bench.embedded.batch import Batch
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.device.attention import Attention
from ds4bench.embedded.device.layers import HyperConnection, MoE
from ds4bench.embedded.device.plan import StepPlan
from ds4bench.embedded.device.weights import BLOCK, StoredWeights
from ds4bench.embedded.model import rope_tables
from ds4bench.embedded.weights import Checkpoint


class Block:
    """Attention, then MoE, each read from and written to the streams by its hyper-connection."""

    def __init__(self, config: ModelConfig, weights: StoredWeights, index: int, rope: Tensor) -> None:
        prefix = f"layers.{index}"
        self.attention = Attention(config, weights, f"{prefix}.attn", config.compress_ratios[index], rope)
        self.attn_hc = HyperConnection(config, weights, f"{prefix}.hc_attn", f"{prefix}.attn_norm.weight")
        self.moe = MoE(config, weights, f"{prefix}.ffn")
        self.ffn_hc = HyperConnection(config, weights, f"{prefix}.hc_ffn", f"{prefix}.ffn_norm.weight")

    def __call__(self, streams: Tensor, plan: StepPlan, cache: LayerCache) -> Tensor:
        """streams BF16 ``[T, 4, dim]`` -> the same shape."""
        x, post, comb = self.attn_hc.pre(streams)
        streams = ops.mhc_post(self.attention(x, plan, cache), streams, post, comb)
        x, post, comb = self.ffn_hc.pre(streams)
        streams = ops.mhc_post(self.moe(x, plan.token_ids), streams, post, comb)
        return streams


class DeviceModel:
    """The whole decoder over paged caches; called as ``model.DeepseekV4`` is.

    Weights and caches lie on ``device``. Raises ValueError for a model that the ops' formats cannot hold.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, device: torch.device | str) -> None:
        _check(config)
        self.config = config
        self.device = torch.device(device)
        weights = StoredWeights(checkpoint, self.device)
        self.embed = weights.tensor("embed.weight", torch.bfloat16)
        window_rope, compressed_rope = (table.to(self.device) for table in rope_tables(config, torch.float32))
        self.blocks = [
            Block(config, weights, index, compressed_rope if ratio else window_rope)
            for index, ratio in enumerate(config.compress_ratios)
        ]
        self.norm = weights.tensor("norm.weight")
        self.head = weights.tensor("head.weight")
        self.hc_fn = weights.tensor("hc_head_fn")
        self.hc_scale = weights.tensor("hc_head_scale")
        self.hc_base = weights.tensor("hc_head_base")

    def __call__(self, batch: Batch, caches: list[LayerCache]) -> Tensor:
        """Run the step's tokens; logits FP32 ``[len(batch.logit_rows), vocab]`` on the device."""
        config = self.config
        plan = StepPlan(batch, config, self.device)
        streams = self.embed[plan.token_ids].unsqueeze(1).repeat(1, config.hc_mult, 1)
        for block, cache in zip(self.blocks, caches, strict=True):
            streams = block(streams, plan, cache)
        if not len(batch.logit_rows):
            return self.head.new_empty(0, self.head.shape[0])
        last = streams[plan.logit_rows]
        x = ops.mhc_head(last, self.hc_fn, self.hc_scale, self.hc_base, config.norm_eps, config.hc_eps)
        x = ops.rms_norm(x, self.norm, config.norm_eps)
        return torch.nn.functional.linear(x.float(), self.head)


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
