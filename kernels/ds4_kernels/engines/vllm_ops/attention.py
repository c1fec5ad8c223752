"""Sparse MLA attention in vLLM's DeepSeek-V4: our kernels behind the attention calls of vLLM's own layers.

vLLM's layer classes stay: their metadata builders, gather, index building and profile runs are proven, and with the call as
the seam the engine's kernel remains beside ours for shadow mode and for shapes that we decline. The calls are

* ``flash_mla_sparse_fwd`` (prefill over the gathered BF16 workspace) and ``flash_mla_with_kvcache`` (decode from the FP8
  pages) of ``DeepseekV4FlashMLAAttention``: SM90 and SM100;
* ``flashinfer_trtllm_batch_decode_sparse_mla_dsv4`` (prefill and decode from the FP8 pages) of
  ``DeepseekV4FlashInferSM120Attention``: SM12x. ``attention_class`` serves where that class cannot be built.

Caches are ``fp8_ds_mla``: vLLM shows them as uint8 ``[blocks, block_size, 1, 584]``; their bytes are planar
(``layouts.FP8_DS_MLA``) and the block stride is the tensor's own (padded, or packed with other layers).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import layouts, ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops import attention_class

PREFILL, DECODE = "sparse_attention_prefill", "sparse_attention_decode"
ALIGNMENT = 16
"""Bytes to which blocks are aligned: the kernels read BF16 rows of them."""
_FLASHMLA = "vllm.models.deepseek_v4.nvidia.flashmla"
_FLASHINFER = "vllm.models.deepseek_v4.nvidia.flashinfer_sparse"
_SPARSE_FWD = ("q", "kv", "indices", "sm_scale", "d_v", "attn_sink", "topk_length", "out")
_WITH_KVCACHE = (
    "q", "k_cache", "block_table", "cache_seqlens", "head_dim_v", "tile_scheduler_metadata", "num_splits", "softmax_scale",
    "causal", "is_fp8_kvcache", "indices", "attn_sink", "extra_k_cache", "extra_indices_in_kvcache", "topk_length",
    "extra_topk_length", "out",
)  # fmt: skip


def prefill(original: Function) -> Function:
    """Replacement of ``flash_mla_sparse_fwd``."""

    def flash_mla_sparse_fwd(
        q: Tensor,
        kv: Tensor,
        indices: Tensor,
        sm_scale: float,
        d_v: int = layouts.HEAD_DIM,
        attn_sink: Tensor | None = None,
        topk_length: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, None, Tensor] | Declined:
        """q BF16 ``[T, H, 512]``, kv ``[N, 1, 512]``, indices ``[T, 1, W]``. Returns (out, no maxima, lse ``[T, H]``)."""
        why = _query_problem(q, out) or _workspace_problem(kv, d_v)
        if why:
            return decline(why)
        lens = _full(indices[:, 0]) if topk_length is None else topk_length
        result, lse = _into(out, PREFILL, q, kv[:, 0], indices[:, 0], lens, attn_sink, scale=sm_scale)
        return result, None, lse

    return flash_mla_sparse_fwd


def decode(original: Function) -> Function:
    """Replacement of ``flash_mla_with_kvcache``."""

    def flash_mla_with_kvcache(
        q: Tensor,
        k_cache: Tensor,
        block_table: Tensor | None,
        cache_seqlens: Tensor | None,
        head_dim_v: int,
        tile_scheduler_metadata: Any,
        num_splits: None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        is_fp8_kvcache: bool = False,
        indices: Tensor | None = None,
        attn_sink: Tensor | None = None,
        extra_k_cache: Tensor | None = None,
        extra_indices_in_kvcache: Tensor | None = None,
        topk_length: Tensor | None = None,
        extra_topk_length: Tensor | None = None,
        out: Tensor | None = None,
        enable_batch_invariant: bool = False,
    ) -> tuple[Tensor, Tensor] | Declined:
        """q BF16 ``[T, 1, H, 512]``, caches ``[blocks, block_size, 1, 584]``, indices ``[T, 1, W]`` global slots.

        Returns out ``[T, 1, H, 512]`` and lse ``[T, H, 1]``.
        """
        if indices is None or not is_fp8_kvcache or causal or enable_batch_invariant or q.shape[1] != 1:
            return decline("not the sparse FP8 decode of one query a row")
        flat = None if out is None else out[:, 0]
        why = _query_problem(q[:, 0], flat) or _cache_problem(k_cache) or _cache_problem(extra_k_cache)
        if why:
            return decline(why)
        result, lse = paged(
            q[:, 0], (k_cache, indices, topk_length), (extra_k_cache, extra_indices_in_kvcache, extra_topk_length),
            attn_sink, softmax_scale, flat,
        )  # fmt: skip
        return result.unsqueeze(1), lse.unsqueeze(-1)

    return flash_mla_with_kvcache


def paged_call(original: Function) -> Function:
    """Replacement of ``flashinfer_trtllm_batch_decode_sparse_mla_dsv4`` as vLLM's SM12x layer calls it: keywords alone."""

    def sparse_mla(*args: Any, **kwargs: Any) -> Tensor | Declined:
        """query BF16 ``[T, H, 512]``, caches ``[blocks, block_size, 1, 584]``, indices ``[T, 1, W]``, out ``[T, H, 512]``."""
        if args or kwargs.get("swa_topk_lens") is None:
            return decline("not the SM12x form of the call (no swa_topk_lens)")
        query, cache, extra = kwargs["query"], kwargs["swa_kv_cache"], kwargs.get("compressed_kv_cache")
        why = _query_problem(query, kwargs["out"]) or _cache_problem(cache) or _cache_problem(extra)
        if why:
            return decline(why)
        window = (cache, kwargs["sparse_indices"], kwargs["swa_topk_lens"])
        compressed = (extra, kwargs.get("extra_sparse_indices"), kwargs.get("extra_sparse_topk_lens"))
        result, _ = paged(query, window, compressed, kwargs.get("sinks"), kwargs["bmm1_scale"], kwargs["out"])
        return result

    return sparse_mla


Candidates = tuple[Tensor | None, Tensor | None, Tensor | None]
"""(paged cache, slots, lens) of one kind of candidates."""


def paged(
    q: Tensor, window: Candidates, extra: Candidates, sink: Tensor | None, scale: float | None, out: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attend from q ``[T, H, 512]`` to slots of the window's cache and of the compressed one; ``(out, lse)``."""
    cache, slots, lens = _candidates(window)
    options: dict[str, Any] = {"scale": layouts.HEAD_DIM**-0.5 if scale is None else scale}
    if extra[0] is not None:
        more, more_slots, more_lens = _candidates(extra)
        options |= {
            "extra_cache": planar(more), "extra_block_size": more.shape[1], "extra_slots": more_slots,
            "extra_lens": more_lens,
        }  # fmt: skip
    return _into(out, DECODE, q, planar(cache), cache.shape[1], slots, lens, sink, **options)


def planar(cache: Tensor) -> Tensor:
    """vLLM's view ``[blocks, block_size, 1, 584]`` as our ``[blocks, bytes]``: the same memory for Triton.

    The reference reads whole data rows, so it gets a padded copy (it is for debugging; its speed does not matter).
    """
    rows = cache.flatten(1)
    if ops.backend_of(DECODE, cache.device) == "triton":
        return rows
    stride = layouts.FP8_DS_MLA.block_stride(cache.shape[1])
    return torch.nn.functional.pad(rows, (0, stride - rows.shape[1]))


def _candidates(part: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """(cache, slots ``[T, W]``, lens) with the middle dimension of vLLM's slots gone and missing lens filled."""
    cache, slots, lens = part
    if cache is None or slots is None:
        raise ValueError("a cache needs indices")
    slots = slots[:, 0] if slots.dim() == 3 else slots
    return cache, slots, _full(slots) if lens is None else lens


def _full(slots: Tensor) -> Tensor:
    return torch.full((slots.shape[0],), slots.shape[1], dtype=torch.int32, device=slots.device)


def _into(out: Tensor | None, name: str, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Run an attention op with its result in ``out`` (the reference has no such argument)."""
    if ops.backend_of(name, args[0].device) == "triton":
        kwargs["out"] = out
    result, lse = ops.call(name, *args, **kwargs)
    if out is None or result.data_ptr() == out.data_ptr():
        return result, lse
    out[:, : result.shape[1]] = result
    out[:, result.shape[1] :] = 0
    return out, lse


def _query_problem(q: Tensor, out: Tensor | None) -> str:
    if q.dtype != torch.bfloat16:
        return f"q is {q.dtype}"
    if q.shape[-1] != layouts.HEAD_DIM:
        return f"heads of {q.shape[-1]} dimensions"
    if out is not None and (out.dtype != torch.bfloat16 or not out.is_contiguous() or out.shape[1] < q.shape[1]):
        return f"out is {out.dtype} {list(out.shape)} with strides {list(out.stride())}"
    return ""


def _workspace_problem(kv: Tensor, value_dim: int) -> str:
    if kv.dtype != torch.bfloat16 or kv.shape[1:] != (1, layouts.HEAD_DIM) or value_dim != layouts.HEAD_DIM:
        return f"workspace is {kv.dtype} {list(kv.shape)}, values of {value_dim} dimensions"
    return "" if kv.stride(0) == layouts.HEAD_DIM else f"workspace rows are {kv.stride(0)} elements apart"


def _cache_problem(cache: Tensor | None) -> str:
    if cache is None:
        return ""
    if cache.dtype != torch.uint8 or cache.dim() != 4 or cache.shape[-1] != layouts.FP8_DS_MLA.slot_bytes:
        return f"cache is {cache.dtype} {list(cache.shape)}, not fp8_ds_mla"
    block = cache.shape[1]
    if block & (block - 1):
        return f"{block} slots a block"
    if cache.stride(0) % ALIGNMENT or cache.data_ptr() % ALIGNMENT or cache.stride(1) != cache.shape[-1]:
        return f"cache strides {list(cache.stride())}"
    return ""


def _first(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Compare the attention output alone: nobody reads maxima and lse, and an empty row's lse differs by convention."""
    return outputs[:1]


def _last(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Compare ``out``: whether the call returns something as well is the library's affair."""
    return outputs[-1:]


def _hooks(with_kvcache: tuple[str, ...], select: Hook) -> tuple[Hook, ...]:
    return (
        Hook(PREFILL, f"{_FLASHMLA}:flash_mla_sparse_fwd", _SPARSE_FWD, prefill, ("out",), _first, everywhere=False),
        Hook(DECODE, f"{_FLASHMLA}:flash_mla_with_kvcache", with_kvcache, decode, ("out",), _first, everywhere=False),
        Hook(
            DECODE,
            f"{_FLASHINFER}:flashinfer_trtllm_batch_decode_sparse_mla_dsv4",
            ("args", "kwargs"),
            paged_call,
            ("out",),
            _last,
            everywhere=False,
        ),
        select,
    )


HOOKS: Table = {
    "0.25.0": _hooks(_WITH_KVCACHE, attention_class.hook(DECODE, attention_class.flashinfer_ready_025)),
    "0.33.0": _hooks(
        (*_WITH_KVCACHE, "enable_batch_invariant"), attention_class.hook(DECODE, attention_class.flashinfer_ready_033)
    ),
}
