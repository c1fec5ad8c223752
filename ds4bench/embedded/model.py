"""The DeepSeek-V4 decoder: embedding to four residual streams, blocks, head."""

from __future__ import annotations

import torch
from ds4_kernels.reference import mhc
from ds4_kernels.reference.norm_rope import cos_sin_table, rms_norm, rope_frequencies
from torch import Tensor

from ds4bench.embedded.attention import Attention
from ds4bench.embedded.batch import Batch
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.layers import HyperConnection, MoE
from ds4bench.embedded.weights import Weights


class Block:
    """Attention, then MoE, each read from and written to the streams by its hyper-connection."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, ratio: int, rope: Tensor) -> None:
        self.eps = config.norm_eps
        self.attention = Attention(config, weights, f"{prefix}.attn", ratio, rope)
        self.attn_norm = weights.matrix(f"{prefix}.attn_norm.weight")
        self.attn_hc = HyperConnection(config, weights, f"{prefix}.hc_attn")
        self.moe = MoE(config, weights, f"{prefix}.ffn")
        self.ffn_norm = weights.matrix(f"{prefix}.ffn_norm.weight")
        self.ffn_hc = HyperConnection(config, weights, f"{prefix}.hc_ffn")

    def __call__(self, streams: Tensor, batch: Batch, cache: LayerCache) -> Tensor:
        """streams ``[T, 4, dim]`` -> the same shape."""
        x, post, comb = self.attn_hc.pre(streams)
        x = self.attention(rms_norm(x, self.attn_norm, self.eps), batch, cache)
        streams = mhc.apply_post(x, streams, post, comb)
        x, post, comb = self.ffn_hc.pre(streams)
        x = self.moe(rms_norm(x, self.ffn_norm, self.eps), batch.token_ids)
        return mhc.apply_post(x, streams, post, comb)


class Head:
    """Streams to logits: the hyper-connections' last mix, a norm, and the vocabulary's matrix ``[vocab, dim]``."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, vocabulary: Tensor) -> None:
        self.config = config
        self.vocabulary = vocabulary
        self.norm = weights.matrix(f"{prefix}norm.weight")
        self.fn = weights.matrix(f"{prefix}hc_head_fn")
        self.scale = weights.matrix(f"{prefix}hc_head_scale")
        self.base = weights.matrix(f"{prefix}hc_head_base")

    def __call__(self, streams: Tensor) -> Tensor:
        """streams ``[n, 4, dim]`` -> logits ``[n, vocab]``."""
        eps = self.config.norm_eps
        x = mhc.head(streams, self.fn, self.scale, self.base, eps, self.config.hc_eps)
        return torch.nn.functional.linear(rms_norm(x, self.norm, eps), self.vocabulary)


class DeepseekV4:
    """The whole decoder over paged caches: ``streams`` runs a step, ``head`` gives the logits of some of its rows."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.embed = weights.matrix("embed.weight")
        self.window_rope, compressed_rope = rope_tables(config, weights.dtype)
        self.blocks = [
            Block(config, weights, f"layers.{index}", ratio, compressed_rope if ratio else self.window_rope)
            for index, ratio in enumerate(config.compress_ratios)
        ]
        self.head = Head(config, weights, "", weights.matrix("head.weight"))

    def streams(self, batch: Batch, caches: list[LayerCache]) -> Tensor:
        """Run the step's tokens: the residual streams ``[T, 4, dim]`` behind the last block."""
        streams = self.embed[batch.token_ids].unsqueeze(1).repeat(1, self.config.hc_mult, 1)
        for block, cache in zip(self.blocks, caches, strict=True):
            streams = block(streams, batch, cache)
        return streams


def rope_tables(config: ModelConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos/sin tables of the window-only layers and of the layers with compressed entries (YaRN)."""
    window = rope_frequencies(config.rope_dim, config.rope_theta)
    yarn = config.yarn
    compressed = rope_frequencies(
        config.rope_dim,
        yarn.theta,
        yarn_factor=yarn.factor,
        original_max_position=yarn.original_max_position,
        beta_fast=yarn.beta_fast,
        beta_slow=yarn.beta_slow,
    )
    return cos_sin_table(window, config.max_position, dtype), cos_sin_table(compressed, config.max_position, dtype)
