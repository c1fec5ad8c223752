"""Hyper-connections and the MoE block on the ops."""

from __future__ import annotations

import torch
from ds4_kernels import ops
from ds4_kernels.reference.hyper_connections import mhc_split_weights
from torch import Tensor

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.device.weights import Fp32Matrix, ModelWeights, quantise


class HyperConnection:
    """Reads a block's normed input from the four residual streams and writes its output back."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, prefix: str, norm: str) -> None:
        self.config = config
        self.fn = mhc_split_weights(weights.tensor(f"{prefix}_fn"))
        self.base = weights.tensor(f"{prefix}_base")
        self.scale = weights.tensor(f"{prefix}_scale")
        self.norm = weights.tensor(norm)

    def pre(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(normed block input BF16 ``[T, dim]``, post, comb) of streams BF16 ``[T, 4, dim]``."""
        config = self.config
        x, post, comb = ops.mhc_pre(
            streams, self.fn, self.scale, self.base, config.sinkhorn_iters, config.norm_eps, config.hc_eps, self.norm
        )
        return x, post, comb


class MoE:
    """Routed experts (by token id on hash layers, else by score) in MXFP4, plus the shared expert in FP8."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, prefix: str) -> None:
        self.config = config
        self.gate = Fp32Matrix(weights.tensor(f"{prefix}.gate.weight"))
        bias, table = f"{prefix}.gate.bias", f"{prefix}.gate.tid2eid"
        self.bias = weights.tensor(bias) if weights.has(bias) else None
        self.tid2eid = weights.tensor(table, torch.int32) if weights.has(table) else None
        self.w13 = weights.experts(f"{prefix}.experts", config.num_experts, "w1", "w3")
        self.w2 = weights.experts(f"{prefix}.experts", config.num_experts, "w2")
        shared = f"{prefix}.shared_experts"
        self.shared_w13 = weights.fp8(f"{shared}.w1.weight", f"{shared}.w3.weight")
        self.shared_w2 = weights.fp8(f"{shared}.w2.weight")

    def __call__(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """x BF16 ``[T, dim]``, token_ids ``[T]`` -> BF16 ``[T, dim]``."""
        config = self.config
        logits = self.gate(x)
        fixed = None if self.tid2eid is None else self.tid2eid[token_ids]
        ids, weights = ops.route(logits, config.experts_per_token, config.route_scale, self.bias, fixed)
        routed: Tensor = ops.mxfp4_moe(
            x, ids, weights, self.w13.packed, self.w13.scale, self.w2.packed, self.w2.scale, config.swiglu_limit
        )
        hidden = ops.swiglu_clamped(self.shared_w13(quantise(x)), config.swiglu_limit)
        return routed.add_(self.shared_w2(quantise(hidden)))
