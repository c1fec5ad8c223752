"""The op table: one name per op, and the choice of the backend that runs it.

``ops.call("sparse_attention_decode", ...)`` or ``ops.sparse_attention_decode(...)`` runs the PyTorch reference or the
Triton kernel. Both take the same arguments.

* ``DS4_KERNELS``: ``auto`` (default: Triton for CUDA tensors, the reference elsewhere), ``reference`` or ``triton``.
* ``DS4_KERNELS_OPS``: comma list of op names or groups (``attn,indexer,...``) that may use Triton; the rest stay on the
  reference. Unset: all. A name that does not exist raises ValueError.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Backend = Literal["reference", "triton"]
MODES = ("auto", "reference", "triton")


@dataclass(frozen=True)
class Op:
    """One row of the table. ``module`` exists under ``ds4_kernels.reference`` and ``ds4_kernels.triton``."""

    name: str
    group: str
    module: str


@dataclass(frozen=True)
class Choice:
    """Which backend runs an op, and why."""

    op: str
    group: str
    backend: Backend
    reason: str


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


def choose(name: str, device: torch.device | str) -> Choice:
    """The backend of ``name`` for tensors on ``device``, from the environment. Raises ValueError for a bad setting."""
    op = TABLE[name]
    mode = os.environ.get("DS4_KERNELS", "auto")
    if mode not in MODES:
        raise ValueError(f"DS4_KERNELS is {mode!r}; allowed: {', '.join(MODES)}")
    allowed = os.environ.get("DS4_KERNELS_OPS")
    backend, reason = _backend(name, torch.device(device), mode, allowed)
    return Choice(op.name, op.group, backend, reason)


def describe(device: torch.device | str | None = None) -> list[Choice]:
    """The choice for every op on ``device`` (default: the GPU where there is one)."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return [choose(name, device) for name in TABLE]


def implementation(name: str, backend: Backend) -> Callable[..., Any]:
    """The function of a backend. Raises KeyError for an unknown op, ImportError where triton is missing."""
    function: Callable[..., Any] = getattr(_module(backend, TABLE[name].module), name)
    return function


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Run an op on the backend that ``choose`` names for the device of the first tensor among its arguments."""
    device = next((tensor.device for tensor in tensors((args, kwargs))), torch.device("cpu"))
    return implementation(name, choose(name, device).backend)(*args, **kwargs)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a value, also those inside of tuples, lists and dicts (an attention state is a tuple)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in TABLE:
        raise AttributeError(f"ds4_kernels.ops has no op {name!r}")
    return functools.partial(call, name)


def _backend(name: str, device: torch.device, mode: str, allowed: str | None) -> tuple[Backend, str]:
    if mode == "reference":
        return "reference", "DS4_KERNELS=reference"
    if allowed is not None and name not in names(allowed):
        return "reference", f"not in DS4_KERNELS_OPS={allowed}"
    if not has_triton():
        return "reference", "triton is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if mode == "triton":
        if device.type != "cuda" and not interpreted:
            return "reference", f"no Triton on {device.type} (TRITON_INTERPRET=1 would interpret it)"
        return "triton", "DS4_KERNELS=triton"
    if device.type != "cuda":
        return "reference", f"tensors are on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 9):
        return "reference", "FP8 needs compute capability 8.9"
    return "triton", "CUDA"


@functools.cache
def has_triton() -> bool:
    """Whether triton can be imported."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _module(backend: Backend, module: str) -> Any:
    return importlib.import_module(f"ds4_kernels.{backend}.{module}")
