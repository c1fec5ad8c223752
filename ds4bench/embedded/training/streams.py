"""The arithmetic of hyper-connections (kernels.md 1.4) with backward passes of its own: autograd's would read and write
the four streams of every token a dozen times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ds4bench.embedded.training.hot import Hot


def write_streams(output: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """``out[k] = post[k] f + sum_j comb[j, k] streams[j]``: f ``[N, D]``, streams ``[N, 4, D]``, comb ``[N, 4, 4]``."""
    out: Tensor = _Write.apply(output, streams, post, comb)  # type: ignore[no-untyped-call]
    return out


def read_streams(streams: Tensor, pre: Tensor) -> Tensor:
    """``sum_j pre[j] streams[j]``: ``[N, D]``."""
    out: Tensor = _Read.apply(streams, pre)  # type: ignore[no-untyped-call]
    return out


@Hot
def mixes(streams: Tensor, projected: Tensor, eps: float) -> Tensor:
    """``(fn . x) rsqrt(mean(x^2) + eps)`` of streams ``[N, 4, D]`` and ``fn . x`` ``[N, M]``."""
    return projected * torch.rsqrt(streams.square().mean((1, 2)) + eps).unsqueeze(1)


@Hot
def _write(output: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    mixed = (comb.unsqueeze(-1) * streams.unsqueeze(2)).sum(1)
    return mixed + post.unsqueeze(-1) * output.float().unsqueeze(1)


@Hot
def _write_back(
    grad: Tensor, output: Tensor, streams: Tensor, post: Tensor, comb: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_output = (post.unsqueeze(-1) * grad).sum(1).to(output.dtype)
    to_streams = (comb.unsqueeze(-1) * grad.unsqueeze(1)).sum(2)
    to_post = (grad * output.float().unsqueeze(1)).sum(-1)
    to_comb = (streams.unsqueeze(2) * grad.unsqueeze(1)).sum(-1)
    return to_output, to_streams, to_post, to_comb


@Hot
def _read(streams: Tensor, pre: Tensor) -> Tensor:
    return (pre.unsqueeze(-1) * streams).sum(1)


@Hot
def _read_back(grad: Tensor, streams: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    return pre.unsqueeze(-1) * grad.unsqueeze(1), (streams * grad.unsqueeze(1)).sum(-1)


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        ctx.save_for_backward(output, streams, post, comb)
        out: Tensor = _write(output, streams, post, comb)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _write_back(grads[0].contiguous(), *ctx.saved_tensors)


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, streams: Tensor, pre: Tensor) -> Tensor:
        ctx.save_for_backward(streams, pre)
        out: Tensor = _read(streams, pre)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _read_back(grads[0].contiguous(), *ctx.saved_tensors)
