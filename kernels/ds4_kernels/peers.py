"""Peers that ``ds4-kernels bench --peer vllm`` times beside our kernels: the CUDA kernels in vLLM's own wheel.

FlashMLA and DeepGEMM are reached where vLLM keeps them; nothing here imports vLLM itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from ds4_kernels import layouts
from ds4_kernels.cases.base import Inputs

Peer = Callable[[Inputs], Callable[[], Any]]


def load(name: str) -> dict[str, Peer]:
    """Peers by op name. Raises ValueError for an unknown peer, ImportError when vLLM is not installed."""
    if name != "vllm":
        raise ValueError(f"no peer named {name!r}; allowed: vllm")
    flash_mla = importlib.import_module("vllm.third_party.flashmla.flash_mla_interface")
    deep_gemm = importlib.import_module("vllm.third_party.deep_gemm")
    return {
        "sparse_attention_prefill": lambda inputs: _prefill(flash_mla, inputs),
        "sparse_attention_decode": lambda inputs: _decode(flash_mla, inputs),
        "mqa_logits_ragged": lambda inputs: _ragged(deep_gemm, inputs),
        "mqa_logits_paged": lambda inputs: _paged(deep_gemm, inputs),
        "fp8_einsum": lambda inputs: _einsum(deep_gemm, inputs),
        "mhc_prenorm_gemm": lambda inputs: _prenorm(deep_gemm, inputs),
    }


def _prefill(flash_mla: Any, inputs: Inputs) -> Callable[[], Any]:
    q, kv, indices = inputs["q"], inputs["kv"].unsqueeze(1), inputs["indices"].unsqueeze(1)
    return lambda: flash_mla.flash_mla_sparse_fwd(
        q, kv, indices, q.shape[-1] ** -0.5, attn_sink=inputs["sink"], topk_length=inputs["lens"]
    )


def _decode(flash_mla: Any, inputs: Inputs) -> Callable[[], Any]:
    q = inputs["q"].unsqueeze(1)
    plan, _ = flash_mla.get_mla_metadata()
    extra = inputs.get("extra_cache")
    arguments: dict[str, Any] = {
        "head_dim_v": q.shape[-1], "tile_scheduler_metadata": plan, "is_fp8_kvcache": True, "attn_sink": inputs["sink"],
        "indices": inputs["swa_slots"].unsqueeze(1), "topk_length": inputs["swa_lens"],
    }  # fmt: skip
    if extra is not None:
        arguments["extra_k_cache"] = _slot_view(extra, inputs["extra_block_size"])
        arguments["extra_indices_in_kvcache"] = inputs["extra_slots"].unsqueeze(1)
        arguments["extra_topk_length"] = inputs["extra_lens"]
    cache = _slot_view(inputs["swa_cache"], inputs["swa_block_size"])
    return lambda: flash_mla.flash_mla_with_kvcache(q, cache, None, None, **arguments)


def _slot_view(cache: torch.Tensor, block_size: int) -> torch.Tensor:
    """The planar cache as vLLM shapes it, ``[blocks, block_size, 1, 584]``; its bytes stay planar."""
    width = layouts.FP8_DS_MLA.slot_bytes
    return cache.as_strided((cache.shape[0], block_size, 1, width), (cache.stride(0), width, width, 1))


def _ragged(deep_gemm: Any, inputs: Inputs) -> Callable[[], Any]:
    q, kv = (inputs["q"], None), (inputs["k"], inputs["k_scale"])
    return lambda: deep_gemm.fp8_fp4_mqa_logits(
        q, kv, inputs["weights"], inputs["starts"], inputs["ends"], clean_logits=False
    )


def _paged(deep_gemm: Any, inputs: Inputs) -> Callable[[], Any]:
    block_size, lens = inputs["block_size"], inputs["context_lens"]
    lens = (lens if lens.dim() == 2 else lens.unsqueeze(1)).contiguous()
    cache = inputs["cache"]
    width = layouts.INDEXER_FP8.slot_bytes
    shaped = cache.as_strided((cache.shape[0], block_size, 1, width), (cache.stride(0), width, width, 1))
    plan = deep_gemm.get_paged_mqa_logits_metadata(lens, block_size, deep_gemm.get_num_sms())
    return lambda: deep_gemm.fp8_fp4_paged_mqa_logits(
        (inputs["q"], None),
        shaped,
        inputs["weights"],
        lens,
        inputs["block_table"],
        plan,
        inputs["max_len"],
        clean_logits=False,
    )


def _einsum(deep_gemm: Any, inputs: Inputs) -> Callable[[], Any]:
    a, b = inputs["a"], inputs["b"]
    scales = (_float_scale(inputs["a_scale"]), _float_scale(inputs["b_scale"]))
    out = torch.empty(a.shape[0], a.shape[1], b.shape[1], dtype=torch.bfloat16, device=a.device)
    return lambda: deep_gemm.fp8_einsum("bhr,hdr->bhd", (a, scales[0]), (b, scales[1]), out, recipe=(1, 128, 128))


def _float_scale(scale: torch.Tensor) -> torch.Tensor:
    """FP32 scales: what DeepGEMM takes on Hopper."""
    return torch.exp2(scale.float() - 127) if scale.dtype == torch.uint8 else scale


def _prenorm(deep_gemm: Any, inputs: Inputs) -> Callable[[], Any]:
    x, fn = inputs["x"], inputs["fn"]
    fn = fn.float().sum(dim=0) if fn.dim() == 3 else fn
    splits = 16
    out = torch.empty(splits, x.shape[0], fn.shape[0], dtype=torch.float32, device=x.device)
    sums = torch.empty(splits, x.shape[0], dtype=torch.float32, device=x.device)
    return lambda: deep_gemm.tf32_hc_prenorm_gemm(x, fn, out, sums, splits)
