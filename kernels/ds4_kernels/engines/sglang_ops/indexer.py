"""The indexer's paged logits in SGLang's DeepSeek-V4: the TileLang kernel (its default on SM12x) and the PyTorch one.

Both have one signature and are called with ``clean_logits=False``: what lies behind a row's length is undefined there (the
top-k that follows reads the row's own keys alone), -inf with ours. The scale of a query is part of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops.views import dense_rows, planar
from ds4_kernels.layouts import INDEX_DIM, INDEXER_FP8


def paged(original: Function) -> Function:
    """FP32 logits ``[B, max_seq_len]`` of q e4m3 ``[B, 1, H, 128]`` against the paged cache ``[pages, 64, 1, 132]``."""

    def fp8_paged_mqa_logits(
        q_fp8: Tensor, kvcache_fp8: Tensor, weight: Tensor, seq_lens: Tensor, page_table: Tensor,
        deep_gemm_metadata: Any, max_seq_len: int, clean_logits: bool = True,
    ) -> Tensor | Declined:  # fmt: skip
        del deep_gemm_metadata
        problem = _query_problem(q_fp8, weight) or _cache_problem(kvcache_fp8)
        if problem or clean_logits:
            return decline(problem or "clean_logits")
        if seq_lens.numel() != q_fp8.shape[0]:
            return decline(f"lengths {list(seq_lens.shape)} for {q_fp8.shape[0]} rows")
        result: Tensor = ops.call(
            "mqa_logits_paged", q_fp8.contiguous(), planar(kvcache_fp8.view(torch.uint8)), kvcache_fp8.shape[1],
            weight.float().contiguous(), seq_lens.reshape(-1).to(torch.int32).contiguous(),
            dense_rows(page_table.to(torch.int32)), max_seq_len,
        )  # fmt: skip
        return result

    return fp8_paged_mqa_logits


def _query_problem(q: Tensor, weight: Tensor) -> str:
    if q.dtype != torch.float8_e4m3fn or q.dim() != 4 or q.shape[1] != 1 or q.shape[3] != INDEX_DIM:
        return f"queries {q.dtype} {list(q.shape)[1:]}"
    heads = q.shape[2]
    if heads < 4 or heads & (heads - 1):
        return f"{heads} heads"
    return "" if weight.shape == (q.shape[0], heads) else f"weights {list(weight.shape)}"


def _cache_problem(cache: Tensor) -> str:
    if cache.dtype not in (torch.uint8, torch.float8_e4m3fn) or cache.dim() != 4:
        return f"indexer cache {cache.dtype} of {cache.dim()} dimensions"
    return "" if cache.shape[2:] == (1, INDEXER_FP8.slot_bytes) else f"indexer cache slots of {list(cache.shape)[2:]}"


def _inside(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Logits with everything behind a row's length set to 0."""
    lens = arguments["seq_lens"].reshape(-1, 1)
    return [torch.where(torch.arange(x.shape[1], device=x.device) < lens, x, 0.0) for x in outputs]


_PARAMETERS = (
    "q_fp8", "kvcache_fp8", "weight", "seq_lens", "page_table", "deep_gemm_metadata", "max_seq_len", "clean_logits",
)  # fmt: skip
_TARGETS = (
    "sglang.kernels.ops.attention.dsa.tilelang_kernel:tilelang_fp8_paged_mqa_logits",
    "sglang.srt.layers.attention.dsv4.indexer:fp8_paged_mqa_logits_torch_sm120",
)

HOOKS: Table = {"0.5.23": [Hook("mqa_logits_paged", t, _PARAMETERS, paged, comparable=_inside) for t in _TARGETS]}
