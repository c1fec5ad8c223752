"""The indexer: DeepGEMM's MQA logits, the per-row top-k, and the query's rope and quantisation.

vLLM 0.25.0 and 0.33.0 call DeepGEMM through ``vllm.utils.deep_gemm``. q is ``(values, scales)``: with FP8 keys the scales
are None, as the query's scale is part of ``weights``; MX formats go back to the engine. Ragged logits are ``[M, N]`` in
0.25.0, and in 0.33.0 ``[M, max_seqlen_k]`` where row i begins at its own first key. Columns outside of a row's window are
undefined in the engine: the top-k that follows reads the window alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops.views import dense_rows, planar
from ds4_kernels.layouts import INDEX_DIM, INDEXER_FP8
from ds4_kernels.reference.query import indexer_weight_factor

LARGEST_K = 3072
"""Of the top-k kernels."""

Pair = tuple[Tensor, Tensor | None]


def ragged_025(original: Function) -> Function:
    """For ``fp8_fp4_mqa_logits`` with whole rows: FP32 ``[M, N]``, always -inf outside of the windows."""

    def fp8_fp4_mqa_logits(
        q: Pair, kv: tuple[Tensor, Tensor], weights: Tensor, cu_seqlen_ks: Tensor, cu_seqlen_ke: Tensor,
        clean_logits: bool,
    ) -> Tensor | Declined:  # fmt: skip
        del clean_logits
        return _ragged(q, kv, weights, cu_seqlen_ks, cu_seqlen_ke, None)

    return fp8_fp4_mqa_logits


def ragged_033(original: Function) -> Function:
    """For ``fp8_fp4_mqa_logits`` with compressed rows: FP32 ``[M, max_seqlen_k]``, row i begins at ``cu_seqlen_ks[i]``."""

    def fp8_fp4_mqa_logits(
        q: Pair, kv: tuple[Tensor, Tensor], weights: Tensor, cu_seqlen_ks: Tensor, cu_seqlen_ke: Tensor,
        max_seqlen_k: int,
    ) -> Tensor | Declined:  # fmt: skip
        return _ragged(q, kv, weights, cu_seqlen_ks, cu_seqlen_ke, int(max_seqlen_k))

    return fp8_fp4_mqa_logits


def paged_025(original: Function) -> Function:
    """For ``fp8_fp4_paged_mqa_logits``: FP32 ``[B next_n, max_model_len]``, -inf behind a row's length."""

    def fp8_fp4_paged_mqa_logits(
        q: Pair, kv_cache: Tensor, weights: Tensor, context_lens: Tensor, block_tables: Tensor,
        schedule_metadata: Tensor, max_model_len: int, clean_logits: bool,
    ) -> Tensor | Declined:  # fmt: skip
        del schedule_metadata, clean_logits
        return _paged(q, kv_cache, weights, context_lens, block_tables, max_model_len)

    return fp8_fp4_paged_mqa_logits


def paged_033(original: Function) -> Function:
    """As in 0.25.0; with ``indices`` (several rows of one request, SM100 only) the engine keeps the call."""

    def fp8_fp4_paged_mqa_logits(
        q: Pair, kv_cache: Tensor, weights: Tensor, context_lens: Tensor, block_tables: Tensor,
        schedule_metadata: Tensor, max_model_len: int, indices: Tensor | None = None,
    ) -> Tensor | Declined:  # fmt: skip
        del schedule_metadata
        if indices is not None:
            return decline("rows with request indices")
        return _paged(q, kv_cache, weights, context_lens, block_tables, max_model_len)

    return fp8_fp4_paged_mqa_logits


def topk_prefill(original: Function) -> Function:
    """For ``top_k_per_row_prefill``: writes ``raw_topk_indices`` int32 ``[R, k]``, relative to the row's start."""

    def top_k_per_row_prefill(
        logits: Tensor, cu_seqlen_ks: Tensor, cu_seqlen_ke: Tensor, raw_topk_indices: Tensor, num_rows: int,
        stride0: int, stride1: int, topk_tokens: int,
    ) -> Declined | None:  # fmt: skip
        del stride0
        refused = _refuse_topk(logits, stride1, topk_tokens)
        if refused is not None:
            return refused
        if logits.shape[1] == 0:
            return decline("no columns")
        found = ops.call(
            "topk_prefill",
            logits[:num_rows],
            _int32(cu_seqlen_ks[:num_rows]),
            _int32(cu_seqlen_ke[:num_rows]),
            topk_tokens,
        )
        raw_topk_indices[:num_rows, :topk_tokens].copy_(found)
        return None

    return top_k_per_row_prefill


def topk_decode(original: Function) -> Function:
    """For ``top_k_per_row_decode``: writes ``raw_topk_indices`` int32 ``[B next_n, k]``. k 512 to 2048 never gets here."""

    def top_k_per_row_decode(
        logits: Tensor, next_n: int, seq_lens: Tensor, raw_topk_indices: Tensor, num_rows: int, stride0: int,
        stride1: int, topk_tokens: int,
    ) -> Declined | None:  # fmt: skip
        del stride0
        refused = _refuse_topk(logits, stride1, topk_tokens)
        if refused is not None:
            return refused
        if seq_lens.shape[0] * next_n != num_rows or (seq_lens.dim() == 2 and seq_lens.shape[1] != next_n):
            return decline(f"{num_rows} rows of lengths {list(seq_lens.shape)} and next_n {next_n}")
        found = ops.call("topk_decode", logits[:num_rows], next_n, _int32(seq_lens), topk_tokens)
        raw_topk_indices[:num_rows, :topk_tokens].copy_(found)
        return None

    return top_k_per_row_decode


def query(original: Function) -> Function:
    """For ``fused_indexer_q_rope_quant`` with FP8 keys: (q e4m3 ``[T, H, 128]``, weights FP32 ``[T, H]``)."""

    def fused_indexer_q_rope_quant(
        positions: Tensor, index_q: Tensor, index_q_cos_sin_cache: Tensor, index_weights: Tensor,
        index_weights_softmax_scale: float, index_weights_head_scale: float, use_fp4: bool = False,
        weights_out_dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor] | Declined:  # fmt: skip
        if use_fp4 or weights_out_dtype != torch.float32:
            return decline("MXFP4 keys" if use_fp4 else f"weights in {weights_out_dtype}")
        if index_q.dtype != torch.bfloat16 or index_q.dim() != 3 or index_q.shape[2] != INDEX_DIM:
            return decline(f"queries {index_q.dtype} {list(index_q.shape)[1:]}")
        if index_q_cos_sin_cache.dtype != torch.float32 or not index_q_cos_sin_cache.is_contiguous():
            return decline(f"a rope table in {index_q_cos_sin_cache.dtype}")
        factor = indexer_weight_factor(index_q.shape[1])
        if not math.isclose(index_weights_softmax_scale * index_weights_head_scale, factor, rel_tol=1e-6):
            return decline("other softmax factors")
        result: tuple[Tensor, Tensor] = ops.call(
            "indexer_query", index_q.contiguous(), index_weights.float().contiguous(), positions.contiguous(),
            index_q_cos_sin_cache,
        )  # fmt: skip
        return result

    return fused_indexer_q_rope_quant


def _ragged(
    q: Pair, kv: tuple[Tensor, Tensor], weights: Tensor, starts: Tensor, ends: Tensor, width: int | None
) -> Tensor | Declined:
    values, scales = q
    keys, key_scale = kv
    refused = _refuse_queries(values, scales, weights)
    if refused is not None:
        return refused
    if keys.dtype != torch.float8_e4m3fn or keys.shape[-1] != INDEX_DIM or key_scale.dtype != torch.float32:
        return decline(f"keys {keys.dtype} of {keys.shape[-1]} with scales {key_scale.dtype}")
    result: Tensor = ops.call(
        "mqa_logits_ragged", values.contiguous(), keys.contiguous(), key_scale.reshape(-1), weights.contiguous(),
        _int32(starts), _int32(ends), compressed_width=width,
    )  # fmt: skip
    return result


def _paged(
    q: Pair, cache: Tensor, weights: Tensor, context_lens: Tensor, block_tables: Tensor, max_len: int
) -> Tensor | Declined:
    values, scales = q
    refused = _refuse_queries(values, scales, weights)
    if refused is not None:
        return refused
    if cache.dim() != 4 or cache.shape[3] != INDEXER_FP8.slot_bytes or cache.dtype != torch.uint8:
        return decline(f"indexer cache {cache.dtype} {list(cache.shape)[1:]}")
    if context_lens.dim() == 2 and context_lens.shape[1] != values.shape[1]:
        return decline(f"lengths {list(context_lens.shape)} for next_n {values.shape[1]}")
    result: Tensor = ops.call(
        "mqa_logits_paged", values.contiguous(), planar(cache), cache.shape[1], weights.contiguous(),
        _int32(context_lens), dense_rows(_int32(block_tables)), max_len,
    )  # fmt: skip
    return result


def _refuse_queries(values: Tensor, scales: Tensor | None, weights: Tensor) -> Declined | None:
    """The queries that our MQA logits take are FP8 with the scale in FP32 weights, and a power of two of heads."""
    heads = values.shape[-2]
    if scales is not None or values.dtype != torch.float8_e4m3fn or values.shape[-1] != INDEX_DIM:
        return decline(f"queries {values.dtype} of {values.shape[-1]}, {'no' if scales is None else 'own'} scales")
    if weights.dtype != torch.float32:
        return decline(f"weights {weights.dtype}")
    return decline(f"{heads} heads") if heads < 4 or heads & (heads - 1) else None


def _refuse_topk(logits: Tensor, stride1: int, k: int) -> Declined | None:
    if logits.dtype != torch.float32 or stride1 != 1:
        return decline(f"logits {logits.dtype} with column stride {stride1}")
    return None if 1 <= k <= LARGEST_K else decline(f"k = {k}")


def _int32(x: Tensor) -> Tensor:
    return x.to(torch.int32).contiguous()


def _inside_ragged(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Logits with everything outside of the windows set to 0: the engine leaves it undefined."""
    starts, ends = arguments["cu_seqlen_ks"][:, None], arguments["cu_seqlen_ke"][:, None]
    if "max_seqlen_k" in arguments:
        starts, ends = torch.zeros_like(starts), ends - starts
    return [_keep(logits, starts, ends) for logits in outputs]


def _inside_paged(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    lens, next_n = arguments["context_lens"], arguments["q"][0].shape[1]
    if lens.dim() == 1:
        lens = lens[:, None] - torch.arange(next_n - 1, -1, -1, device=lens.device)
    ends = lens.reshape(-1, 1)
    return [_keep(logits, torch.zeros_like(ends), ends) for logits in outputs]


def _keep(logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    column = torch.arange(logits.shape[1], device=logits.device)
    return torch.where((column >= starts) & (column < ends), logits, 0.0)


def _sorted_rows(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Indices of a row in ascending order: top-k has none of its own (equal scores may still pick others)."""
    del arguments
    return [indices.sort(dim=-1).values for indices in outputs]


_QUERIES = ("q", "kv", "weights", "cu_seqlen_ks", "cu_seqlen_ke")
_PAGED = ("q", "kv_cache", "weights", "context_lens", "block_tables", "schedule_metadata", "max_model_len")
_ROWS = ("raw_topk_indices", "num_rows", "stride0", "stride1", "topk_tokens")
_INDEX_QUERY = (
    "positions", "index_q", "index_q_cos_sin_cache", "index_weights", "index_weights_softmax_scale",
    "index_weights_head_scale", "use_fp4",
)  # fmt: skip
_DEEP_GEMM = "vllm.utils.deep_gemm"
_QUERY_TARGET = "vllm.models.deepseek_v4.common.ops.fused_indexer_q:fused_indexer_q_rope_quant"

_TOPK = (
    Hook(
        "topk_prefill", "vllm._custom_ops:top_k_per_row_prefill", ("logits", "cu_seqlen_ks", "cu_seqlen_ke", *_ROWS),
        topk_prefill, writes=("raw_topk_indices",), comparable=_sorted_rows,
    ),
    Hook(
        "topk_decode", "vllm._custom_ops:top_k_per_row_decode", ("logits", "next_n", "seq_lens", *_ROWS), topk_decode,
        writes=("raw_topk_indices",), comparable=_sorted_rows,
    ),
)  # fmt: skip


def _ragged_hook(last: str, factory: Any) -> Hook:
    target = f"{_DEEP_GEMM}:fp8_fp4_mqa_logits"
    return Hook("mqa_logits_ragged", target, (*_QUERIES, last), factory, comparable=_inside_ragged)


def _paged_hook(last: str, factory: Any) -> Hook:
    target = f"{_DEEP_GEMM}:fp8_fp4_paged_mqa_logits"
    return Hook("mqa_logits_paged", target, (*_PAGED, last), factory, comparable=_inside_paged)


HOOKS: Table = {
    "0.25.0": [
        _ragged_hook("clean_logits", ragged_025),
        _paged_hook("clean_logits", paged_025),
        *_TOPK,
        Hook("indexer_query", _QUERY_TARGET, _INDEX_QUERY, query),
    ],
    "0.33.0": [
        _ragged_hook("max_seqlen_k", ragged_033),
        _paged_hook("indices", paged_033),
        *_TOPK,
        Hook("indexer_query", _QUERY_TARGET, (*_INDEX_QUERY, "weights_out_dtype"), query),
    ],
}
