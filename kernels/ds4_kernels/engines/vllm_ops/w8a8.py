"""Block-FP8 linears: the bundle's tile tables for the engine's Triton GEMM, and our GEMM in place of the engine's.

Three kernel classes of vLLM reach a GEMM with 128x128 weight blocks on CUDA: DeepGEMM (FP8 activations, scales with the
tokens innermost: FP32 on sm_90, four E8M0 bytes in an int32 from SM100 on), FlashInfer with DeepGEMM (BF16 activations
that it quantises itself) and Triton.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines import selection
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops.views import SCALE_BLOCK, block_scales, unpacked
from ds4_kernels.tuning import tables

Config = dict[str, int]


def configs(original: Function) -> Function:
    """For ``get_w8a8_block_fp8_configs``: our table for this device and shape by number of tokens, or the engine's."""

    def get_w8a8_block_fp8_configs(N: int, K: int, block_n: int, block_k: int) -> dict[int, Config] | Declined:
        if (block_n, block_k) != (SCALE_BLOCK, SCALE_BLOCK):
            return decline(f"weight blocks of {block_n}x{block_k}")
        device = selection.current_device()
        if device is None:
            return decline("CUDA is not initialised")
        name = torch.cuda.get_device_name(device)
        return table_configs(name, N, K) or decline(f"no table of {name} for N={N}, K={K}")

    return get_w8a8_block_fp8_configs


@functools.lru_cache(maxsize=256)
def table_configs(device_name: str, n: int, k: int) -> dict[int, Config]:
    """Launch options of the engine's kernel by M, empty without a table for the device and the shape.

    The engine's kernel has the tokens on the row side alone and one scale block a step: other entries are left out.
    """
    table = tables.resolve_device(device_name).table
    rows = {} if table == tables.DEFAULT else tables.load_table(table).get((n, k), {})
    fitting = {m: tile for m, tile in rows.items() if not tile.swap and tile.block_k <= SCALE_BLOCK}
    return {
        m: {
            "BLOCK_SIZE_M": tile.block_m,
            "BLOCK_SIZE_N": tile.block_n,
            "BLOCK_SIZE_K": tile.block_k,
            "GROUP_SIZE_M": tile.group_m,
            "num_warps": tile.num_warps,
            "num_stages": tile.num_stages,
        }
        for m, tile in fitting.items()
    }


def quantised(original: Function) -> Function:
    """For ``apply_block_scaled_mm`` of kernels that get FP8 activations: ``[T, N]`` in the layer's output dtype."""

    def apply_block_scaled_mm(self: Any, A: Tensor, B: Tensor, As: Tensor, Bs: Tensor) -> Tensor | Declined:
        refused = _refuse(A, B, self.config.out_dtype)
        if refused is not None:
            return refused
        if A.dtype != torch.float8_e4m3fn:
            return decline(f"activations in {A.dtype}")
        scale = unpacked(As, A.shape[1]) if As.dtype == torch.int32 else As
        return _gemm(A, scale, B, Bs, self.config.out_dtype)

    return apply_block_scaled_mm


def unquantised(original: Function) -> Function:
    """For ``apply_block_scaled_mm`` of the kernel that quantises BF16 activations itself: per token and 128 elements."""

    def apply_block_scaled_mm(self: Any, A: Tensor, B: Tensor, As: Tensor, Bs: Tensor) -> Tensor | Declined:
        del As
        refused = _refuse(A, B, self.config.out_dtype)
        if refused is not None:
            return refused
        if A.dtype != torch.bfloat16:
            return decline(f"activations in {A.dtype}")
        values, scale = ops.call("quant_fp8", A.contiguous(), SCALE_BLOCK, "fp32")
        return _gemm(values, scale, B, Bs, self.config.out_dtype)

    return apply_block_scaled_mm


def _gemm(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, out_dtype: torch.dtype) -> Tensor:
    weight_scale = block_scales(weight_scale.data, weight.shape[0], weight.shape[1])
    result: Tensor = ops.call("w8a8_gemm", values, scale, weight.data, weight_scale, out_dtype)
    return result


def _refuse(values: Tensor, weight: Tensor, out_dtype: torch.dtype) -> Declined | None:
    if weight.dtype != torch.float8_e4m3fn or weight.dim() != 2 or not weight.is_contiguous():
        return decline(f"weight {weight.dtype} {list(weight.shape)} of strides {weight.stride()}")
    if values.dim() != 2 or weight.shape[1] % SCALE_BLOCK or values.stride(1) != 1:
        return decline(f"activations {list(values.shape)} of strides {values.stride()}")
    return None if out_dtype in (torch.bfloat16, torch.float32) else decline(f"output in {out_dtype}")


_LINEAR = "vllm.model_executor.kernels.linear.scaled_mm"
_OPERANDS = ("self", "A", "B", "As", "Bs")


def _linear(module: str, name: str, factory: Any) -> Hook:
    target = f"{_LINEAR}.{module}:{name}.apply_block_scaled_mm"
    return Hook("w8a8_gemm", target, _OPERANDS, factory, everywhere=False)


_HOOKS = (
    Hook(
        "w8a8_gemm", "vllm.model_executor.layers.quantization.utils.fp8_utils:get_w8a8_block_fp8_configs",
        ("N", "K", "block_n", "block_k"), configs, shadow=False,
    ),
    _linear("deep_gemm", "DeepGemmFp8BlockScaledMMKernel", quantised),
    _linear("triton", "TritonFp8BlockScaledMMKernel", quantised),
    _linear("flashinfer", "FlashInferFp8DeepGEMMDynamicBlockScaledKernel", unquantised),
)  # fmt: skip

HOOKS: Table = {"0.25.0": _HOOKS, "0.33.0": _HOOKS}
