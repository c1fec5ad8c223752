"""Streaming softmax states that are updated in place, so that subsets of candidates are added one after another.

A state of T tokens and H heads (``attention.SoftmaxState``) starts as ``empty_state``: maximum -inf, the rest 0. Every
``accumulate_*`` function folds one subset into it and returns it; the ``finish*`` functions normalise. The arithmetic is
in the state's dtype: FP32 in use, FP64 as an oracle. Formulas and edge rules: kernels.md 2.2.1 and 2.2.4.

Edge rules: a row without candidates gives out 0 and lse -inf; the sink enters the denominator only, never the lse; a
sink of -inf is none, one of +inf gives out 0; duplicates count twice; values of invalid candidates never enter.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.reference import attention
from ds4_kernels.reference.attention import GATHER_BLOCK, SoftmaxState

HEAD_BLOCKS = (1, 2, 4, 8)
"""Heads of one token that a Triton program may take: they share each load of a key."""

EmptyLse = Literal["-inf", "+inf", "-1e30"]
EMPTY_LSE: dict[EmptyLse, float] = {"-inf": -math.inf, "+inf": math.inf, "-1e30": -1e30}
"""What engines write as the lse of an empty row: this project, FlashMLA's reference, FlashInfer on SM120."""


def empty_state(
    tokens: int,
    heads: int,
    device: torch.device | str = "cpu",
    *,
    dim: int = layouts.HEAD_DIM,
    dtype: torch.dtype = torch.float32,
) -> SoftmaxState:
    """The state before the first subset: maximum ``[T, H]`` -inf, denominator ``[T, H]`` 0, accumulator ``[T, H, D]`` 0."""
    return SoftmaxState(
        torch.full((tokens, heads), -torch.inf, dtype=dtype, device=device),
        torch.zeros(tokens, heads, dtype=dtype, device=device),
        torch.zeros(tokens, heads, dim, dtype=dtype, device=device),
    )


def accumulate_gathered(
    q: Tensor,
    kv: Tensor,
    lens: Tensor,
    slot_ids: Tensor | None,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """Add candidates that were gathered per token: q ``[T, H, D]``, kv ``[T, K, D]``, lens int32 ``[T]``.

    Candidate i of token t is valid if ``i < lens[t]`` and, where ``slot_ids`` int32 ``[T, K]`` is given, its id is not
    negative. ``head_block`` chooses a kernel and changes no result.
    """
    check_query(q, state, head_block)
    check_gathered(q, kv, lens, slot_ids)
    valid = _within(lens, kv.shape[1])
    if slot_ids is not None:
        valid = valid & (slot_ids >= 0)
    dtype = state.maximum.dtype
    return _fold(state, attention.accumulate_gathered(q.to(dtype), kv.to(dtype), valid, scale))


def accumulate_indexed(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    lens: Tensor,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """Add rows of a flat workspace: q ``[T, H, D]``, kv ``[N, D]``, indices int32 ``[T, K]``, lens int32 ``[T]``.

    Candidate i of token t is valid if ``i < lens[t]`` and ``0 <= indices[t, i] < N``.
    """
    check_query(q, state, head_block)
    check_indexed(q, kv, indices, lens)
    if kv.shape[0] == 0:
        return state
    valid = _within(lens, indices.shape[1]) & (indices >= 0) & (indices < kv.shape[0])
    dtype = state.maximum.dtype
    rows = torch.where(valid, indices, -1)
    return _fold(state, attention.accumulate_indexed(q.to(dtype), kv.to(dtype), rows, scale))


def accumulate_slots(
    q: Tensor,
    cache: Tensor,
    block_size: int,
    slot_ids: Tensor,
    lens: Tensor,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """Add slots of a cache of layout ``fp8_ds_mla``: q ``[T, H, 512]``, slot_ids int32 ``[T, K]``, lens int32 ``[T]``.

    A slot id is ``block * block_size + offset``. Candidate i of token t is valid if ``i < lens[t]`` and its slot lies in
    the cache, uint8 ``[num_blocks, block_stride]``.
    """
    check_query(q, state, head_block)
    check_slots(q, cache, block_size, slot_ids, lens)
    valid = _within(lens, slot_ids.shape[1]) & (slot_ids >= 0) & (slot_ids < cache.shape[0] * block_size)
    return _add_slots(q, cache, block_size, torch.where(valid, slot_ids, -1), scale, state)


def accumulate_paged(
    q: Tensor,
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    gather_lens: Tensor,
    block_table: Tensor,
    next_n: int,
    scale: float,
    state: SoftmaxState,
    head_block: int | None = None,
) -> SoftmaxState:
    """Add the last ``gather_lens`` positions of each sequence, found through the block table (layout ``fp8_ds_mla``).

    q ``[R * next_n, H, 512]``, block_table int32 ``[R, B]``; token t belongs to request ``t // next_n``. Lengths int32 are
    given per token ``[R * next_n]``, or per request ``[R]``: then token j of a request ends ``next_n - 1 - j`` positions
    before ``seq_lens``. Candidate i stands at position ``seq_len - gather_len + i``; positions below 0, beyond the
    table or in blocks that the cache lacks are no candidates.
    """
    check_query(q, state, head_block)
    check_paged(q, cache, block_size, seq_lens, gather_lens, block_table, next_n)
    slots = _paged_slots(seq_lens, gather_lens, block_table, next_n, block_size, cache.shape[0])
    return _add_slots(q, cache, block_size, slots, scale, state)


def finish(
    state: SoftmaxState, sink: Tensor | None = None, empty_lse: EmptyLse = "-inf", out_heads: int | None = None
) -> tuple[Tensor, Tensor]:
    """Normalise: (out ``[T, out_heads, D]``, natural-log lse ``[T, H]`` without the sink); sink FP32 ``[H]``.

    Out is BF16 (of an FP64 state: FP64). Heads from H to ``out_heads`` are 0. Rows without candidates get ``empty_lse``.
    """
    check_finish([state], sink, empty_lse, out_heads)
    return _finish([state], sink, empty_lse, out_heads)


def finish_two(
    state_a: SoftmaxState,
    state_b: SoftmaxState,
    sink: Tensor | None = None,
    empty_lse: EmptyLse = "-inf",
    out_heads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Merge two states of the same tokens, as of window and compressed candidates, and normalise as ``finish``."""
    check_finish([state_a, state_b], sink, empty_lse, out_heads)
    return _finish([state_a, state_b], sink, empty_lse, out_heads)


def merge_subsets(outs: list[Tensor], lses: list[Tensor], sink: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Merge normalised subsets, outs ``[T, H, D]`` (BF16 or FP32) and lses ``[T, H]``, and add the sink to the whole.

    A subset is empty for a row if its lse is -inf, at most -1e30 (FlashInfer) or +inf (FlashMLA); its out is not used.
    Returns (out ``[T, H, D]`` BF16, or FP64 for FP64 lses; lse ``[T, H]``).
    """
    check_merge(outs, lses, sink)
    states = []
    for out, lse in zip(outs, lses, strict=True):
        empty = (lse <= EMPTY_LSE["-1e30"]) | (lse == torch.inf)
        states.append(
            SoftmaxState(
                torch.where(empty, -torch.inf, lse),
                torch.where(empty, 0.0, torch.ones_like(lse)),
                torch.where(empty.unsqueeze(-1), 0.0, out.to(lse.dtype)),
            )
        )
    return _finish(states, sink, "-inf", None)


def attend_paged_and_slots(
    q: Tensor,
    swa_cache: Tensor,
    swa_block_size: int,
    seq_lens: Tensor,
    gather_lens: Tensor,
    block_table: Tensor,
    next_n: int,
    slot_cache: Tensor,
    slot_block_size: int,
    slot_ids: Tensor,
    lens: Tensor,
    scale: float,
    sink: Tensor | None = None,
    head_block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``accumulate_paged`` over the window, ``accumulate_slots`` over the compressed entries, then ``finish``."""
    state = empty_state(q.shape[0], q.shape[1], q.device, dtype=_compute_dtype(q))
    accumulate_paged(q, swa_cache, swa_block_size, seq_lens, gather_lens, block_table, next_n, scale, state, head_block)
    accumulate_slots(q, slot_cache, slot_block_size, slot_ids, lens, scale, state, head_block)
    return finish(state, sink)


def attend_materialised(
    q: Tensor, kv: Tensor, lens: Tensor, scale: float, sink: Tensor | None = None, block_d: int | None = None
) -> tuple[Tensor, Tensor]:
    """Attention through a score matrix ``[T, H, K]``: q ``[T, H, D]``, kv ``[T, K, D]``, lens ``[T]``, D <= 512.

    Returns as ``finish``. ``block_d`` chooses a kernel's width of values (64, 128, 256 or 512) and changes no result.
    """
    check_materialised(q, kv, lens, sink, block_d)
    state = empty_state(q.shape[0], q.shape[1], q.device, dim=q.shape[2], dtype=_compute_dtype(q))
    return finish(accumulate_gathered(q, kv, lens, None, scale, state), sink)


def check_query(q: Tensor, state: SoftmaxState | None, head_block: int | None) -> None:
    """Raise ValueError where query, state and head block of an accumulation do not fit together."""
    if q.dim() != 3:
        raise ValueError(f"q must be [T, H, D], not {list(q.shape)}")
    if head_block not in (None, *HEAD_BLOCKS):
        raise ValueError(f"head_block must be one of {HEAD_BLOCKS}, not {head_block}")
    if state is not None:
        _check_state(state, tuple(q.shape))


def check_gathered(q: Tensor, kv: Tensor, lens: Tensor, slot_ids: Tensor | None) -> None:
    """Raise ValueError where the candidates of ``accumulate_gathered`` do not fit the query."""
    _check_shape("kv", kv, (q.shape[0], None, q.shape[2]))
    _check_shape("lens", lens, (q.shape[0],))
    if slot_ids is not None:
        _check_shape("slot_ids", slot_ids, tuple(kv.shape[:2]))


def check_indexed(q: Tensor, kv: Tensor, indices: Tensor, lens: Tensor) -> None:
    """Raise ValueError where the candidates of ``accumulate_indexed`` do not fit the query."""
    _check_shape("kv", kv, (None, q.shape[2]))
    _check_shape("indices", indices, (q.shape[0], None))
    _check_shape("lens", lens, (q.shape[0],))


def check_slots(q: Tensor, cache: Tensor, block_size: int, slot_ids: Tensor, lens: Tensor) -> None:
    """Raise ValueError where the candidates of ``accumulate_slots`` do not fit the query."""
    _check_cache(q, cache, block_size)
    _check_shape("slot_ids", slot_ids, (q.shape[0], None))
    _check_shape("lens", lens, (q.shape[0],))


def check_paged(
    q: Tensor, cache: Tensor, block_size: int, seq_lens: Tensor, gather_lens: Tensor, block_table: Tensor, next_n: int
) -> None:
    """Raise ValueError where the candidates of ``accumulate_paged`` do not fit the query."""
    _check_cache(q, cache, block_size)
    tokens, table = q.shape[0], tuple(block_table.shape)
    if next_n < 1 or len(table) != 2 or table[0] * next_n != tokens:
        raise ValueError(f"block_table {list(table)} times next_n {next_n} does not give {tokens} tokens")
    if tuple(seq_lens.shape) not in ((tokens,), (table[0],)):
        raise ValueError(f"seq_lens must be one per token or one per request, not {list(seq_lens.shape)}")
    _check_shape("gather_lens", gather_lens, tuple(seq_lens.shape))


def check_finish(states: list[SoftmaxState], sink: Tensor | None, empty_lse: EmptyLse, out_heads: int | None) -> None:
    """Raise ValueError where the arguments of ``finish`` or ``finish_two`` do not fit together."""
    shape = tuple(states[0].accumulator.shape)
    for state in states:
        _check_state(state, shape)
    _check_sink(sink, shape[1])
    if empty_lse not in EMPTY_LSE:
        raise ValueError(f"empty_lse must be one of {list(EMPTY_LSE)}, not {empty_lse!r}")
    if out_heads is not None and out_heads < shape[1]:
        raise ValueError(f"out_heads {out_heads} is less than the {shape[1]} heads of the state")


def check_merge(outs: list[Tensor], lses: list[Tensor], sink: Tensor | None) -> None:
    """Raise ValueError where the arguments of ``merge_subsets`` do not fit together."""
    if not outs or len(outs) != len(lses):
        raise ValueError(f"merge_subsets needs as many outs as lses and at least one, not {len(outs)} and {len(lses)}")
    for out, lse in zip(outs, lses, strict=True):
        _check_shape("out", out, tuple(outs[0].shape))
        _check_shape("lse", lse, tuple(outs[0].shape[:2]))
    _check_sink(sink, outs[0].shape[1])


def check_materialised(q: Tensor, kv: Tensor, lens: Tensor, sink: Tensor | None, block_d: int | None) -> None:
    """Raise ValueError where the arguments of ``attend_materialised`` do not fit together."""
    if q.dim() != 3 or q.shape[2] > layouts.HEAD_DIM:
        raise ValueError(f"q must be [T, H, D] with D at most {layouts.HEAD_DIM}, not {list(q.shape)}")
    _check_shape("kv", kv, (q.shape[0], None, q.shape[2]))
    _check_shape("lens", lens, (q.shape[0],))
    _check_sink(sink, q.shape[1])
    if block_d not in (None, 64, 128, 256, 512):
        raise ValueError(f"block_d must be 64, 128, 256 or 512, not {block_d}")


def _finish(
    states: list[SoftmaxState], sink: Tensor | None, empty_lse: EmptyLse, out_heads: int | None
) -> tuple[Tensor, Tensor]:
    dtype = states[0].maximum.dtype
    out, lse = attention.finish(states, None if sink is None else sink.to(dtype))
    if empty_lse != "-inf":
        lse = torch.where(lse == -torch.inf, EMPTY_LSE[empty_lse], lse)
    if out_heads is not None:
        out = torch.nn.functional.pad(out, (0, 0, 0, out_heads - out.shape[1]))
    return out if dtype == torch.float64 else out.to(torch.bfloat16), lse


def _fold(state: SoftmaxState, part: SoftmaxState) -> SoftmaxState:
    """Add ``part`` to ``state`` in place; two empty rows stay empty, without -inf - -inf."""
    maximum = torch.maximum(state.maximum, part.maximum)
    guard = torch.where(maximum == -torch.inf, 0.0, maximum)
    before, added = torch.exp(state.maximum - guard), torch.exp(part.maximum - guard)
    state.denominator.mul_(before).addcmul_(part.denominator, added)
    state.accumulator.mul_(before.unsqueeze(-1)).addcmul_(part.accumulator, added.unsqueeze(-1))
    state.maximum.copy_(maximum)
    return state


def _add_slots(
    q: Tensor, cache: Tensor, block_size: int, slots: Tensor, scale: float, state: SoftmaxState
) -> SoftmaxState:
    """Fold slots ``[T, K]`` (-1 = none) into the state, a block of tokens at a time to bound the unpacked keys."""
    dtype = state.maximum.dtype
    for begin in range(0, q.shape[0], GATHER_BLOCK):
        rows = slots[begin : begin + GATHER_BLOCK]
        data, scales = layouts.FP8_DS_MLA.read(cache, block_size, rows.clamp_min(0).long().flatten())
        kv = layouts.unpack_fp8_ds_mla(data, scales, dtype).view(*rows.shape, layouts.HEAD_DIM)
        part = attention.accumulate_gathered(q[begin : begin + GATHER_BLOCK].to(dtype), kv, rows >= 0, scale)
        _fold(SoftmaxState(*(whole[begin : begin + GATHER_BLOCK] for whole in state)), part)
    return state


def _paged_slots(
    seq_lens: Tensor, gather_lens: Tensor, block_table: Tensor, next_n: int, block_size: int, num_blocks: int
) -> Tensor:
    """Slot of every candidate, int64 ``[T, longest gather]``, -1 = none. Reads the longest length back to the host."""
    token = torch.arange(block_table.shape[0] * next_n, device=block_table.device)
    request = token // next_n
    if seq_lens.shape[0] != token.shape[0]:
        seq_lens, gather_lens = seq_lens[request] - (next_n - 1 - token % next_n), gather_lens[request]
    width = max(int(gather_lens.max()), 0) if token.shape[0] else 0
    position = (seq_lens - gather_lens).unsqueeze(-1) + torch.arange(width, device=token.device)
    column = position // block_size
    known = _within(gather_lens, width) & (position >= 0) & (column < block_table.shape[1])
    block = block_table[request.unsqueeze(-1), torch.where(known, column, 0)].long()
    known &= (block >= 0) & (block < num_blocks)
    return torch.where(known, block * block_size + position % block_size, -1)


def _within(lens: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=lens.device) < lens.unsqueeze(-1)


def _compute_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _check_state(state: SoftmaxState, shape: tuple[int, ...]) -> None:
    _check_shape("state.maximum", state.maximum, shape[:2])
    _check_shape("state.denominator", state.denominator, shape[:2])
    _check_shape("state.accumulator", state.accumulator, shape)


def _check_cache(q: Tensor, cache: Tensor, block_size: int) -> None:
    if q.shape[2] != layouts.HEAD_DIM:
        raise ValueError(f"q must have {layouts.HEAD_DIM} dimensions, as the cache has, not {q.shape[2]}")
    stride = layouts.FP8_DS_MLA.block_stride(block_size)
    if cache.dtype != torch.uint8 or cache.dim() != 2 or cache.shape[1] < stride:
        raise ValueError(f"cache must be uint8 [blocks, >= {stride}], not {cache.dtype} {list(cache.shape)}")


def _check_sink(sink: Tensor | None, heads: int) -> None:
    if sink is not None:
        _check_shape("sink", sink, (heads,))


def _check_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = tensor.dim() == len(shape) and all(
        want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must be [{wanted}], not {list(tensor.shape)}")
