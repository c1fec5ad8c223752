"""Linear layers, the MoE block and hyper-connections of the model."""

from __future__ import annotations

import torch
from ds4_kernels.reference import mhc, moe, quant
from ds4_kernels.reference.precision import bf16_products
from torch import Tensor

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.weights import Weights

ACTIVATION_GROUP = 128


class Linear:
    """``x @ w.T``; an FP8 linear sees its activation quantised per token and group of 128."""

    def __init__(self, weights: Weights, name: str, *, quantize: bool) -> None:
        self.weight = weights.matrix(name)
        self.quantize = quantize

    def __call__(self, x: Tensor) -> Tensor:
        if not self.quantize:
            return torch.nn.functional.linear(x, self.weight)
        return fp8_linear(quant.fp8_simulate(x, ACTIVATION_GROUP), self.weight)


def fp8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` of operands that hold FP8 values: BF16 products of them are exact."""
    with bf16_products(x.shape[0]):
        return torch.nn.functional.linear(x, weight)


class MoE:
    """Routed experts (by token id on hash layers, else by score) plus the shared expert."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str) -> None:
        self.config = config
        self.gate = weights.matrix(f"{prefix}.gate.weight")
        self.bias = weights.matrix(f"{prefix}.gate.bias") if weights.has(f"{prefix}.gate.bias") else None
        self.tid2eid = weights.integer(f"{prefix}.gate.tid2eid") if weights.has(f"{prefix}.gate.tid2eid") else None
        experts = [f"{prefix}.experts.{e}" for e in range(config.num_experts)]
        self.w13 = torch.stack([_gate_up(weights, name) for name in experts])
        self.w2 = torch.stack([weights.matrix(f"{name}.w2.weight") for name in experts])
        self.shared_w13 = _gate_up(weights, f"{prefix}.shared_experts")
        self.shared_w2 = weights.matrix(f"{prefix}.shared_experts.w2.weight")

    def __call__(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """x ``[T, dim]``, token_ids ``[T]`` -> ``[T, dim]``."""
        config = self.config
        logits = torch.nn.functional.linear(x, self.gate)
        fixed = None if self.tid2eid is None else self.tid2eid[token_ids]
        ids, weights = moe.route(logits, config.experts_per_token, config.route_scale, bias=self.bias, expert_ids=fixed)
        inputs = quant.fp8_simulate(x, ACTIVATION_GROUP) if config.quantize else x
        routed = moe.experts(inputs, ids, weights, self.w13, self.w2, config.swiglu_limit, quantize=config.quantize)
        return routed.add_(self._shared(inputs))

    def _shared(self, inputs: Tensor) -> Tensor:
        linear = fp8_linear if self.config.quantize else torch.nn.functional.linear
        hidden = moe.swiglu_clamped(linear(inputs, self.shared_w13), self.config.swiglu_limit)
        if self.config.quantize:
            hidden = quant.fp8_simulate(hidden, ACTIVATION_GROUP)
        return linear(hidden, self.shared_w2)


class HyperConnection:
    """Reads a block's input from the four residual streams and writes its output back (mHC)."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str) -> None:
        self.config = config
        self.fn = weights.matrix(f"{prefix}_fn")
        self.base = weights.matrix(f"{prefix}_base")
        self.scale = weights.matrix(f"{prefix}_scale")

    def pre(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(block input ``[T, dim]``, post ``[T, 4]``, comb ``[T, 4, 4]``) of streams ``[T, 4, dim]``."""
        config = self.config
        mix = mhc.mixes(streams, self.fn, config.norm_eps)
        pre, post, comb = mhc.split_sinkhorn(
            mix, self.scale, self.base, config.hc_mult, config.sinkhorn_iters, config.hc_eps
        )
        return mhc.apply_pre(streams, pre), post, comb


def _gate_up(weights: Weights, prefix: str) -> Tensor:
    return torch.cat((weights.matrix(f"{prefix}.w1.weight"), weights.matrix(f"{prefix}.w3.weight")))
