"""Index lists for sparse attention (kernels.md 2.10): which slots or workspace rows each token attends to.

Every list is int32 with -1 for "no entry" and is written over its full width: buffers keep the width and the stride
that a captured graph has seen, however few entries a step has. Entries come first in a row (combined rows: the top-k,
then the window), so a consumer may stop after the row's length. An entry whose request or block does not exist
becomes -1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ds4_kernels.reference.cache import require

WIDTH_ALIGNMENT = 128
"""Widths of candidate lists are multiples of this: attention kernels take the candidates in tiles of up to 128."""


def global_topk_slots(
    topk_indices: Tensor,
    token_to_req: Tensor,
    block_table: Tensor,
    block_size: int,
    is_valid: Tensor,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Turn a request's own entry numbers into cache slots: ``table[req, i // block_size] * block_size + i % block_size``.

    topk_indices int32 ``[T, K]`` (valid entries first), token_to_req int ``[T]``, block_table int32 ``[R, B]``, is_valid
    bool ``[T]``. Returns (slots int32 ``[T, W]``, lens int32 ``[T]``: how many slots a row has); W is K, or the width
    of ``out`` where that is given. Rows of invalid tokens are all -1 with length 0. Raises ValueError for wrong shapes.
    """
    slots, lens = check_global_topk(topk_indices, token_to_req, block_table, is_valid, out)
    found = _slots_of(block_table, token_to_req, topk_indices, block_size)
    found = torch.where(is_valid.unsqueeze(1), found, -1)
    slots.fill_(-1)
    slots[:, : topk_indices.shape[1]] = found
    lens.copy_((found >= 0).sum(dim=1))
    return slots, lens


def combine_topk_swa(
    topk_indices: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    gather_lens: Tensor,
    window: int,
    ratio: int,
    topk: int,
    workspace_rows: int,
    swa_row: int,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows of the gathered workspace that each prefill token attends to: its compressed entries, then its window.

    The workspace holds ``workspace_rows`` (M) rows for each request: the compressed entries from row 0, the last
    ``gather_lens[r]`` positions from row ``swa_row`` (N). topk_indices int32 ``[T, K]``, K >= topk; query_start_loc int
    ``[R + 1]`` (its first element counts as 0); seq_lens and gather_lens int ``[R]``. A token at position p of request
    b gets ``n = min((p + 1) // ratio, topk)`` entries ``topk_indices + M b``, then ``L = min(p + 1, window)`` entries
    ``M b + N + max(p - window + 1, 0) - (seq_len - gather_len) + j``. topk 0 is a layer with the window only.

    Returns (indices int32 ``[T, W]``, lens int32 ``[T]``: n + L) with W = ``combined_width(topk, window)`` or the
    width of ``out``. Tokens past the last query get -1 and length 0. Raises ValueError for wrong shapes.
    """
    indices, lens = check_combine(topk_indices, query_start_loc, seq_lens, gather_lens, window, topk, out)
    tokens, requests = topk_indices.shape[0], seq_lens.shape[0]
    starts = (query_start_loc - query_start_loc[0]).long()
    row = torch.arange(tokens, device=topk_indices.device)
    request = torch.searchsorted(starts[1:].contiguous(), row, right=True)
    inside = request < requests
    request = request.clamp_max(requests - 1)
    position = seq_lens[request] - (starts[request + 1] - starts[request]) + row - starts[request]
    picked = ((position + 1) // max(ratio, 1)).clamp_max(topk)
    length = picked + (position + 1).clamp_max(window)
    base = request * workspace_rows
    first = base + swa_row + (position - window + 1).clamp_min(0) - (seq_lens[request] - gather_lens[request])

    column = torch.arange(indices.shape[1], device=row.device)
    chosen = torch.full_like(indices, -1, dtype=torch.int64)
    chosen[:, :topk] = topk_indices[:, :topk]
    chosen = torch.where(chosen >= 0, chosen + base.unsqueeze(1), -1)
    swa = (first - picked).unsqueeze(1) + column
    value = torch.where(column < picked.unsqueeze(1), chosen, torch.where(column < length.unsqueeze(1), swa, -1))
    indices.copy_(torch.where(inside.unsqueeze(1), value, -1))
    lens.copy_(torch.where(inside, length, 0))
    return indices, lens


def combined_width(topk: int, window: int) -> int:
    """Columns of a combined row: ``topk + window`` rounded up to 128."""
    return -(-(topk + window) // WIDTH_ALIGNMENT) * WIDTH_ALIGNMENT


def c128a_metadata(
    positions: Tensor,
    ratio: int,
    num_decode_tokens: int,
    token_to_req: Tensor,
    block_table: Tensor,
    block_size: int,
    slot_mapping: Tensor,
    decode_slots: Tensor,
    decode_lens: Tensor,
    prefill_indices: Tensor,
    max_width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidate lists of layers that see every entry ``0 .. n - 1`` with ``n = min((p + 1) // ratio, max_width)``.

    positions int ``[T]``, decode tokens first; token_to_req int and slot_mapping int64 ``[>= num_decode_tokens]``;
    block_table int32 ``[R, B]``; buffers decode_slots int32 ``[>= num_decode_tokens, W]``, decode_lens int32
    ``[>= num_decode_tokens]``, prefill_indices int32 ``[>= T - num_decode_tokens, W2]``. max_width is a multiple of 128
    and at most W and W2. Decode rows get global slots, prefill rows the numbers 0 .. n - 1. Decode tokens with slot -1
    are padding: all -1, length 0.

    Returns the three buffers' first rows (num_decode_tokens, num_decode_tokens, and the prefill tokens): views with the
    buffers' full width and stride. Raises ValueError for wrong shapes.
    """
    check_c128a(
        positions, num_decode_tokens, token_to_req, block_table, slot_mapping, decode_slots, decode_lens,
        prefill_indices, max_width,
    )  # fmt: skip
    visible = ((positions + 1) // ratio).clamp_max(max_width).unsqueeze(1)
    slots, lens, local = c128a_views(positions, num_decode_tokens, decode_slots, decode_lens, prefill_indices)

    entry = torch.arange(prefill_indices.shape[1], device=positions.device)
    local.copy_(torch.where(entry < visible[num_decode_tokens:], entry, -1))
    valid = (slot_mapping[:num_decode_tokens] >= 0).unsqueeze(1)
    shown = torch.where(valid, visible[:num_decode_tokens], 0)
    entry = torch.arange(decode_slots.shape[1], device=positions.device)
    entry = torch.where(entry < shown, entry, -1)
    slots.copy_(_slots_of(block_table, token_to_req[:num_decode_tokens], entry, block_size))
    lens.copy_(shown.squeeze(1))
    return slots, lens, local


def decode_swa_slots(
    positions: Tensor,
    token_to_req: Tensor,
    block_table: Tensor,
    block_size: int,
    is_valid: Tensor,
    window: int = 128,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Slots of the window ``max(0, p - window + 1) .. p`` of every decode token, oldest first.

    positions and token_to_req int ``[T]``, block_table int32 ``[R, B]``, is_valid bool ``[T]``. Returns (slots int32
    ``[T, W]``, lens int32 ``[T]``: ``min(p + 1, window)``); W is window or the width of ``out``. Rows of invalid tokens
    are all -1 with length 0. Raises ValueError for wrong shapes.
    """
    slots, lens = check_decode_swa(positions, token_to_req, block_table, is_valid, window, out)
    length = torch.where(is_valid, (positions + 1).clamp_max(window), 0)
    column = torch.arange(slots.shape[1], device=positions.device)
    entry = (positions - window + 1).clamp_min(0).unsqueeze(1) + column
    entry = torch.where(column < length.unsqueeze(1), entry, -1)
    slots.copy_(_slots_of(block_table, token_to_req, entry, block_size))
    lens.copy_(length)
    return slots, lens


def _slots_of(block_table: Tensor, token_to_req: Tensor, entry: Tensor, block_size: int) -> Tensor:
    """Slots of entries ``[T, K]`` of the tokens' requests; -1 where the entry, its request or its block is not."""
    requests, blocks = block_table.shape
    request = token_to_req.long().unsqueeze(1)
    safe = entry.clamp_min(0).long()
    column = safe // block_size
    block = block_table[request.clamp(0, requests - 1), column.clamp_max(blocks - 1)].long()
    exists = (entry >= 0) & (request >= 0) & (request < requests) & (column < blocks) & (block >= 0)
    return torch.where(exists, block * block_size + safe % block_size, -1)


def c128a_views(
    positions: Tensor, num_decode_tokens: int, decode_slots: Tensor, decode_lens: Tensor, prefill_indices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of the buffers that belong to this call, at full width."""
    prefill_tokens = positions.shape[0] - num_decode_tokens
    return decode_slots[:num_decode_tokens], decode_lens[:num_decode_tokens], prefill_indices[:prefill_tokens]


def check_global_topk(
    topk_indices: Tensor,
    token_to_req: Tensor,
    block_table: Tensor,
    is_valid: Tensor,
    out: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """The checks of ``global_topk_slots``; returns its outputs."""
    _check_indices("topk_indices", topk_indices)
    tokens, width = topk_indices.shape
    _check_tokens(tokens, token_to_req, is_valid)
    _check_table(block_table)
    return _outputs(out, tokens, width, topk_indices.device)


def check_combine(
    topk_indices: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    gather_lens: Tensor,
    window: int,
    topk: int,
    out: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """The checks of ``combine_topk_swa``; returns its outputs."""
    _check_indices("topk_indices", topk_indices)
    require(0 <= topk <= topk_indices.shape[1], f"topk {topk} is more than the {topk_indices.shape[1]} columns given")
    requests = seq_lens.shape[0]
    require(
        requests > 0 and gather_lens.shape == seq_lens.shape and query_start_loc.shape == (requests + 1,),
        f"seq_lens and gather_lens must be [R], query_start_loc [R + 1], not {list(seq_lens.shape)}, "
        f"{list(gather_lens.shape)}, {list(query_start_loc.shape)}",
    )
    return _outputs(out, topk_indices.shape[0], combined_width(topk, window), topk_indices.device)


def check_c128a(
    positions: Tensor,
    num_decode_tokens: int,
    token_to_req: Tensor,
    block_table: Tensor,
    slot_mapping: Tensor,
    decode_slots: Tensor,
    decode_lens: Tensor,
    prefill_indices: Tensor,
    max_width: int,
) -> None:
    """The checks of ``c128a_metadata``."""
    tokens = positions.shape[0]
    require(0 <= num_decode_tokens <= tokens, f"num_decode_tokens {num_decode_tokens} is outside 0 .. {tokens}")
    _check_indices("decode_slots", decode_slots)
    _check_indices("prefill_indices", prefill_indices)
    _check_table(block_table)
    for name, length, least in (
        ("decode_slots", decode_slots.shape[0], num_decode_tokens),
        ("decode_lens", decode_lens.shape[0], num_decode_tokens),
        ("token_to_req", token_to_req.shape[0], num_decode_tokens),
        ("slot_mapping", slot_mapping.shape[0], num_decode_tokens),
        ("prefill_indices", prefill_indices.shape[0], tokens - num_decode_tokens),
    ):
        require(length >= least, f"{name} has {length} rows, fewer than {least}")
    require(decode_lens.dtype == torch.int32, f"decode_lens must be int32, not {decode_lens.dtype}")
    narrowest = min(decode_slots.shape[1], prefill_indices.shape[1])
    require(
        0 < max_width <= narrowest and max_width % WIDTH_ALIGNMENT == 0,
        f"max_width {max_width} must be a multiple of {WIDTH_ALIGNMENT} and at most the {narrowest} columns of a buffer",
    )


def check_decode_swa(
    positions: Tensor,
    token_to_req: Tensor,
    block_table: Tensor,
    is_valid: Tensor,
    window: int,
    out: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """The checks of ``decode_swa_slots``; returns its outputs."""
    _check_tokens(positions.shape[0], token_to_req, is_valid)
    _check_table(block_table)
    require(window > 0, f"window must be positive, not {window}")
    return _outputs(out, positions.shape[0], window, positions.device)


def _check_indices(name: str, indices: Tensor) -> None:
    require(
        indices.dtype == torch.int32 and indices.dim() == 2 and (indices.shape[1] == 0 or indices.stride(1) == 1),
        f"{name} must be int32 rows, not {indices.dtype} {list(indices.shape)}",
    )


def _check_table(block_table: Tensor) -> None:
    require(
        block_table.dtype == torch.int32
        and block_table.dim() == 2
        and block_table.numel() > 0
        and block_table.stride(1) == 1,
        f"block_table must be int32 [R >= 1, B >= 1], not {block_table.dtype} {list(block_table.shape)}",
    )


def _check_tokens(tokens: int, token_to_req: Tensor, is_valid: Tensor) -> None:
    require(token_to_req.shape == (tokens,), f"token_to_req must be [{tokens}], not {list(token_to_req.shape)}")
    require(
        is_valid.shape == (tokens,) and is_valid.dtype == torch.bool,
        f"is_valid must be bool [{tokens}], not {is_valid.dtype} {list(is_valid.shape)}",
    )


def _outputs(out: tuple[Tensor, Tensor] | None, tokens: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if out is None:
        return (
            torch.empty(tokens, width, dtype=torch.int32, device=device),
            torch.empty(tokens, dtype=torch.int32, device=device),
        )
    slots, lens = out
    _check_indices("out[0]", slots)
    require(
        slots.shape[0] == tokens and slots.shape[1] >= width,
        f"out[0] must be [{tokens}, >= {width}], not {list(slots.shape)}",
    )
    require(
        lens.dtype == torch.int32 and lens.shape == (tokens,),
        f"out[1] must be int32 [{tokens}], not {lens.dtype} {list(lens.shape)}",
    )
    return slots, lens
