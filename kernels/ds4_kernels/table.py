"""The names of the ops, in their groups. Imports nothing, so that a name can be checked without loading torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Op:
    """One row of the table. ``module`` exists under ``ds4_kernels.reference`` and ``ds4_kernels.triton``."""

    name: str
    group: str
    module: str


def _rows(group: str, module: str, *names: str) -> list[Op]:
    return [Op(name, group, module) for name in names]


TABLE: dict[str, Op] = {
    op.name: op
    for op in [
        *_rows("attn", "sparse_attention", "sparse_attention_prefill", "sparse_attention_decode"),
        *_rows("attn", "attention_state", "accumulate_gathered", "accumulate_indexed", "accumulate_slots"),
        *_rows("attn", "attention_state", "accumulate_paged", "finish", "finish_two", "merge_subsets"),
        *_rows("attn", "attention_state", "attend_paged_and_slots", "attend_materialised"),
        *_rows("indexer", "mqa", "mqa_logits_ragged", "mqa_logits_paged", "mqa_logits_wq"),
        *_rows("indexer", "topk", "topk_prefill", "topk_decode"),
        *_rows(
            "indexer", "index_builders", "global_topk_slots", "combine_topk_swa", "c128a_metadata", "decode_swa_slots"
        ),
        *_rows("cache", "cache", "cache_insert", "cache_gather", "indexer_insert", "indexer_gather"),
        *_rows("cache", "query", "query_norm_rope", "kv_rope_insert", "indexer_query"),
        *_rows("cache", "compressor_store", "state_save", "compress_store"),
        *_rows("einsum", "einsum", "inverse_rope_quant", "fp8_einsum"),
        *_rows("w8a8", "quantize", "quant_fp8"),
        *_rows("w8a8", "w8a8", "w8a8_gemm", "w8a8_gemm_mxfp8"),
        *_rows(
            "mhc", "hyper_connections", "mhc_prenorm_gemm", "mhc_split_sinkhorn", "mhc_pre", "mhc_post", "mhc_post_pre"
        ),
        *_rows("mhc", "hyper_connections", "mhc_head"),
        *_rows("moe", "mxfp4_moe", "mxfp4_moe"),
        *_rows("moe", "router", "route", "swiglu_clamped"),
        *_rows("norm", "norms", "rms_norm", "mtp_fuse"),
    ]
}


def names(selection: str | None = None) -> list[str]:
    """Op names of a comma list of names and groups; all for None. Raises ValueError for a name that is neither."""
    if selection is None:
        return list(TABLE)
    groups = {op.group for op in TABLE.values()}
    chosen: list[str] = []
    for part in filter(None, (piece.strip() for piece in selection.split(","))):
        if part not in groups and part not in TABLE:
            raise ValueError(
                f"no op or group named {part!r}; groups: {', '.join(sorted(groups))}; ops: {', '.join(TABLE)}"
            )
        chosen += [op.name for op in TABLE.values() if part in (op.group, op.name)]
    return chosen
