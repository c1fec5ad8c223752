"""Hyper-connections: the functions that the model calls, and the pre-norm GEMM inside of them.

The model binds the ``*_tilelang`` functions by name (``torch.ops.vllm.mhc_*`` keep the engine's kernels; V4 on CUDA does
not call those). Streams are BF16 ``[..., 4, D]``. The engine's post mix has a last dimension of 1, and it has two epsilons
for pre and Sinkhorn and a factor for post where the model has one value each: other values go back to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.reference.hyper_connections import SPLIT_UNIT, STREAMS

POST_FACTOR = 2.0
"""Of the model: ``post = 2 sigmoid(...)``."""


def pre(original: Function) -> Function:
    """For ``mhc_pre_tilelang``: (post ``[..., 4, 1]``, comb ``[..., 4, 4]``, layer input ``[..., D]``)."""

    def mhc_pre_tilelang(
        residual: Tensor, fn: Tensor, hc_scale: Tensor, hc_base: Tensor, rms_eps: float, hc_pre_eps: float,
        hc_sinkhorn_eps: float, hc_post_mult_value: float, sinkhorn_repeat: int, n_splits: int = 1,
        norm_weight: Tensor | None = None, norm_eps: float = 1e-6,
    ) -> tuple[Tensor, ...] | Declined:  # fmt: skip
        del n_splits
        refused = _refuse(residual, hc_pre_eps, hc_sinkhorn_eps, hc_post_mult_value)
        if refused is not None:
            return refused
        mix = (fn, hc_scale, hc_base, sinkhorn_repeat, rms_eps, hc_pre_eps)
        return _mixed("mhc_pre", (_streams(residual),), mix, norm_weight, norm_eps, residual.shape)

    return mhc_pre_tilelang


def pre_broadcast(original: Function) -> Function:
    """For ``mhc_pre_broadcast_tilelang``, the first layer: the four streams are copies of residual ``[T, D]``.

    Returns (streams ``[T, 4, D]``, then what ``pre`` gives). ``fn_broadcast``, fn summed over streams, is not needed.
    """

    def mhc_pre_broadcast_tilelang(
        residual: Tensor, fn: Tensor, hc_scale: Tensor, hc_base: Tensor, rms_eps: float, hc_pre_eps: float,
        hc_sinkhorn_eps: float, hc_post_mult_value: float, sinkhorn_repeat: int, n_splits: int = 1,
        norm_weight: Tensor | None = None, norm_eps: float = 1e-6, fn_broadcast: Tensor | None = None,
    ) -> tuple[Tensor, ...] | Declined:  # fmt: skip
        del n_splits, fn_broadcast
        streams = residual.unsqueeze(-2).expand(*residual.shape[:-1], STREAMS, residual.shape[-1]).contiguous()
        refused = _refuse(streams, hc_pre_eps, hc_sinkhorn_eps, hc_post_mult_value)
        if refused is not None:
            return refused
        mix = (fn, hc_scale, hc_base, sinkhorn_repeat, rms_eps, hc_pre_eps)
        return streams, *_mixed("mhc_pre", (_streams(streams),), mix, norm_weight, norm_eps, streams.shape)

    return mhc_pre_broadcast_tilelang


def post_pre(original: Function) -> Function:
    """For ``mhc_fused_post_pre_tilelang``: (new streams, then what ``pre`` gives of them)."""

    def mhc_fused_post_pre_tilelang(
        x: Tensor, residual: Tensor, post_layer_mix: Tensor, comb_res_mix: Tensor, fn: Tensor, hc_scale: Tensor,
        hc_base: Tensor, rms_eps: float, hc_pre_eps: float, hc_sinkhorn_eps: float, hc_post_mult_value: float,
        sinkhorn_repeat: int, n_splits: int = 1, tile_n: int = 1, norm_weight: Tensor | None = None,
        norm_eps: float = 1e-6,
    ) -> tuple[Tensor, ...] | Declined:  # fmt: skip
        del n_splits, tile_n
        refused = _refuse(residual, hc_pre_eps, hc_sinkhorn_eps, hc_post_mult_value)
        if refused is not None:
            return refused
        mix = (fn, hc_scale, hc_base, sinkhorn_repeat, rms_eps, hc_pre_eps)
        before = _post_arguments(x, residual, post_layer_mix, comb_res_mix)
        return _mixed("mhc_post_pre", before, mix, norm_weight, norm_eps, residual.shape)

    return mhc_fused_post_pre_tilelang


def post(original: Function) -> Function:
    """For ``mhc_post_tilelang``: new streams ``[..., 4, D]``."""

    def mhc_post_tilelang(
        x: Tensor, residual: Tensor, post_layer_mix: Tensor, comb_res_mix: Tensor
    ) -> Tensor | Declined:
        refused = _refuse(residual)
        if refused is not None:
            return refused
        streams: Tensor = ops.call("mhc_post", *_post_arguments(x, residual, post_layer_mix, comb_res_mix))
        return streams.view(residual.shape)

    return mhc_post_tilelang


def head(original: Function) -> Function:
    """For ``hc_head_fused_kernel_tilelang``: BF16 ``[T, D]`` from ``[T, 4, D]``."""

    def hc_head_fused_kernel_tilelang(
        hs_flat: Tensor, fn: Tensor, hc_scale: Tensor, hc_base: Tensor, rms_eps: float, hc_eps: float
    ) -> Tensor | Declined:
        refused = _refuse(hs_flat)
        if refused is not None:
            return refused
        result: Tensor = ops.call(
            "mhc_head", _streams(hs_flat), fn.contiguous(), hc_scale.contiguous(), hc_base.contiguous(), rms_eps, hc_eps
        )
        return result

    return hc_head_fused_kernel_tilelang


def prenorm_gemm(original: Function) -> Function:
    """For ``tf32_hc_prenorm_gemm``: writes ``out`` FP32 ``[S, T, 24]`` and ``sqrsum`` FP32 ``[S, T]``.

    Where a split begins differs from the engine; whoever reads them sums over the splits. The engine's own rounds fn to TF32.
    """

    def tf32_hc_prenorm_gemm(x: Tensor, fn: Tensor, out: Tensor, sqrsum: Tensor, num_split: int) -> Declined | None:
        if x.dtype != torch.bfloat16 or fn.dtype != torch.float32 or x.shape[1] % SPLIT_UNIT:
            return decline(f"x {x.dtype} of {x.shape[1]}, fn {fn.dtype}")
        if out.shape[0] != num_split:
            return decline(f"{out.shape[0]} rows of output for {num_split} splits")
        partial, squares = ops.call("mhc_prenorm_gemm", x.contiguous(), fn.contiguous(), num_split, exact=False)
        out.copy_(partial)
        sqrsum.copy_(squares)
        return None

    return tf32_hc_prenorm_gemm


def _refuse(
    streams: Tensor, pre_eps: float = 0.0, sinkhorn_eps: float = 0.0, post_factor: float = POST_FACTOR
) -> Declined | None:
    if streams.dtype != torch.bfloat16 or streams.dim() < 3 or streams.shape[-2] != STREAMS or streams.shape[-1] % 32:
        return decline(f"streams {streams.dtype} {list(streams.shape)[1:]}")
    if pre_eps != sinkhorn_eps:
        return decline(f"epsilons {pre_eps} and {sinkhorn_eps}")
    return None if post_factor == POST_FACTOR else decline(f"post factor {post_factor}")


def _streams(x: Tensor) -> Tensor:
    return x.reshape(-1, STREAMS, x.shape[-1]).contiguous()


def _post_arguments(x: Tensor, residual: Tensor, post_mix: Tensor, comb: Tensor) -> tuple[Tensor, ...]:
    """(f ``[T, D]``, streams ``[T, 4, D]``, post ``[T, 4]``, comb ``[T, 4, 4]``) of the engine's shapes."""
    return (
        x.reshape(-1, x.shape[-1]).contiguous(),
        _streams(residual),
        post_mix.reshape(-1, STREAMS).contiguous(),
        comb.reshape(-1, STREAMS, STREAMS).contiguous(),
    )


def _mixed(
    op: str, before: tuple[Tensor, ...], mix: tuple[Tensor, Tensor, Tensor, int, float, float],
    norm_weight: Tensor | None, norm_eps: float, shape: torch.Size,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Run ``mhc_pre`` or ``mhc_post_pre``: (new streams of the latter), post, comb and layer input in engine shapes.

    Our ops have one epsilon for the RMS of the mixes and of the norm behind them; with two, the norm runs on its own.
    """
    fn, scale, base, iterations, rms_eps, eps = mix
    weight = None if norm_weight is None else norm_weight.contiguous()
    fused = weight if norm_eps == rms_eps else None
    *streams, layer_input, post_mix, comb = ops.call(
        op, *before, fn.contiguous(), scale.contiguous(), base.contiguous(), iterations, rms_eps, eps, fused
    )
    if weight is not None and fused is None:
        layer_input = ops.call("rms_norm", layer_input, weight, norm_eps)
    outer = shape[:-2]
    return (
        *(stream.view(shape) for stream in streams),
        post_mix.view(*outer, STREAMS, 1),
        comb.view(*outer, STREAMS, STREAMS),
        layer_input.view(*outer, shape[-1]),
    )


def _summed(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Sums over the splits: what a split holds is the kernel's own business."""
    del arguments
    return [partial.sum(dim=0) for partial in outputs]


_TILELANG = "vllm.model_executor.kernels.mhc.tilelang"
_MIX = (
    "fn", "hc_scale", "hc_base", "rms_eps", "hc_pre_eps", "hc_sinkhorn_eps", "hc_post_mult_value", "sinkhorn_repeat",
    "n_splits",
)  # fmt: skip
_POST = ("x", "residual", "post_layer_mix", "comb_res_mix")
_NORM = ("norm_weight", "norm_eps")

_COMMON = (
    Hook("mhc_pre", f"{_TILELANG}:mhc_pre_tilelang", ("residual", *_MIX, *_NORM), pre),
    Hook("mhc_post_pre", f"{_TILELANG}:mhc_fused_post_pre_tilelang", (*_POST, *_MIX, "tile_n", *_NORM), post_pre),
    Hook("mhc_post", f"{_TILELANG}:mhc_post_tilelang", _POST, post),
    Hook(
        "mhc_head", f"{_TILELANG}:hc_head_fused_kernel_tilelang",
        ("hs_flat", "fn", "hc_scale", "hc_base", "rms_eps", "hc_eps"), head,
    ),
    Hook(
        "mhc_prenorm_gemm", "vllm.utils.deep_gemm:tf32_hc_prenorm_gemm", ("x", "fn", "out", "sqrsum", "num_split"),
        prenorm_gemm, writes=("out", "sqrsum"), comparable=_summed,
    ),
)  # fmt: skip
_BROADCAST = Hook(
    "mhc_pre", f"{_TILELANG}:mhc_pre_broadcast_tilelang", ("residual", *_MIX, *_NORM, "fn_broadcast"), pre_broadcast
)

HOOKS: Table = {"0.25.0": _COMMON, "0.33.0": (*_COMMON, _BROADCAST)}
