"""Sinkhorn iterations (kernels.md 1.4) forward and backward: one kernel each on a GPU, autograd on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_TOKENS = 128


def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """Doubly stochastic matrices ``[N, 4, 4]`` from logits ``[N, 4, 4]``, FP32."""
    if logits.is_cuda:
        out: Tensor = _Sinkhorn.apply(logits.contiguous(), iterations, eps)  # type: ignore[no-untyped-call]
        return out
    return plain(logits, iterations, eps)


def plain(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """The same in PyTorch."""
    comb = torch.softmax(logits, dim=-1) + eps
    comb = comb / (comb.sum(1, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(2, keepdim=True) + eps)
        comb = comb / (comb.sum(1, keepdim=True) + eps)
    return comb


class _Sinkhorn(torch.autograd.Function):
    """A step divides by sums, so the backward pass needs nothing but the sums of each step and the result."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, iterations: int, eps: float) -> Tensor:
        out = torch.empty_like(logits)
        sums = logits.new_empty(2 * iterations, len(logits), 4)
        _launch("forward", len(logits), logits, out, sums, iterations, eps)
        ctx.save_for_backward(out, sums)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        out, sums = ctx.saved_tensors
        grad = torch.empty_like(out)
        _launch("backward", len(out), grads[0].contiguous(), out, sums, grad, len(sums) // 2, ctx.eps)
        return grad, None, None


def _launch(which: str, count: int, *arguments: Any) -> None:
    from ds4bench.embedded.training import sinkhorn_kernels

    kernel = getattr(sinkhorn_kernels, which)
    kernel[(-(-count // _TOKENS),)](*arguments, count, TOKENS=_TOKENS)
