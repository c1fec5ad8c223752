"""Query side of a layer: per-head norm and rope of q, rope and cache insert of kv, and the indexer's FP8 queries.

Kernels.md 1.5, 1.7 and 2.9 (rows 2 and 6). Arithmetic is FP32 and every step is rounded once, in the order written,
so that a kernel can reproduce each bit. The mean of squares is summed in FP64 and rounded to FP32: it does not depend
on the order of the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM, INDEX_DIM, ROPE_DIM
from ds4_kernels.reference import quant
from ds4_kernels.reference.cache import cache_insert, check_insert, require
from ds4_kernels.reference.norm_rope import apply_rope_


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """``1 / sqrt(mean(x^2) + eps)`` of FP32 rows ``[..., D] -> [..., 1]``: the mean, the sum, the root and the quotient
    are each rounded to FP32 once.

    The root goes through FP64, because torch's FP32 square root on a CPU is not always the nearest number.
    """
    mean = x.double().square().mean(dim=-1, keepdim=True).float()
    return 1.0 / torch.sqrt((mean + eps).double()).float()


def query_norm_rope(q: Tensor, positions: Tensor, cos_sin: Tensor, eps: float, out: Tensor) -> None:
    """Weightless RMS norm of every head, then rope on its last 64 dimensions, rounded to BF16 once at the end.

    q BF16 ``[T, H, 512]``; positions int ``[T]``; cos_sin FP32 ``[max_position, 64]`` (32 cosines, then 32 sines);
    out BF16 ``[T, H_out, 512]``, H_out >= H: heads from H on become 0. ``out`` may be q itself.
    Raises ValueError for wrong shapes or dtypes.
    """
    check_query(q, positions, cos_sin, out)
    heads = q.shape[1]
    x = q.float()
    x = x * inverse_rms(x, eps)
    out[:, :heads] = apply_rope_(x, cos_sin[positions.long()])
    out[:, heads:] = 0


def kv_rope_insert(
    kv: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int
) -> None:
    """Rope the last 64 dimensions of normed keys and store them as ``fp8_ds_mla`` slots.

    kv BF16 ``[T, 512]`` (kv_norm has been applied), positions int ``[T]``; cos_sin as in ``query_norm_rope``; cache and
    slot_mapping int64 ``[N <= T]`` as in ``cache.cache_insert``. Tokens with slot -1 are not read.
    """
    check_kv_insert(kv, positions, cos_sin, cache, slot_mapping, block_size)
    tokens = slot_mapping.shape[0]
    kept = slot_mapping >= 0
    keys = apply_rope_(kv[:tokens][kept].float(), cos_sin[positions[:tokens][kept].long()])
    cache_insert(keys, cache, slot_mapping[kept], block_size)


def indexer_query(index_q: Tensor, weights: Tensor, positions: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
    """FP8 queries of the indexer with their scale folded into the head weights.

    index_q BF16 ``[T, H, 128]``, weights FP32 ``[T, H]``, positions int ``[T]``, cos_sin FP32 ``[max_position, 64]``.
    Rope on the last 64 dimensions, rounded to BF16, one power-of-two scale per token and head. Returns
    (q e4m3 ``[T, H, 128]``, FP32 ``[T, H]``: ``weights * q_scale * 128^-1/2 * H^-1/2``).
    """
    check_indexer_query(index_q, weights, positions, cos_sin)
    x = apply_rope_(index_q.float(), cos_sin[positions.long()]).to(torch.bfloat16).float()
    q, scale = quant.fp8_quantize(x, INDEX_DIM)
    return q, weights * quant.e8m0_value(scale.squeeze(-1)) * indexer_weight_factor(index_q.shape[1])


def indexer_weight_factor(heads: int) -> float:
    """Both softmax factors of the indexer's head weights: ``128^-1/2 * heads^-1/2``."""
    return float(INDEX_DIM**-0.5 * heads**-0.5)


def check_rope(tokens: int, positions: Tensor, cos_sin: Tensor) -> None:
    """positions ``[T]`` and a table FP32 ``[max_position, 64]`` with contiguous rows."""
    require(positions.shape == (tokens,), f"positions must be [{tokens}], not {list(positions.shape)}")
    require(
        cos_sin.dtype == torch.float32
        and cos_sin.dim() == 2
        and cos_sin.shape[1] == ROPE_DIM
        and cos_sin.is_contiguous(),
        f"cos_sin must be float32 [max_position, {ROPE_DIM}], not {cos_sin.dtype} {list(cos_sin.shape)}",
    )


def check_query(q: Tensor, positions: Tensor, cos_sin: Tensor, out: Tensor) -> None:
    """The checks of ``query_norm_rope``."""
    for name, x in (("q", q), ("out", out)):
        require(x.dtype == torch.bfloat16, f"{name} must be bfloat16, not {x.dtype}")
        require(
            x.dim() == 3 and x.shape[2] == HEAD_DIM and x.stride(2) == 1,
            f"{name} must be [T, heads, {HEAD_DIM}], not {list(x.shape)}",
        )
    require(
        out.shape[0] == q.shape[0] and out.shape[1] >= q.shape[1],
        f"out must be [{q.shape[0]}, >= {q.shape[1]}, {HEAD_DIM}], not {list(out.shape)}",
    )
    check_rope(q.shape[0], positions, cos_sin)


def check_kv_insert(
    kv: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int
) -> None:
    """The checks of ``kv_rope_insert``."""
    require(kv.dtype == torch.bfloat16, f"kv must be bfloat16, not {kv.dtype}")
    check_insert(kv, cache, slot_mapping, block_size, FP8_DS_MLA, HEAD_DIM)
    check_rope(kv.shape[0], positions, cos_sin)


def check_indexer_query(index_q: Tensor, weights: Tensor, positions: Tensor, cos_sin: Tensor) -> None:
    """The checks of ``indexer_query``."""
    require(index_q.dtype == torch.bfloat16, f"index_q must be bfloat16, not {index_q.dtype}")
    require(
        index_q.dim() == 3 and index_q.shape[2] == INDEX_DIM and index_q.stride(2) == 1,
        f"index_q must be [T, heads, {INDEX_DIM}], not {list(index_q.shape)}",
    )
    require(
        weights.dtype == torch.float32 and weights.shape == index_q.shape[:2],
        f"weights must be float32 {list(index_q.shape[:2])}, not {weights.dtype} {list(weights.shape)}",
    )
    check_rope(index_q.shape[0], positions, cos_sin)
