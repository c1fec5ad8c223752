"""What surrounds FlashMLA's two attention calls: the gather of the paged cache and the lists of candidates.

``quantize_and_insert_k_cache`` has no caller on CUDA (a C++ op norms, ropes and stores), so it is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline
from ds4_kernels.engines.vllm_ops.views import dense_rows, planar
from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM
from ds4_kernels.reference.index_builders import WIDTH_ALIGNMENT


def gather(original: Function) -> Function:
    """For ``dequantize_and_gather_k_cache``: writes rows ``offset ..`` of ``out`` BF16 ``[R, M, 512]``."""

    def dequantize_and_gather_k_cache(
        out: Tensor, k_cache: Tensor, seq_lens: Tensor, gather_lens: Tensor | None, block_table: Tensor,
        block_size: int, offset: int, use_fnuz: bool = False,
    ) -> Declined | None:  # fmt: skip
        if use_fnuz or k_cache.dtype != torch.uint8 or k_cache[0].numel() != block_size * FP8_DS_MLA.slot_bytes:
            return decline(f"cache {k_cache.dtype} {list(k_cache.shape)[1:]}{' of FNUZ values' if use_fnuz else ''}")
        if out.dtype != torch.bfloat16 or out.shape[2] != HEAD_DIM or out.stride(2) != 1:
            return decline(f"workspace {out.dtype} {list(out.shape)}")
        if not seq_lens.shape[0]:
            return None
        ops.call(
            "cache_gather", planar(k_cache), block_size, seq_lens, gather_lens, dense_rows(block_table), offset, out
        )
        return None

    return dequantize_and_gather_k_cache


def global_topk(original: Function) -> Function:
    """For ``compute_global_topk_indices_and_lens``: (slots int32 ``[T, K]``, lens int32 ``[T]``)."""

    def compute_global_topk_indices_and_lens(
        topk_indices: Tensor, token_to_req_indices: Tensor, block_table: Tensor, block_size: int, is_valid_token: Tensor
    ) -> tuple[Tensor, Tensor] | Declined:
        tokens = topk_indices.shape[0]
        if not tokens or is_valid_token.dtype != torch.bool or topk_indices.stride(1) != 1:
            return decline(f"{tokens} tokens, validity in {is_valid_token.dtype}, strides {topk_indices.stride()}")
        result: tuple[Tensor, Tensor] = ops.call(
            "global_topk_slots", topk_indices, token_to_req_indices[:tokens], dense_rows(block_table), block_size,
            is_valid_token[:tokens],
        )  # fmt: skip
        return result

    return compute_global_topk_indices_and_lens


def combine(original: Function) -> Function:
    """For ``combine_topk_swa_indices``: (workspace rows int32 ``[T, W]``, lens int32 ``[T]``), text tokens only."""

    def combine_topk_swa_indices(
        topk_indices: Tensor, query_start_loc: Tensor, seq_lens: Tensor, gather_lens: Tensor, window_size: int,
        compress_ratio: int, topk: int, M: int, N: int, out: tuple[Tensor, Tensor] | None = None,
        left_visible: Tensor | None = None, right_visible: Tensor | None = None, max_image_tokens: int = 0,
    ) -> tuple[Tensor, Tensor] | Declined:  # fmt: skip
        if left_visible is not None or right_visible is not None or max_image_tokens:
            return decline("image tokens")
        if out is not None:
            return decline("buffers for the result")
        if topk_indices.shape[1] < topk or not seq_lens.shape[0]:
            return decline(f"top {topk} of {topk_indices.shape[1]} columns, {seq_lens.shape[0]} requests")
        result: tuple[Tensor, Tensor] = ops.call(
            "combine_topk_swa",
            topk_indices,
            query_start_loc,
            seq_lens,
            gather_lens,
            window_size,
            compress_ratio,
            topk,
            M,
            N,
        )
        return result

    return combine_topk_swa_indices


def c128a(original: Function) -> Function:
    """For ``build_c128a_topk_metadata``: fills three buffers, returns their first rows."""

    def build_c128a_topk_metadata(
        positions: Tensor, compress_ratio: int, num_decode_tokens: int, token_to_req_indices: Tensor,
        block_table: Tensor, block_size: int, slot_mapping: Tensor, global_decode_buffer: Tensor,
        decode_lens_buffer: Tensor, prefill_buffer: Tensor, max_compressed_tokens: int = 8192,
    ) -> tuple[Tensor, Tensor, Tensor] | Declined:  # fmt: skip
        widest = min(global_decode_buffer.shape[1], prefill_buffer.shape[1])
        if max_compressed_tokens % WIDTH_ALIGNMENT or not 0 < max_compressed_tokens <= widest:
            return decline(f"{max_compressed_tokens} entries in buffers of {widest}")
        # Without decode tokens nobody reads the table, and the engine's has no rows.
        table = dense_rows(block_table) if num_decode_tokens else block_table.new_zeros(1, 1)
        result: tuple[Tensor, Tensor, Tensor] = ops.call(
            "c128a_metadata", positions, compress_ratio, num_decode_tokens, token_to_req_indices, table, block_size,
            slot_mapping, global_decode_buffer, decode_lens_buffer, prefill_buffer, max_compressed_tokens,
        )  # fmt: skip
        return result

    return build_c128a_topk_metadata


def _within_lens(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Entries behind a row's length as -1: their readers stop there, and padding tokens have length 0."""
    del arguments
    slots, lens = outputs
    column = torch.arange(slots.shape[1], device=slots.device)
    return [torch.where(column < lens[:, None], slots, -1), lens]


def _c128a_lists(arguments: Mapping[str, Any], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """As ``_within_lens`` for the decode tokens; the lists of prefill tokens are whole. Buffers are those same rows."""
    del arguments
    slots, lens, local, *buffers = outputs
    return [*_within_lens({}, (slots, lens)), local, *(buffer[:0] for buffer in buffers)]


_CACHE_UTILS = "vllm.models.deepseek_v4.common.ops.cache_utils"
_COMBINE = (
    "topk_indices", "query_start_loc", "seq_lens", "gather_lens", "window_size", "compress_ratio", "topk", "M", "N",
)  # fmt: skip
_BUFFERS = ("global_decode_buffer", "decode_lens_buffer", "prefill_buffer")

_COMMON = (
    Hook(
        "cache_gather", f"{_CACHE_UTILS}:dequantize_and_gather_k_cache",
        ("out", "k_cache", "seq_lens", "gather_lens", "block_table", "block_size", "offset", "use_fnuz"), gather,
        writes=("out",),
    ),
    Hook(
        "global_topk_slots", f"{_CACHE_UTILS}:compute_global_topk_indices_and_lens",
        ("topk_indices", "token_to_req_indices", "block_table", "block_size", "is_valid_token"), global_topk,
        comparable=_within_lens,
    ),
    Hook(
        "c128a_metadata", "vllm.models.deepseek_v4.sparse_mla:build_c128a_topk_metadata",
        (
            "positions", "compress_ratio", "num_decode_tokens", "token_to_req_indices", "block_table", "block_size",
            "slot_mapping", *_BUFFERS, "max_compressed_tokens",
        ),
        c128a, writes=_BUFFERS, comparable=_c128a_lists,
    ),
)  # fmt: skip


def _combine_hook(*more: str) -> Hook:
    target = f"{_CACHE_UTILS}:combine_topk_swa_indices"
    return Hook("combine_topk_swa", target, (*_COMBINE, *more), combine, comparable=_within_lens)


HOOKS: Table = {
    "0.25.0": (*_COMMON, _combine_hook()),
    "0.33.0": (*_COMMON, _combine_hook("out", "left_visible", "right_visible", "max_image_tokens")),
}
