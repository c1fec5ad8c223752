"""Router and experts of the MoE layer, with dequantised expert weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.reference import quant
from ds4_kernels.reference.precision import bf16_products

ACTIVATION_GROUP = 128
GATHER_TOKENS = 8


def route(
    logits: Tensor, topk: int, route_scale: float, *, bias: Tensor | None = None, expert_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(expert ids int64 ``[T, topk]``, weights ``[T, topk]``) from router logits ``[T, E]``.

    Scores are sqrt(softplus(logit)). Experts are those of ``expert_ids`` (hash layers) or the highest ``score + bias``;
    weights are the scores without bias, normalised to ``route_scale``.
    """
    scores = torch.nn.functional.softplus(logits).sqrt_()
    if expert_ids is None:
        expert_ids = (scores if bias is None else scores + bias).topk(topk, dim=-1).indices
    picked = scores.gather(1, expert_ids)
    return expert_ids, picked / picked.sum(dim=-1, keepdim=True).add_(1e-20) * route_scale


def swiglu_clamped(gate_up: Tensor, limit: float) -> Tensor:
    """``silu(min(gate, limit)) * clamp(up, -limit, limit)``: ``[..., 2 I] -> [..., I]``, gate first."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate.clamp_max(limit)).mul_(up.clamp(-limit, limit))


def experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float, *, quantize: bool
) -> Tensor:
    """Sum of the chosen experts: x ``[T, D]``, ids and weights ``[T, k]``, w13 ``[E, 2 I, D]``, w2 ``[E, D, I]``.

    x is the first projection's activation, quantised already where that is wanted. The routing weight multiplies
    before the second projection, and before its activation is quantised (``quantize``). An id of -1 is an expert that
    is not here and adds nothing.
    """
    if x.shape[0] <= GATHER_TOKENS:
        return _gathered_experts(x, ids, weights, w13, w2, limit, quantize)
    out = torch.zeros_like(x)
    with bf16_products(x.shape[0] if quantize else 0):  # FP8 times MXFP4: exact in BF16
        for expert in range(w13.shape[0]):
            token, slot = torch.where(ids == expert)
            hidden = swiglu_clamped(torch.nn.functional.linear(x[token], w13[expert]), limit)
            hidden.mul_(weights[token, slot].unsqueeze(-1))
            if quantize:
                hidden = quant.fp8_simulate(hidden, ACTIVATION_GROUP)
            out.index_add_(0, token, torch.nn.functional.linear(hidden, w2[expert]))
    return out


def _gathered_experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float, quantize: bool
) -> Tensor:
    """Few tokens: gather each token's expert weights instead of visiting every expert."""
    tokens, slots = ids.shape
    local = ids >= 0
    chosen = ids.clamp_min(0).flatten()
    repeated = x.repeat_interleave(slots, 0).unsqueeze(-1)
    hidden = swiglu_clamped(torch.bmm(w13[chosen], repeated).squeeze(-1), limit)
    hidden.mul_(torch.where(local, weights, 0.0).view(-1, 1))
    if quantize:
        hidden = quant.fp8_simulate(hidden, ACTIVATION_GROUP)
    return torch.bmm(w2[chosen], hidden.unsqueeze(-1)).view(tokens, slots, -1).sum(dim=1)
