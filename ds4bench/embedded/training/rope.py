"""Rope with a backward pass of its own: the gradient of a rotation is the rotation back. One kernel on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 8


def rotate(x: Tensor, cos_sin: Tensor, sign: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rope of the last dimensions, interleaved pairs: x ``[B, S, ..., D]``, cos_sin ``[S, R]``; sign -1: inverse.

    The result is computed in FP32 and stored as ``dtype``.
    """
    out: Tensor = _Rotate.apply(x, cos_sin, sign, dtype)  # type: ignore[no-untyped-call]
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos_sin: Tensor, sign: float, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos_sin)
        ctx.sign, ctx.dtype = sign, x.dtype
        return _turned(x, cos_sin, sign, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (cos_sin,) = ctx.saved_tensors
        return _turned(grads[0], cos_sin, -ctx.sign, ctx.dtype), None, None, None


def _turned(x: Tensor, cos_sin: Tensor, sign: float, dtype: torch.dtype) -> Tensor:
    if not x.is_cuda:
        return plain(x, cos_sin, sign).to(dtype)
    from ds4bench.embedded.training import rope_kernels

    x = x.contiguous()
    out = torch.empty_like(x, dtype=dtype)
    size, roped = x.shape[-1], cos_sin.shape[-1]
    rows = x.numel() // size
    rope_kernels.rotate[(-(-rows // _ROWS),)](
        x, cos_sin, out, rows, x[0, 0].numel() // size, len(cos_sin), sign,
        SIZE=size, ROPED=roped, ROWS=_ROWS,
    )  # fmt: skip
    return out


def plain(x: Tensor, cos_sin: Tensor, sign: float) -> Tensor:
    """The same in PyTorch, FP32."""
    size = cos_sin.shape[-1]
    cos_sin = cos_sin.view(len(cos_sin), *[1] * (x.dim() - 3), size)
    cos, sin = cos_sin[..., : size // 2], cos_sin[..., size // 2 :] * sign
    rest, tail = x[..., :-size].float(), x[..., -size:].float()
    even, odd = tail[..., 0::2], tail[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return torch.cat((rest, turned.flatten(-2)), dim=-1)
