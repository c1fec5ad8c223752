"""Differentiable twins of the engine's layers over a batch of whole sequences; names of parameters are the engine's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ds4_kernels.reference import moe as reference_moe
from torch import Tensor, nn

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.training import quantise
from ds4bench.embedded.training.hot import Hot
from ds4bench.embedded.training.sinkhorn import sinkhorn
from ds4bench.embedded.training.streams import mixes, read_streams


@dataclass
class Precision:
    """How the model computes: dtype of matrix products, and whether stored formats are simulated."""

    products: torch.dtype = torch.bfloat16
    quantise: bool = False
    sparse: bool = False  # C4A layers see the indexer's top-k only; else every entry


@Hot
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x * rsqrt(mean(x^2) + eps) * weight`` in FP32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@Hot
def unit_norm(x: Tensor, eps: float) -> Tensor:
    """RMS norm without a weight, FP32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@Hot
def routed_swiglu(gate_up: Tensor, weights: Tensor, limit: float) -> Tensor:
    """``swiglu`` of all experts ``[N, E, 2, I]`` times their routing weights ``[N, E]``: ``[N, E, I]``."""
    gate, up = gate_up.float().unbind(-2)
    return torch.nn.functional.silu(gate.clamp_max(limit)) * up.clamp(-limit, limit) * weights.unsqueeze(-1)


@Hot
def swiglu(gate_up: Tensor, limit: float) -> Tensor:
    """``silu(min(gate, limit)) * clamp(up)``; gate and up stacked in the second last dimension: ``[..., 2, I]``."""
    gate, up = gate_up.float().unbind(-2)
    return torch.nn.functional.silu(gate.clamp_max(limit)) * up.clamp(-limit, limit)


class Linear(nn.Module):
    """A matrix under the engine's name ``<path>.weight``; ``stored_fp8`` ones are fake-quantised on demand."""

    def __init__(self, rows: int, cols: int, *, stored_fp8: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, cols))
        self.stored_fp8 = stored_fp8

    def matrix(self, precision: Precision) -> Tensor:
        """The weight in the dtype of products."""
        weight = quantise.fp8_weight(self.weight) if precision.quantise and self.stored_fp8 else self.weight
        return weight.to(precision.products)

    def forward(self, x: Tensor, precision: Precision) -> Tensor:
        """``x @ weight.T``; the caller has quantised x where the engine does."""
        return torch.nn.functional.linear(x.to(precision.products), self.matrix(precision))


class Norm(nn.Module):
    """RMS norm with a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]``, FP32."""
        out: Tensor = rms_norm(x, self.weight, self.eps)
        return out


class HyperConnection(nn.Module):
    """mHC of one block; its parameters are registered by the block, under the engine's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        streams = config.hc_mult
        width = (2 + streams) * streams
        self.config = config
        self.fn = nn.Parameter(torch.empty(width, streams * config.dim))
        self.base = nn.Parameter(torch.empty(width))
        self.scale = nn.Parameter(torch.empty(3))

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(block input ``[N, D]``, post ``[N, 4]``, comb ``[N, 4, 4]``)."""
        config, n = self.config, self.config.hc_mult
        mix = mixes(streams, torch.nn.functional.linear(streams.flatten(1), self.fn), config.norm_eps)
        pre = torch.sigmoid(mix[:, :n] * self.scale[0] + self.base[:n]) + config.hc_eps
        post = 2 * torch.sigmoid(mix[:, n : 2 * n] * self.scale[1] + self.base[n : 2 * n])
        comb = (mix[:, 2 * n :] * self.scale[2] + self.base[2 * n :]).view(-1, n, n)
        return read_streams(streams, pre), post, sinkhorn(comb, config.sinkhorn_iters, config.hc_eps)


class HeadConnection(nn.Module):
    """Collapses the streams before the final norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.fn = nn.Parameter(torch.empty(config.hc_mult, config.hc_mult * config.dim))
        self.base = nn.Parameter(torch.empty(config.hc_mult))
        self.scale = nn.Parameter(torch.empty(1))

    def forward(self, streams: Tensor) -> Tensor:
        """``[N, 4, D] -> [N, D]``."""
        projected = torch.nn.functional.linear(streams.flatten(1), self.fn)
        mix = mixes(streams, projected, self.config.norm_eps)
        return read_streams(streams, torch.sigmoid(mix * self.scale + self.base) + self.config.hc_eps)


class Experts(nn.Module):
    """All routed experts as two matrices: w13 ``[E 2 I, D]`` (w1 then w3 of each expert), w2 ``[D, E I]``.

    Every expert computes every token and the routing weight of the others is 0: a few times the arithmetic, but no
    gathers, and a small part of the whole.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.num_experts * config.expert_dim
        self.w13 = nn.Parameter(torch.empty(2 * width, config.dim))
        self.w2 = nn.Parameter(torch.empty(config.dim, width))

    def forward(self, x: Tensor, weights: Tensor, precision: Precision) -> Tensor:
        """x ``[N, D]``, routing weights ``[N, E]`` -> ``[N, D]`` FP32."""
        config = self.config
        stored = quantise.mxfp4_weight if precision.quantise else _same
        w13, w2 = stored(self.w13), stored(self.w2)
        both = torch.nn.functional.linear(x.to(precision.products), w13.to(precision.products))
        gate_up = both.view(-1, config.num_experts, 2, config.expert_dim)
        hidden = routed_swiglu(gate_up, weights, config.swiglu_limit)
        if precision.quantise:
            hidden = quantise.activation(hidden)
        return torch.nn.functional.linear(hidden.flatten(1).to(precision.products), w2.to(precision.products)).float()


class SharedExpert(nn.Module):
    """The expert that every token has, in FP8."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.limit = config.swiglu_limit
        self.w1 = Linear(config.expert_dim, config.dim)
        self.w2 = Linear(config.dim, config.expert_dim)
        self.w3 = Linear(config.expert_dim, config.dim)

    def forward(self, x: Tensor, precision: Precision) -> Tensor:
        """x ``[N, D]``, quantised already -> ``[N, D]`` FP32."""
        hidden = swiglu(torch.stack((self.w1(x, precision), self.w3(x, precision)), dim=-2), self.limit)
        if precision.quantise:
            hidden = quantise.activation(hidden)
        out: Tensor = self.w2(hidden, precision).float()
        return out


class Gate(nn.Module):
    """Router: by token id on hash layers, by score and a bias that balances the load on the others."""

    def __init__(self, config: ModelConfig, *, hashed: bool) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.dim))
        self.hashed = hashed
        if hashed:
            table = torch.zeros(config.vocab_size, config.experts_per_token, dtype=torch.int32)
            self.register_buffer("tid2eid", table)
        else:
            self.register_buffer("bias", torch.zeros(config.num_experts))
        # share of the last batch's tokens that chose each expert; written in place, as a captured graph needs it
        self.register_buffer("load", torch.zeros(config.num_experts), persistent=False)

    def forward(self, x: Tensor, token_ids: Tensor) -> Tensor:
        """Routing weights ``[N, E]``, 0 for experts that are not chosen."""
        config = self.config
        logits = torch.nn.functional.linear(x, self.weight)
        bias = None if self.hashed else self.get_buffer("bias")
        fixed = self.get_buffer("tid2eid")[token_ids].long() if self.hashed else None
        scores = torch.nn.functional.softplus(logits).sqrt()
        ids, _ = reference_moe.route(logits.detach(), config.experts_per_token, 1.0, bias=bias, expert_ids=fixed)
        picked = scores.gather(1, ids)
        weights = picked / (picked.sum(-1, keepdim=True) + 1e-20) * config.route_scale
        routing = torch.zeros_like(scores).scatter(1, ids, weights)
        if not self.hashed and self.training:
            self.get_buffer("load").copy_((routing.detach() > 0).float().mean(0))
        return routing

    @torch.no_grad()
    def balance(self, speed: float) -> None:
        """Move the bias of overloaded experts down and of idle ones up by ``speed`` (arXiv:2408.15664)."""
        load = self.get_buffer("load")
        self.get_buffer("bias").add_(torch.sign(load.mean() - load), alpha=speed)


class MoE(nn.Module):
    """Routed experts plus the shared one."""

    def __init__(self, config: ModelConfig, *, hashed: bool) -> None:
        super().__init__()
        self.gate = Gate(config, hashed=hashed)
        self.experts = Experts(config)
        self.shared_experts = SharedExpert(config)

    def forward(self, x: Tensor, token_ids: Tensor, precision: Precision) -> Tensor:
        """x ``[N, D]`` FP32, token_ids ``[N]`` -> ``[N, D]``."""
        inputs = quantise.activation(x) if precision.quantise else x
        routed: Tensor = self.experts(inputs, self.gate(x, token_ids), precision)
        shared: Tensor = self.shared_experts(inputs, precision)
        return routed + shared


def _same(x: Tensor) -> Tensor:
    return x
