"""Sparse MLA attention of SGLang's DeepSeek-V4 backend on SM12x, prefill and decode alike.

The backend calls ``flash_mla_with_kvcache_sm120`` with keywords alone and reads the output, never the lse. That function
chooses between FlashInfer, SGLang's Triton kernel and PyTorch; the Triton kernel has a hook of its own for whoever calls it.
Caches are shown as ``[pages, page_size, 1, 584]`` in uint8 or e4m3; their bytes are planar (``layouts.FP8_DS_MLA``) and pages
lie as far apart as ``stride(0)`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import layouts, ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops.views import planar

DECODE = "sparse_attention_decode"
ALIGNMENT = 16
"""Bytes to which pages are aligned: the kernels read BF16 rows of them."""


def with_kvcache(original: Function) -> Function:
    """For ``flash_mla_with_kvcache_sm120``: (out BF16 ``[T, 1, H, 512]``, lse FP32 ``[T, H, 1]``)."""

    def flash_mla_with_kvcache_sm120(**kwargs: Any) -> tuple[Tensor, Tensor] | Declined:
        extra = (kwargs.get("extra_k_cache"), kwargs.get("extra_indices_in_kvcache"), kwargs.get("extra_topk_length"))
        window = (kwargs["k_cache"], kwargs["indices"], kwargs.get("topk_length"))
        return _attend(
            kwargs["q"], window, extra, kwargs.get("attn_sink"), kwargs["head_dim_v"], kwargs.get("softmax_scale")
        )

    return flash_mla_with_kvcache_sm120


def sparse_decode(original: Function) -> Function:
    """For ``flash_mla_sparse_decode_triton``: as above."""

    def flash_mla_sparse_decode_triton(
        q: Tensor, k_cache: Tensor, indices: Tensor, topk_length: Tensor | None, attn_sink: Tensor | None,
        head_dim_v: int, softmax_scale: float | None, extra_k_cache: Tensor | None = None,
        extra_indices: Tensor | None = None, extra_topk_length: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | Declined:  # fmt: skip
        extra = (extra_k_cache, extra_indices, extra_topk_length)
        return _attend(q, (k_cache, indices, topk_length), extra, attn_sink, head_dim_v, softmax_scale)

    return flash_mla_sparse_decode_triton


Candidates = tuple[Tensor | None, Tensor | None, Tensor | None]
"""(paged cache, token slots, how many count) of one kind of candidates."""


def _attend(
    q: Tensor, window: Candidates, extra: Candidates, sink: Tensor | None, value_dim: int, scale: float | None
) -> tuple[Tensor, Tensor] | Declined:
    flat = q[:, 0] if q.dim() == 4 else q
    problem = _query_problem(q, value_dim) or _cache_problem(window[0], window[1])
    if problem or (extra[0] is not None and extra[1] is not None and (problem := _cache_problem(extra[0], extra[1]))):
        return decline(problem)
    cache, size, slots, lens = _candidates(window)
    options: dict[str, Any] = {"scale": layouts.HEAD_DIM**-0.5 if scale is None else scale}
    if extra[0] is not None and extra[1] is not None:
        more, more_size, more_slots, more_lens = _candidates(extra)
        options |= {
            "extra_cache": more, "extra_block_size": more_size, "extra_slots": more_slots, "extra_lens": more_lens,
        }  # fmt: skip
    out, lse = ops.call(DECODE, flat.contiguous(), cache, size, slots, lens, _float(sink), **options)
    return out.unsqueeze(1), lse.unsqueeze(-1)


def _candidates(part: Candidates) -> tuple[Tensor, int, Tensor, Tensor]:
    """(cache ``[pages, bytes]``, page size, slots int32 ``[T, W]``, lens int32 ``[T]``); without lens all slots count."""
    cache, indices, lens = part
    assert cache is not None and indices is not None
    slots = indices.flatten(1).to(torch.int32).contiguous()
    if lens is None:
        lens = torch.full((slots.shape[0],), slots.shape[1], dtype=torch.int32, device=slots.device)
    return planar(cache.view(torch.uint8)), cache.shape[1], slots, lens.reshape(-1).to(torch.int32).contiguous()


def _float(sink: Tensor | None) -> Tensor | None:
    return None if sink is None else sink.float().contiguous()


def _query_problem(q: Tensor, value_dim: int) -> str:
    if q.dtype != torch.bfloat16 or q.shape[-1] != layouts.HEAD_DIM or value_dim != layouts.HEAD_DIM:
        return f"q {q.dtype} of {q.shape[-1]} dimensions, values of {value_dim}"
    return f"q of {q.dim()} dimensions" if q.dim() not in (3, 4) or (q.dim() == 4 and q.shape[1] != 1) else ""


def _cache_problem(cache: Tensor | None, indices: Tensor | None) -> str:
    if cache is None or indices is None:
        return "no cache or no indices"
    if cache.dtype not in (torch.uint8, torch.float8_e4m3fn) or cache.dim() != 4:
        return f"cache {cache.dtype} of {cache.dim()} dimensions"
    if cache.shape[2:] != (1, layouts.FP8_DS_MLA.slot_bytes):
        return f"cache slots of {list(cache.shape)[2:]}"
    if cache.stride(0) % ALIGNMENT or cache.data_ptr() % ALIGNMENT:
        return f"pages {cache.stride(0)} bytes apart are not aligned"
    return f"indices of {indices.dim()} dimensions" if indices.dim() not in (2, 3) else ""


def _output_alone(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The lse has other conventions in each of the engine's kernels (None with FlashInfer), and nobody reads it."""
    del arguments
    return [outputs[0]]


_SPARSE = (
    "q", "k_cache", "indices", "topk_length", "attn_sink", "head_dim_v", "softmax_scale", "extra_k_cache", "extra_indices",
    "extra_topk_length",
)  # fmt: skip
_MODULE = "sglang.kernels.ops.attention"

HOOKS: Table = {
    "0.5.23": [
        Hook(
            DECODE, f"{_MODULE}.flash_mla_sm120:flash_mla_with_kvcache_sm120", ("kwargs",), with_kvcache,
            comparable=_output_alone,
        ),
        Hook(
            DECODE, f"{_MODULE}.flash_mla_sm120_triton:flash_mla_sparse_decode_triton", _SPARSE, sparse_decode,
            comparable=_output_alone,
        ),
    ],
}  # fmt: skip
