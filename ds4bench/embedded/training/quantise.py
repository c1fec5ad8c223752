"""Fake quantisation: forward what the engine computes from stored FP8 and MXFP4, backward straight through."""

from __future__ import annotations

import torch
from ds4_kernels.layouts import MLA_GROUP, NOPE_DIM
from ds4_kernels.reference import quant
from torch import Tensor

from ds4bench.embedded.layers import ACTIVATION_GROUP
from ds4bench.embedded.training.hot import Hot


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """``quantised`` in the forward pass, the gradient of ``x`` in the backward pass."""
    return x + (quantised - x).detach()


@Hot
def activation(x: Tensor) -> Tensor:
    """Activation of an FP8 linear, ``[..., n]`` in groups of 128, as FP32."""
    x = x.float()
    return straight_through(x, _e4m3(x.detach(), ACTIVATION_GROUP))


@Hot
def index_key(x: Tensor) -> Tensor:
    """Queries and keys of the indexer ``[..., 128]``: one scale a vector, as FP32."""
    x = x.float()
    return straight_through(x, _e4m3(x.detach(), x.shape[-1]))


@Hot
def attention_key(x: Tensor) -> Tensor:
    """Keys ``[..., 512]`` as ``fp8_ds_mla`` slots hold them: 448 values in groups of 64, the roped 64 in BF16."""
    x = x.float()
    y = x.detach()
    stored = torch.cat((_e4m3(y[..., :NOPE_DIM], MLA_GROUP), y[..., NOPE_DIM:].to(torch.bfloat16).float()), dim=-1)
    return straight_through(x, stored)


def fp8_weight(w: Tensor) -> Tensor:
    """A linear's weight ``[out, in]`` in e4m3 with a scale for each block of 128 x 128."""
    stored = quant.fp8_dequantize_weight(*quant.fp8_quantize_weight(w.detach()), w.dtype)
    return straight_through(w, stored)


def mxfp4_weight(w: Tensor) -> Tensor:
    """Expert weights ``[out, in]`` in E2M1 with a scale for 32 inputs."""
    stored = quant.mxfp4_dequantize(*quant.mxfp4_quantize(w.detach()), w.dtype)
    return straight_through(w, stored)


def _e4m3(x: Tensor, group: int) -> Tensor:
    """``quant.fp8_simulate`` with plain casts, which every backend of the compiler knows; bit for bit the same."""
    groups = x.reshape(*x.shape[:-1], x.shape[-1] // group, group)
    amax = groups.abs().amax(dim=-1, keepdim=True).clamp_min(quant.FP8_AMAX_FLOOR) / quant.E4M3_MAX
    ones = (1 << 23) - 1
    scale = ((amax.view(torch.int32) + ones) & ~ones).view(torch.float32)
    q = (groups / scale).clamp(-quant.E4M3_MAX, quant.E4M3_MAX).to(torch.float8_e4m3fn)
    return (q.to(torch.float32) * scale).reshape(x.shape)
