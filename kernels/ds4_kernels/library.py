"""The ops as ``torch.ops.ds4.<name>``, so that an engine that traces its model sees each of them as one opaque call.

``register()`` defines the rows of ``TABLE``. Each op has an explicit schema that says what it changes in place, a fake
implementation that gives shapes, dtypes and strides from shapes alone, and a real one that goes through ``ops.call``:
DS4_KERNELS and DS4_KERNELS_OPS decide on every call, as without the library (a captured CUDA graph keeps its choice).

* Arguments, their order and their defaults are those of ``ds4_kernels.reference``, without ``out`` and without the
  reference's own ``dtype``.
* Every returned tensor is new. An op that only writes into its arguments (a cache, a state, a buffer) returns nothing.
* An op whose results may be given as ``out`` has a second form ``<name>_out`` with the keyword ``out``, and for pairs
  ``out_lens``; it returns nothing. ``out`` may have the sizes that the op's contract allows.
* Inference only: no op has a gradient.

Not here (``MISSING``): the parts that attention is built of. Their states are named tuples that change in place, which no
schema can say; ``merge_subsets``, with its lists of any length, stays with them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import layouts, ops
from ds4_kernels.reference.einsum import SCALES_PER_WORD, TOKEN_ALIGN
from ds4_kernels.reference.hyper_connections import STREAMS
from ds4_kernels.reference.index_builders import combined_width
from ds4_kernels.reference.quant import WEIGHT_BLOCK

NAMESPACE = "ds4"
MISSING = frozenset(name for name in ops.TABLE if name.startswith(("accumulate_", "finish", "merge_subsets")))
TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
"""Kernels check strides and alignment: a compiler must hand over tensors laid out as in eager mode."""

Fake = Callable[..., Tensor | tuple[Tensor, ...] | None]


def _nothing(**_: Any) -> None:
    """Ops that only change their arguments."""


@dataclass(frozen=True)
class Row:
    """One op. ``schema`` has no op name. ``fake`` takes the schema's arguments by name; defaults may be left out.

    ``outs`` are the tensors of the ``<name>_out`` form, "" where there is none. The real results are made contiguous,
    as ``fake`` promises, unless they are ``strided``: then ``fake`` gives the strides of both backends.
    """

    name: str
    schema: str
    fake: Fake = _nothing
    outs: str = ""
    strided: bool = False

    @property
    def arguments(self) -> str:
        """The schema's argument list without parentheses."""
        return self.schema.partition(") -> ")[0].removeprefix("(")

    @property
    def out_schema(self) -> str:
        """The schema of the ``<name>_out`` form."""
        return f"({self.arguments}, *, {self.outs}) -> ()"

    @property
    def names(self) -> list[str]:
        """The names of the arguments in order."""
        pieces = [piece.partition("=")[0] for piece in self.arguments.split(", ")]
        return [piece.split()[-1] for piece in pieces if piece != "*"]


def _attention(q: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _attend(q: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    wide = _wide(q)
    out = q.new_empty(q.shape, dtype=wide if wide == torch.float64 else torch.bfloat16)
    return out, q.new_empty(q.shape[:2], dtype=wide)


def _mqa_ragged(q: Tensor, k: Tensor, compressed_width: int | None = None, **_: Any) -> Tensor:
    width = k.shape[0] if compressed_width is None else compressed_width
    return q.new_empty(q.shape[0], width, dtype=torch.float32)


def _mqa_paged(q: Tensor, max_len: int, **_: Any) -> Tensor:
    return q.new_empty(q.shape[0] * q.shape[1], max_len, dtype=torch.float32)


def _topk(logits: Tensor, k: int, **_: Any) -> Tensor:
    return logits.new_empty(logits.shape[0], k, dtype=torch.int32)


def _index_rows(x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], width, dtype=torch.int32), x.new_empty(x.shape[0], dtype=torch.int32)


def _global_topk(topk_indices: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    return _index_rows(topk_indices, topk_indices.shape[1])


def _combined(topk_indices: Tensor, window: int, topk: int, **_: Any) -> tuple[Tensor, Tensor]:
    return _index_rows(topk_indices, combined_width(topk, window))


def _swa_slots(positions: Tensor, window: int = 128, **_: Any) -> tuple[Tensor, Tensor]:
    return _index_rows(positions, window)


def _indexer_query(index_q: Tensor, weights: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    return index_q.new_empty(index_q.shape, dtype=torch.float8_e4m3fn), weights.new_empty(weights.shape)


def _inverse_rope_quant(o: Tensor, groups: int, scale_format: str = "fp32", **_: Any) -> tuple[Tensor, Tensor]:
    tokens, heads, _dim = o.shape
    width = heads * layouts.HEAD_DIM // groups
    packed = scale_format == "packed"
    per_token = width // WEIGHT_BLOCK // (SCALES_PER_WORD if packed else 1)
    padded = (tokens + TOKEN_ALIGN - 1) // TOKEN_ALIGN * TOKEN_ALIGN
    values = o.new_empty(groups, tokens, width, dtype=torch.float8_e4m3fn)  # the storage of both results is group-major
    scale = o.new_empty(groups, per_token, padded, dtype=torch.int32 if packed else torch.float32)
    return values.transpose(0, 1), scale[:, :, :tokens].permute(2, 0, 1)


def _fp8_einsum(a: Tensor, b: Tensor, **_: Any) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], b.shape[1], dtype=torch.bfloat16)


def _quant_fp8(x: Tensor, group: int = 128, scale_format: str = "fp32", **_: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.float32 if scale_format == "fp32" else torch.uint8
    scale = x.new_empty(x.shape[0], x.shape[1] // group, dtype=dtype)
    return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), scale


def _w8a8_gemm(a: Tensor, b: Tensor, out_dtype: torch.dtype = torch.bfloat16, **_: Any) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[0], dtype=out_dtype)


def _mixes(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = _wide(x)
    return x.new_empty(x.shape[0], STREAMS, dtype=wide), x.new_empty(x.shape[0], STREAMS, STREAMS, dtype=wide)


def _sinkhorn(mixes: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return mixes.new_empty(mixes.shape[0], STREAMS), *_mixes(mixes)


def _mhc_pre(x: Tensor, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[0], x.shape[2]), *_mixes(x)


def _mhc_post(streams: Tensor, **_: Any) -> Tensor:
    return streams.new_empty(streams.shape)


def _mhc_post_pre(streams: Tensor, **_: Any) -> tuple[Tensor, ...]:
    return streams.new_empty(streams.shape), *_mhc_pre(streams)


def _mhc_head(x: Tensor, **_: Any) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2])


def _prenorm(x: Tensor, fn: Tensor, splits: int, **_: Any) -> tuple[Tensor, Tensor]:
    out = x.new_empty(splits, x.shape[0], fn.shape[-2], dtype=torch.float32)
    return out, x.new_empty(splits, x.shape[0], dtype=torch.float32)


def _like_x(x: Tensor, **_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _mtp_fuse(embeds: Tensor, streams: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    return embeds.new_empty(embeds.shape), streams.new_empty(streams.shape)


def _route(logits: Tensor, topk: int, **_: Any) -> tuple[Tensor, Tensor]:
    return _topk(logits, topk), logits.new_empty(logits.shape[0], topk)


def _swiglu(gate_up: Tensor, **_: Any) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


def _wide(x: Tensor) -> torch.dtype:
    """What is computed in: FP32, for FP64 inputs FP64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


_OUT = "Tensor(a!) out"
_PAIR = "Tensor(a!) out, Tensor(b!) out_lens"
_ROPE = "Tensor positions, Tensor cos_sin"
_STORE = "Tensor(a!) cache, Tensor slot_mapping, SymInt block_size"
_READ = "Tensor cache, SymInt block_size, Tensor seq_lens"
_KEYS = "Tensor q, Tensor k, Tensor k_scale, Tensor weights"
_AFFINE = "Tensor fn, Tensor scale, Tensor base"
_MIX = f"{_AFFINE}, SymInt iterations, float norm_eps, float hc_eps, Tensor? norm_weight=None"
_GEMM = "(Tensor a, Tensor a_scale, Tensor b, Tensor b_scale, ScalarType out_dtype=bfloat16) -> Tensor"
_SCALE = f"float scale={layouts.HEAD_DIM**-0.5!r}"

TABLE: dict[str, Row] = {
    row.name: row
    for row in [
        Row(
            "sparse_attention_prefill",
            f"(Tensor q, Tensor kv, Tensor indices, Tensor lens, Tensor? sink=None, *, {_SCALE}) -> (Tensor, Tensor)",
            _attention,
        ),
        Row(
            "sparse_attention_decode",
            "(Tensor q, Tensor swa_cache, SymInt swa_block_size, Tensor swa_slots, Tensor swa_lens, Tensor? sink=None, *, "
            "Tensor? extra_cache=None, SymInt extra_block_size=1, Tensor? extra_slots=None, Tensor? extra_lens=None, "
            f"{_SCALE}) -> (Tensor, Tensor)",
            _attention,
        ),
        Row(
            "attend_paged_and_slots",
            "(Tensor q, Tensor swa_cache, SymInt swa_block_size, Tensor seq_lens, Tensor gather_lens, Tensor block_table, "
            "SymInt next_n, Tensor slot_cache, SymInt slot_block_size, Tensor slot_ids, Tensor lens, float scale, "
            "Tensor? sink=None, SymInt? head_block=None) -> (Tensor, Tensor)",
            _attend,
        ),
        Row(
            "attend_materialised",
            "(Tensor q, Tensor kv, Tensor lens, float scale, Tensor? sink=None, SymInt? block_d=None) -> (Tensor, Tensor)",
            _attend,
        ),
        Row(
            "mqa_logits_ragged",
            f"({_KEYS}, Tensor starts, Tensor ends, *, SymInt? compressed_width=None) -> Tensor",
            _mqa_ragged,
        ),
        Row(
            "mqa_logits_paged",
            "(Tensor q, Tensor cache, SymInt block_size, Tensor weights, Tensor context_lens, Tensor block_table, "
            "SymInt max_len, *, bool rowwise=False) -> Tensor",
            _mqa_paged,
        ),
        Row("mqa_logits_wq", f"({_KEYS}, *, bool relu) -> Tensor", _mqa_ragged),
        Row("topk_prefill", "(Tensor logits, Tensor row_starts, Tensor row_ends, SymInt k) -> Tensor", _topk, _OUT),
        Row("topk_decode", "(Tensor logits, SymInt next_n, Tensor seq_lens, SymInt k) -> Tensor", _topk, _OUT),
        Row(
            "global_topk_slots",
            "(Tensor topk_indices, Tensor token_to_req, Tensor block_table, SymInt block_size, Tensor is_valid) "
            "-> (Tensor, Tensor)",
            _global_topk,
            _PAIR,
        ),
        Row(
            "combine_topk_swa",
            "(Tensor topk_indices, Tensor query_start_loc, Tensor seq_lens, Tensor gather_lens, SymInt window, "
            "SymInt ratio, SymInt topk, SymInt workspace_rows, SymInt swa_row) -> (Tensor, Tensor)",
            _combined,
            _PAIR,
        ),
        Row(  # the views of the buffers that the function returns are the caller's to take
            "c128a_metadata",
            "(Tensor positions, SymInt ratio, SymInt num_decode_tokens, Tensor token_to_req, Tensor block_table, "
            "SymInt block_size, Tensor slot_mapping, Tensor(a!) decode_slots, Tensor(b!) decode_lens, "
            "Tensor(c!) prefill_indices, SymInt max_width) -> ()",
        ),
        Row(
            "decode_swa_slots",
            "(Tensor positions, Tensor token_to_req, Tensor block_table, SymInt block_size, Tensor is_valid, "
            "SymInt window=128) -> (Tensor, Tensor)",
            _swa_slots,
            _PAIR,
        ),
        Row("cache_insert", f"(Tensor k, {_STORE}) -> ()"),
        Row("cache_gather", f"({_READ}, Tensor? gather_lens, Tensor block_table, SymInt offset, Tensor(a!) out) -> ()"),
        Row("indexer_insert", f"(Tensor k, {_STORE}) -> ()"),
        Row(
            "indexer_gather",
            f"({_READ}, Tensor block_table, Tensor starts, Tensor(a!) k_out, Tensor(b!) scale_out) -> ()",
        ),
        Row("query_norm_rope", f"(Tensor q, {_ROPE}, float eps, Tensor(a!) out) -> ()"),
        Row("kv_rope_insert", f"(Tensor kv, {_ROPE}, {_STORE}) -> ()"),
        Row("indexer_query", f"(Tensor index_q, Tensor weights, {_ROPE}) -> (Tensor, Tensor)", _indexer_query),
        Row(
            "state_save",
            "(Tensor kv, Tensor score, Tensor ape, Tensor positions, Tensor slots, Tensor(a!) state) -> ()",
        ),
        Row(
            "compress_store",
            "(Tensor state, Tensor state_block_table, Tensor token_to_req, Tensor positions, Tensor slot_mapping, "
            "Tensor norm_weight, float eps, Tensor cos_sin, SymInt ratio, Tensor(a!) cache, SymInt block_size, "
            "str kind) -> ()",
        ),
        Row(
            "inverse_rope_quant",
            f'(Tensor o, {_ROPE}, SymInt groups, str scale_format="fp32") -> (Tensor, Tensor)',
            _inverse_rope_quant,
            strided=True,
        ),
        Row("fp8_einsum", "(Tensor a, Tensor a_scale, Tensor b, Tensor b_scale) -> Tensor", _fp8_einsum, _OUT),
        Row("quant_fp8", '(Tensor x, SymInt group=128, str scale_format="fp32") -> (Tensor, Tensor)', _quant_fp8),
        *(Row(name, _GEMM, _w8a8_gemm, _OUT) for name in ("w8a8_gemm", "w8a8_gemm_mxfp8")),
        Row("mhc_pre", f"(Tensor x, {_MIX}) -> (Tensor, Tensor, Tensor)", _mhc_pre),
        Row(
            "mhc_post_pre",
            f"(Tensor f, Tensor streams, Tensor post, Tensor comb, {_MIX}) -> (Tensor, Tensor, Tensor, Tensor)",
            _mhc_post_pre,
        ),
        Row(
            "mhc_split_sinkhorn",
            "(Tensor mixes, Tensor scale, Tensor base, SymInt iterations, float eps) -> (Tensor, Tensor, Tensor)",
            _sinkhorn,
        ),
        Row("mhc_post", "(Tensor f, Tensor streams, Tensor post, Tensor comb) -> Tensor", _mhc_post),
        Row("mhc_head", f"(Tensor x, {_AFFINE}, float norm_eps, float eps) -> Tensor", _mhc_head),
        Row("mhc_prenorm_gemm", "(Tensor x, Tensor fn, SymInt splits, bool exact=True) -> (Tensor, Tensor)", _prenorm),
        Row(
            "mxfp4_moe",
            "(Tensor x, Tensor topk_ids, Tensor topk_weights, Tensor w13, Tensor s13, Tensor w2, Tensor s2, float limit, "
            'str mode="w4a8", bool? native=None) -> Tensor',
            _like_x,
            _OUT,
        ),
        Row(
            "route",
            "(Tensor logits, SymInt topk, float route_scale, Tensor? bias=None, Tensor? expert_ids=None) "
            "-> (Tensor, Tensor)",
            _route,
        ),
        Row("swiglu_clamped", "(Tensor gate_up, float limit) -> Tensor", _swiglu, _OUT),
        Row("rms_norm", "(Tensor x, Tensor? weight, float eps) -> Tensor", _like_x, _OUT),
        Row(
            "mtp_fuse",
            "(Tensor embeds, Tensor streams, Tensor embed_weight, Tensor stream_weight, float eps) -> (Tensor, Tensor)",
            _mtp_fuse,
        ),
    ]
}

_lock = threading.Lock()
_library: torch.library.Library | None = None
"""Holds the registrations: torch takes them back when the library object goes."""


def register() -> None:
    """Define the ops in this process, once; later calls do nothing. Needs neither a GPU nor triton."""
    global _library  # noqa: PLW0603 - torch's registry is global too
    with _lock:
        if _library is not None:
            return
        library = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
        for row in TABLE.values():
            _define(library, row.name, row.schema, _real(row), _by_name(row, row.fake))
            if row.outs:
                _define(library, f"{row.name}_out", row.out_schema, _real_out(row), _by_name(row, _nothing))
        _library = library


def _define(library: Any, name: str, schema: str, real: Callable[..., Any], fake: Callable[..., Any]) -> None:
    library.define(name + schema, tags=TAGS)
    library.impl(name, real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)


def _by_name(row: Row, function: Callable[..., Any]) -> Callable[..., Any]:
    """torch gives arguments by position and drops those at the end that equal the default."""
    names = row.names

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(**dict(zip(names, args, strict=False)), **kwargs)

    return call


def _real(row: Row) -> Callable[..., Any]:
    def run(**arguments: Any) -> Any:
        result = ops.call(row.name, **arguments)
        if row.fake is _nothing:
            return None
        if isinstance(result, tuple):
            return tuple(_own(tensor, row, arguments) for tensor in result)
        return _own(result, row, arguments)

    return _by_name(row, run)


def _real_out(row: Row) -> Callable[..., Any]:
    def run(out: Tensor, out_lens: Tensor | None = None, **arguments: Any) -> None:
        ops.call(row.name, **arguments, out=out if out_lens is None else (out, out_lens))

    return _by_name(row, run)


def _own(result: Tensor, row: Row, arguments: dict[str, Any]) -> Tensor:
    """A result as the schema and ``fake`` promise it: no argument (``route`` may return its ids), and dense."""
    if any(result is value for value in arguments.values()):
        return result.clone(memory_format=torch.contiguous_format)
    return result if row.strided else result.contiguous()
