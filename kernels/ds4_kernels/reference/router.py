"""The router's choice of experts and the clamped SwiGLU, as contracts of the kernels (kernels.md 1.8, 2.11)."""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.reference import moe


def route(
    logits: Tensor,
    topk: int,
    route_scale: float,
    bias: Tensor | None = None,
    expert_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Experts of every token: (ids int32 ``[T, topk]``, weights FP32 ``[T, topk]``) from logits FP32 ``[T, E]``.

    The score of an expert is ``sqrt(softplus(logit))``. Without ``expert_ids`` the experts with the highest
    ``score + bias`` (bias FP32 ``[E]``) are chosen, highest first; which of two equal ones comes first is not specified.
    With ``expert_ids`` (int32 or int64 ``[T, topk]``, hash layers) those are taken in their order, and an id below 0
    is no expert: it stays, weighs 0 and adds nothing to the sum. Weights are the scores, without bias, divided by
    their sum and multiplied by ``route_scale``. FP64 logits give FP64 weights.

    Raises ValueError for shapes that do not match.
    """
    check_route(logits, topk, bias, expert_ids)
    if expert_ids is None:
        chosen, weights = moe.route(logits, topk, route_scale, bias=bias)
        return chosen.to(torch.int32), weights
    scores = torch.nn.functional.softplus(logits).sqrt_()
    picked = scores.gather(1, expert_ids.long().clamp_min(0))
    picked = torch.where(expert_ids < 0, 0.0, picked)
    return expert_ids.to(torch.int32), picked / picked.sum(dim=-1, keepdim=True).add_(1e-20) * route_scale


def swiglu_clamped(gate_up: Tensor, limit: float, out: Tensor | None = None) -> Tensor:
    """``silu(min(gate, limit)) * clamp(up, -limit, limit)`` of ``[T, 2 I]`` (gate first), in FP32: ``[T, I]``.

    The result has the input's dtype (BF16, FP32; FP64 stays FP64). Raises ValueError for shapes that do not match.
    """
    check_swiglu(gate_up, out)
    wide = gate_up if gate_up.dtype == torch.float64 else gate_up.float()
    result = moe.swiglu_clamped(wide, limit).to(gate_up.dtype)
    return result if out is None else out.copy_(result)


def check_route(logits: Tensor, topk: int, bias: Tensor | None, expert_ids: Tensor | None) -> None:
    """Raise ValueError unless the arguments of ``route`` fit together."""
    if logits.dim() != 2 or not 1 <= topk <= logits.shape[1]:
        raise ValueError(f"route: logits must be [T, E] with E >= topk = {topk} >= 1, got {tuple(logits.shape)}")
    if bias is not None and bias.shape != logits.shape[1:]:
        raise ValueError(f"route: bias must be [{logits.shape[1]}], got {tuple(bias.shape)}")
    if expert_ids is not None and expert_ids.shape != (logits.shape[0], topk):
        raise ValueError(f"route: expert_ids must be [{logits.shape[0]}, {topk}], got {tuple(expert_ids.shape)}")


def check_swiglu(gate_up: Tensor, out: Tensor | None) -> None:
    """Raise ValueError unless the arguments of ``swiglu_clamped`` fit together."""
    if gate_up.dim() != 2 or gate_up.shape[1] % 2:
        raise ValueError(f"swiglu_clamped: gate_up must be [T, 2 I], got {tuple(gate_up.shape)}")
    half = (gate_up.shape[0], gate_up.shape[1] // 2)
    if out is not None and (out.shape != half or out.dtype != gate_up.dtype):
        raise ValueError(f"swiglu_clamped: out must be {gate_up.dtype} {half}, got {out.dtype} {tuple(out.shape)}")
