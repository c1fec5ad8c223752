"""The compressor's paged state and the entries pooled from it (kernels.md 1.6, 2.9 rows 4 and 5).

Every token writes ``[kv | score + ape]`` to its row of the state cache; the token that ends a window of ``ratio`` then
pools the window's rows (ratio 4: also the window before, see ``compressor``), normalises, ropes, quantises and stores
one entry. Because all rows come from the cache, a prefill may be cut into chunks anywhere.

The arithmetic is fixed to the bit, so that a kernel can store the same bytes: FP32, one rounding per step, the
exponential of ``exp_fp32``, and sums in the order of ``ordered_sum``. Against FP64 the pooled values are within 1e-6.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM, INDEX_DIM, INDEXER_FP8, PlanarLayout
from ds4_kernels.reference.cache import check_cache, check_slots, require
from ds4_kernels.reference.compressor import overlap
from ds4_kernels.reference.norm_rope import apply_rope_
from ds4_kernels.reference.query import check_rope, inverse_rms

Kind = Literal["mla", "indexer"]

POOL_CHUNK = 16
"""Rows that one step of ``ordered_sum`` adds as a tree."""

# Cody-Waite reduction and the degree-5 polynomial of Cephes' expf (S. Moshier, netlib cephes/single/expf.c).
EXP_LOWEST = -87.0
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693359375
LN2_LOW = -2.12194440e-4
EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
ROUND_TO_INTEGER = 12582912.0
"""1.5 * 2^23: adding and subtracting it leaves the nearest integer of a small FP32 number."""


def state_save(kv: Tensor, score: Tensor, ape: Tensor, positions: Tensor, slots: Tensor, state: Tensor) -> None:
    """Write ``[kv | score + ape[position % ratio]]`` of every token to its row of the state cache.

    kv and score FP32 ``[T, W]``, ape FP32 ``[ratio, W]``, positions int ``[T]``, slots int64 ``[N]``, N <= T (-1: not
    written), state FP32 ``[blocks, block_size, 2 W]`` with W = overlap * d. Raises ValueError for wrong shapes.
    """
    check_state_save(kv, score, ape, positions, slots, state)
    tokens = slots.shape[0]
    kept = slots >= 0
    slot, bias = slots[kept], ape[positions[:tokens][kept].long() % ape.shape[0]]
    rows = torch.cat((kv[:tokens][kept], score[:tokens][kept] + bias), dim=-1)
    state[slot // state.shape[1], slot % state.shape[1]] = rows


def compress_store(
    state: Tensor,
    state_block_table: Tensor,
    token_to_req: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    norm_weight: Tensor,
    eps: float,
    cos_sin: Tensor,
    ratio: int,
    cache: Tensor,
    block_size: int,
    kind: Kind,
) -> None:
    """Pool, normalise, rope, quantise and store the entry of every token that ends a window.

    state FP32 ``[blocks, state_block_size, 2 W]``; state_block_table int ``[R, B]``: position p of request r is row
    ``p % state_block_size`` of block ``table[r, p // state_block_size]``; token_to_req and positions int ``[T]``;
    slot_mapping int64 ``[T]``: the slot of the entry in ``cache``, or -1; norm_weight ``[d]``; cos_sin FP32
    ``[max_position, 64]``; cache u8 of ``fp8_ds_mla`` (kind "mla", d 512) or ``indexer_fp8`` slots ("indexer", d 128).

    Tokens with slot -1 or ``(position + 1) % ratio != 0`` store nothing. Positions below 0 have score -inf. The pooled
    vector is rounded to BF16, normalised, rounded, roped at the first position of its window, rounded, and quantised.
    Raises ValueError for wrong shapes.
    """
    check_compress(
        state, state_block_table, token_to_req, positions, slot_mapping, norm_weight, cos_sin, ratio, cache, block_size,
        kind,
    )  # fmt: skip
    ends = (slot_mapping >= 0) & ((positions + 1) % ratio == 0)
    position = positions[ends].long()
    kv, score = _window_rows(state, state_block_table[token_to_req[ends].long()], position, ratio)
    pooled = pool_fixed_order(kv, score, ratio)
    entries = _norm_rope(pooled, norm_weight, eps, cos_sin[position // ratio * ratio])
    packed = layouts.pack_fp8_ds_mla(entries) if kind == "mla" else layouts.pack_indexer_fp8(entries)
    entry_layout(kind).write(cache, block_size, slot_mapping[ends], *packed)


def pool_fixed_order(kv: Tensor, score: Tensor, ratio: int) -> Tensor:
    """``compressor.pool`` with a fixed order of operations: FP32 ``[n, overlap * ratio, overlap * d] -> [n, d]``."""
    if overlap(ratio) == 2:
        half = kv.shape[-1] // 2
        kv, score = (torch.cat((x[:, :ratio, :half], x[:, ratio:, half:]), dim=1) for x in (kv, score))
    if kv.shape[0] == 0:
        return kv.new_zeros(0, kv.shape[-1])
    weight = exp_fp32(score - score.amax(dim=1, keepdim=True))
    return ordered_sum(weight * kv) / ordered_sum(weight)


def exp_fp32(x: Tensor) -> Tensor:
    """exp of FP32 numbers <= 0 within 2 ulp, from operations that every device rounds alike; 0 below -87."""
    clamped = x.clamp_min(EXP_LOWEST)
    turns = (clamped * LOG2_E + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
    r = (clamped - turns * LN2_HIGH) - turns * LN2_LOW
    p = torch.full_like(r, EXP_POLYNOMIAL[0])
    for coefficient in EXP_POLYNOMIAL[1:]:
        p = p * r + coefficient
    p = (p * (r * r) + r) + 1.0
    power = ((turns.to(torch.int32) + 127) << 23).view(torch.float32)
    return torch.where(x < EXP_LOWEST, 0.0, p * power)


def ordered_sum(x: Tensor) -> Tensor:
    """Sum over the rows of ``[n, m, d]``: chunks of 16 rows by halving (row i + row i + half), chunks one by one."""
    parts = x.reshape(x.shape[0], -1, min(POOL_CHUNK, x.shape[1]), x.shape[2])
    while parts.shape[2] > 1:
        half = parts.shape[2] // 2
        parts = parts[:, :, :half] + parts[:, :, half:]
    total = torch.zeros_like(parts[:, 0, 0])
    for chunk in range(parts.shape[1]):
        total = total + parts[:, chunk, 0]
    return total


def entry_layout(kind: Kind) -> PlanarLayout:
    """The cache layout of a kind of entry."""
    return FP8_DS_MLA if kind == "mla" else INDEXER_FP8


def entry_dim(kind: Kind) -> int:
    """Dimensions of a kind of entry."""
    return HEAD_DIM if kind == "mla" else INDEX_DIM


def _window_rows(state: Tensor, table: Tensor, position: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """(kv, score) ``[n, overlap * ratio, W]`` that entries ending at ``position`` read; table ``[n, B]``."""
    reach = overlap(ratio) * ratio
    row = position.unsqueeze(1) + torch.arange(1 - reach, 1, device=position.device)
    exists = (row >= 0).unsqueeze(-1)
    safe = row.clamp_min(0)
    block = table.long().gather(1, safe // state.shape[1])
    kv, score = state[block, safe % state.shape[1]].chunk(2, dim=-1)
    return torch.where(exists, kv, 0.0), torch.where(exists, score, -torch.inf)


def _norm_rope(pooled: Tensor, weight: Tensor, eps: float, cos_sin: Tensor) -> Tensor:
    x = pooled.to(torch.bfloat16).float()
    normed = (x * inverse_rms(x, eps) * weight.float()).to(torch.bfloat16).float()
    return apply_rope_(normed, cos_sin).to(torch.bfloat16).float()


def check_state_save(kv: Tensor, score: Tensor, ape: Tensor, positions: Tensor, slots: Tensor, state: Tensor) -> None:
    """The checks of ``state_save``."""
    for name, x in (("kv", kv), ("score", score), ("ape", ape)):
        require(
            x.dtype == torch.float32 and x.dim() == 2 and x.shape[1] == kv.shape[1] and x.stride(1) == 1,
            f"{name} must be float32 rows of {kv.shape[-1]}, not {x.dtype} {list(x.shape)}",
        )
    require(score.shape == kv.shape, f"score must be {list(kv.shape)}, not {list(score.shape)}")
    require(positions.shape == kv.shape[:1], f"positions must be [{kv.shape[0]}], not {list(positions.shape)}")
    check_slots(slots, kv.shape[0])
    _check_state(state, kv.shape[1])


def check_compress(
    state: Tensor,
    state_block_table: Tensor,
    token_to_req: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    norm_weight: Tensor,
    cos_sin: Tensor,
    ratio: int,
    cache: Tensor,
    block_size: int,
    kind: Kind,
) -> None:
    """The checks of ``compress_store``."""
    require(kind in ("mla", "indexer"), f"kind must be 'mla' or 'indexer', not {kind!r}")
    require(ratio in (4, 128), f"ratio must be 4 or 128, not {ratio}")
    dim = entry_dim(kind)
    _check_state(state, overlap(ratio) * dim)
    require(
        state_block_table.dim() == 2 and state_block_table.shape[1] > 0 and state_block_table.stride(1) == 1,
        f"state_block_table must be [R, B >= 1], not {list(state_block_table.shape)}",
    )
    tokens = positions.shape[0]
    require(token_to_req.shape == (tokens,), f"token_to_req must be [{tokens}], not {list(token_to_req.shape)}")
    require(slot_mapping.shape == (tokens,), f"slot_mapping must be [{tokens}], not {list(slot_mapping.shape)}")
    check_slots(slot_mapping, tokens)
    require(
        norm_weight.shape == (dim,) and norm_weight.dtype in (torch.bfloat16, torch.float32),
        f"norm_weight must be bfloat16 or float32 [{dim}], not {norm_weight.dtype} {list(norm_weight.shape)}",
    )
    check_rope(tokens, positions, cos_sin)
    check_cache(cache, block_size, entry_layout(kind))


def _check_state(state: Tensor, width: int) -> None:
    require(
        state.dtype == torch.float32 and state.dim() == 3 and state.shape[2] == 2 * width and state.stride(2) == 1,
        f"state must be float32 [blocks, block_size, {2 * width}], not {state.dtype} {list(state.shape)}",
    )
