"""The grouped output projection: inverse rope with FP8 quantisation, then ``bhr,hdr->bhd`` with block scales.

``vllm.utils.deep_gemm.fp8_einsum`` takes its output among positional arguments, so the hook sits on its only caller,
``deep_gemm_fp8_o_proj``, which is: quantise, einsum, ``wo_b``. The quantiser it calls is the engine's, or ours where that
op is hooked as well: each of the two can be on alone.

Scales of the activation: FP32 on sm_90 (recipe (1, 128, 128)), four E8M0 bytes in an int32 from SM100 on (recipe
(1, 1, 128)). Scales of the weight: FP32 ``[G, N/128, K/128]``, or packed and repeated for every row (``block_scales``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops.views import SCALE_BLOCK, block_scales
from ds4_kernels.layouts import HEAD_DIM, NOPE_DIM, ROPE_DIM


def rope_quant(original: Function) -> Function:
    """For ``fused_inv_rope_fp8_quant``: (e4m3 ``[T, G, K]``, scales with tokens innermost), as our op gives them."""

    def fused_inv_rope_fp8_quant(
        o: Tensor, positions: Tensor, cos_sin_cache: Tensor, n_groups: int, heads_per_group: int, nope_dim: int = NOPE_DIM,
        rope_dim: int = ROPE_DIM, quant_group_size: int = SCALE_BLOCK, tma_aligned_scales: bool = False,
        quantize: bool = True,
    ) -> tuple[Tensor, Tensor] | Declined:  # fmt: skip
        refused = _refuse_output(o, cos_sin_cache, n_groups, heads_per_group, nope_dim, rope_dim)
        if refused is not None:
            return refused
        if quant_group_size != SCALE_BLOCK or not quantize:
            return decline(f"groups of {quant_group_size}" if quantize else "no quantisation")
        if tma_aligned_scales and heads_per_group * HEAD_DIM % (4 * SCALE_BLOCK):
            return decline("a group's scales fill no whole words")
        even = o.stride(2) == 1 and not any(stride % 2 for stride in (o.stride(0), o.stride(1), o.storage_offset()))
        result: tuple[Tensor, Tensor] = ops.call(
            "inverse_rope_quant", o if even else o.contiguous(), positions.contiguous(), cos_sin_cache.contiguous(), n_groups,
            "packed" if tma_aligned_scales else "fp32",
        )  # fmt: skip
        return result

    return fused_inv_rope_fp8_quant


def o_proj(original: Function) -> Function:
    """For ``deep_gemm_fp8_o_proj``: the projected output, BF16 ``[T, hidden]``."""

    def deep_gemm_fp8_o_proj(
        o: Any, positions: Tensor, cos_sin_cache: Tensor, wo_a: Any, wo_b: Any, *, n_groups: int, heads_per_group: int,
        nope_dim: int, rope_dim: int, o_lora_rank: int, einsum_recipe: tuple[int, int, int], tma_aligned_scales: bool,
    ) -> Tensor | Declined:  # fmt: skip
        if not isinstance(o, Tensor):
            return decline("an output that the attention kernel has quantised")
        refused = _refuse_output(o, cos_sin_cache, n_groups, heads_per_group, nope_dim, rope_dim)
        refused = refused or _refuse_weight(wo_a.weight, einsum_recipe)
        if refused is not None:
            return refused
        quantise = original.__globals__["fused_inv_rope_fp8_quant"]
        values, scales = quantise(
            o, positions, cos_sin_cache, n_groups=n_groups, heads_per_group=heads_per_group, nope_dim=nope_dim,
            rope_dim=rope_dim, tma_aligned_scales=tma_aligned_scales,
        )  # fmt: skip
        projected: Tensor = wo_b(_einsum(values, scales, wo_a, o_lora_rank).flatten(1))
        return projected

    return deep_gemm_fp8_o_proj


def _einsum(values: Tensor, scales: Tensor, wo_a: Any, rows: int) -> Tensor:
    """``[T, G, rows]`` in BF16 from the quantised output and the module's weight."""
    groups, k = values.shape[1:]
    scale = _weight_scale(wo_a)
    scale = block_scales(scale.view(groups, -1, scale.shape[-1]) if scale.dim() == 2 else scale, rows, k)
    result: Tensor = ops.call("fp8_einsum", values, scales, wo_a.weight.data.view(groups, rows, k), scale)
    return result


def _weight_scale(module: Any) -> Tensor:
    scale = getattr(module, "weight_scale_inv", None)
    found: Tensor = (module.weight_scale if scale is None else scale).data
    return found


def _refuse_output(
    o: Tensor, cos_sin: Tensor, groups: int, heads: int, nope_dim: int, rope_dim: int
) -> Declined | None:
    if o.dim() != 3 or o.dtype != torch.bfloat16 or o.shape[1:] != (groups * heads, HEAD_DIM):
        return decline(f"attention output {o.dtype} {list(o.shape)[1:]}")
    if (nope_dim, rope_dim) != (NOPE_DIM, ROPE_DIM):
        return decline(f"heads of {nope_dim} and {rope_dim} roped dimensions")
    return None if cos_sin.dtype == torch.float32 else decline(f"a rope table in {cos_sin.dtype}")


def _refuse_weight(weight: Tensor, recipe: tuple[int, int, int]) -> Declined | None:
    if weight.dtype != torch.float8_e4m3fn or not weight.is_contiguous():
        return decline(f"a weight in {weight.dtype}, {'' if weight.is_contiguous() else 'not '}contiguous")
    return None if recipe[2] == SCALE_BLOCK else decline(f"recipe {recipe}")


_MODEL = "vllm.models.deepseek_v4"
_QUANT = (
    "o", "positions", "cos_sin_cache", "n_groups", "heads_per_group", "nope_dim", "rope_dim", "quant_group_size",
    "tma_aligned_scales",
)  # fmt: skip
_O_PROJ = (
    "o", "positions", "cos_sin_cache", "wo_a", "wo_b", "n_groups", "heads_per_group", "nope_dim", "rope_dim",
    "o_lora_rank", "einsum_recipe", "tma_aligned_scales",
)  # fmt: skip


def _hooks(quant_parameters: tuple[str, ...]) -> list[Hook]:
    target = f"{_MODEL}.common.ops.fused_inv_rope_fp8_quant:fused_inv_rope_fp8_quant"
    return [
        Hook("inverse_rope_quant", target, quant_parameters, rope_quant),
        Hook("fp8_einsum", f"{_MODEL}.nvidia.ops.o_proj:deep_gemm_fp8_o_proj", _O_PROJ, o_proj),
    ]


HOOKS: Table = {"0.25.0": _hooks(_QUANT), "0.33.0": _hooks((*_QUANT, "quantize"))}
