"""Hyper-connections of SGLang's DeepSeek-V4: TileLang's functions, the Sinkhorn step, and DeepGEMM's pre-norm GEMM.

Which of them a layer calls depends on the GPU and on SGLANG_OPT_USE_TILELANG_MHC_PRE, ..._POST, SGLANG_OPT_FUSE_MHC_POST_PRE
and SGLANG_OPT_DEEPGEMM_HC_PRENORM; DeepSeek-V4 on SM12x calls ``hc_split_sinkhorn`` and ``mhc_post`` unless told otherwise.
Shapes and meaning are those of vLLM's functions of the same origin, so their adapters serve here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops import mhc
from ds4_kernels.reference.hyper_connections import STREAMS

NORM_EPS = 1e-6
"""Of a norm that is not there: never used."""


def pre(original: Function) -> Function:
    """For ``mhc_pre``: (post ``[..., 4, 1]``, comb ``[..., 4, 4]``, layer input ``[..., D]``)."""
    adapted = mhc.pre(original)

    def mhc_pre(
        residual: Tensor, fn: Tensor, hc_scale: Tensor, hc_base: Tensor, rms_eps: float, hc_pre_eps: float,
        hc_sinkhorn_eps: float, hc_post_mult_value: float, sinkhorn_repeat: int, n_splits: int = 1,
        n_splits_pre: int = 32, *, norm_weight: Tensor | None = None, norm_eps: float | None = None,
    ) -> Any:  # fmt: skip
        del n_splits_pre
        return adapted(
            residual, fn, hc_scale, hc_base, rms_eps, hc_pre_eps, hc_sinkhorn_eps, hc_post_mult_value, sinkhorn_repeat,
            n_splits, norm_weight, NORM_EPS if norm_eps is None else norm_eps,
        )  # fmt: skip

    return mhc_pre


def post_pre(original: Function) -> Function:
    """For ``mhc_fused_post_pre``: (new streams, then what ``mhc_pre`` gives of them)."""
    adapted = mhc.post_pre(original)

    def mhc_fused_post_pre(
        *args: Any, norm_weight: Tensor | None = None, norm_eps: float | None = None, **kw: Any
    ) -> Any:
        return adapted(*args, norm_weight=norm_weight, norm_eps=NORM_EPS if norm_eps is None else norm_eps, **kw)

    return mhc_fused_post_pre


def split_sinkhorn(original: Function) -> Function:
    """For ``hc_split_sinkhorn``: (pre ``[b, s, 4]``, post ``[b, s, 4]``, comb ``[b, s, 4, 4]``) of mixes ``[b, s, 24]``."""

    def hc_split_sinkhorn(
        mixes: Tensor, hc_scale: Tensor, hc_base: Tensor, hc_mult: int = 4, sinkhorn_iters: int = 20, eps: float = 1e-6
    ) -> tuple[Tensor, ...] | Declined:
        if mixes.dtype != torch.float32 or hc_mult != STREAMS or mixes.shape[0] * mixes.shape[1] == 0:
            return decline(f"mixes {mixes.dtype} {list(mixes.shape)[:2]} of {hc_mult} streams")
        flat = mixes.reshape(-1, mixes.shape[-1]).contiguous()
        parts = ops.call(
            "mhc_split_sinkhorn", flat, hc_scale.float().contiguous(), hc_base.float().contiguous(), sinkhorn_iters, eps
        )
        return tuple(part.view(*mixes.shape[:2], *part.shape[1:]) for part in parts)

    return hc_split_sinkhorn


def prenorm_gemm(original: Function) -> Function:
    """For DeepGEMM's wrapper: writes out FP32 ``[T, 24]`` and sqrsum ``[T]``, with splits ``[S, T, 24]`` and ``[S, T]``."""
    adapted = mhc.prenorm_gemm(original)

    def tf32_hc_prenorm_gemm(x: Tensor, fn: Tensor, out: Tensor, sqrsum: Tensor, num_splits: int | None) -> Any:
        if x.shape[0] == 0:
            return decline("no rows")
        if num_splits is None:
            return adapted(x, fn, out.unsqueeze(0), sqrsum.unsqueeze(0), 1)
        return adapted(x, fn, out, sqrsum, num_splits)

    return tf32_hc_prenorm_gemm


def _summed(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Sums over the splits: what a split holds is the kernel's own business."""
    whole = arguments["num_splits"] is None
    return [part if whole else part.sum(dim=0) for part in outputs]


_MHC = "sglang.kernels.ops.layernorm.mhc"
_MIX = (
    "fn", "hc_scale", "hc_base", "rms_eps", "hc_pre_eps", "hc_sinkhorn_eps", "hc_post_mult_value", "sinkhorn_repeat",
    "n_splits",
)  # fmt: skip
_POST = ("x", "residual", "post_layer_mix", "comb_res_mix")
_NORM = ("norm_weight", "norm_eps")
_SINKHORN = ("mixes", "hc_scale", "hc_base", "hc_mult", "sinkhorn_iters", "eps")

HOOKS: Table = {
    "0.5.23": [
        Hook("mhc_pre", f"{_MHC}:mhc_pre", ("residual", *_MIX, "n_splits_pre", *_NORM), pre),
        Hook("mhc_post_pre", f"{_MHC}:mhc_fused_post_pre", (*_POST, *_MIX, "tile_n", *_NORM), post_pre),
        Hook("mhc_post", f"{_MHC}:mhc_post", _POST, mhc.post),
        Hook("mhc_split_sinkhorn", f"{_MHC}:hc_split_sinkhorn", _SINKHORN, split_sinkhorn),
        Hook(
            "mhc_prenorm_gemm", "sglang.srt.layers.deep_gemm_wrapper.entrypoint:tf32_hc_prenorm_gemm",
            ("x", "fn", "out", "sqrsum", "num_splits"), prenorm_gemm, writes=("out", "sqrsum"), comparable=_summed,
        ),
    ],
}  # fmt: skip
