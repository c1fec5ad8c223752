"""Where a step reads and writes the compressor's state.

The caches keep a ring of each block's last tokens. To ``state_save`` and ``compress_store`` a ring is a state cache
with ``size`` rows a block in which all state blocks of one KV block are the same: single tokens work on it directly,
since the rows behind a token are always the ones just before it; drafts of the same step too, as the ring has room for
them. A segment would overwrite its own rows, so it works on a scratch state: the rows of the ring that it needs, then
its own tokens, the last of which go back to the ring.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ds4_kernels.reference.compressor import overlap
from torch import Tensor

from ds4bench.embedded.batch import Batch, Segment
from ds4bench.embedded.device.upload import upload


@dataclass(frozen=True)
class StateRows:
    """Arguments of the two ops for the tokens of ``rows``: where they save, and where an entry finds its window."""

    rows: slice
    slots: Tensor  # int64 [n], rows of the state
    table: Tensor  # int32 [requests, B], state blocks
    token_to_req: Tensor  # int32 [n]


@dataclass(frozen=True)
class Scratch:
    """A state for the segments, and the int64 rows to copy into it from the ring and back (each pair of one length)."""

    blocks: int
    state: StateRows
    past_ring: Tensor
    past_scratch: Tensor
    kept_ring: Tensor
    kept_scratch: Tensor


class StatePlan:
    """State rows of a step for one ratio; the same for a layer's attention compressor and its indexer's."""

    def __init__(self, batch: Batch, table: Tensor, ratio: int, size: int, device: torch.device) -> None:
        self.size = size
        ends = (batch.positions + 1) % ratio == 0
        entry = batch.slots // ratio  # slots are block * block_size + offset, and ratio divides block_size
        self.entry_slots = upload(torch.where(ends, entry, -1), device)
        self.decode = self._decode(batch, table[: batch.num_decodes], device) if batch.num_decodes else None
        self.scratch = self._scratch(batch, ratio, device) if batch.segments else None

    def _decode(self, batch: Batch, table: Tensor, device: torch.device) -> StateRows:
        count = batch.num_decodes
        slots = batch.blocks[:count] * self.size + batch.decode_positions % self.size
        repeated = table.repeat_interleave(batch.block_size // self.size, dim=1)
        requests = torch.arange(count, dtype=torch.int32)
        return StateRows(slice(0, count), upload(slots, device), upload(repeated, device), upload(requests, device))

    def _scratch(self, batch: Batch, ratio: int, device: torch.device) -> Scratch:
        size = self.size
        parts = []
        blocks = 0
        for segment in batch.segments:
            part = _SegmentRows(segment, batch.block_size, size, ratio, blocks)
            parts.append(part)
            blocks += part.num_blocks
        width = max(-(-segment.end // size) for segment in batch.segments)
        shift = torch.tensor([[part.first_block - part.first_state_block] for part in parts])
        table = (shift + torch.arange(width)).clamp_(0, blocks - 1)
        requests = [torch.full_like(part.slots, i) for i, part in enumerate(parts)]

        def joined(tensors: list[Tensor], dtype: torch.dtype = torch.int64) -> Tensor:
            return upload(torch.cat(tensors), device, dtype)

        return Scratch(
            blocks,
            StateRows(
                slice(batch.num_decodes, len(batch.token_ids)),
                joined([part.slots for part in parts]),
                upload(table, device, torch.int32),
                joined(requests, torch.int32),
            ),
            past_ring=joined([part.past_ring for part in parts]),
            past_scratch=joined([part.past_scratch for part in parts]),
            kept_ring=joined([part.kept_ring for part in parts]),
            kept_scratch=joined([part.kept_scratch for part in parts]),
        )


class _SegmentRows:
    """One segment in the scratch state, from scratch block ``first_block`` on.

    State block b holds positions ``b * size .. b * size + size - 1``; the scratch has those from the window of the
    first entry that the segment can complete (ratio 4: from the window before it) to the segment's end.
    """

    def __init__(self, segment: Segment, block_size: int, size: int, ratio: int, first_block: int) -> None:
        start, end = segment.start, segment.end
        oldest = max(0, (start // ratio + 1 - overlap(ratio)) * ratio)
        self.first_block = first_block
        self.first_state_block = oldest // size
        self.num_blocks = -(-end // size) - self.first_state_block

        def ring(positions: Tensor) -> Tensor:
            return segment.blocks[positions // block_size] * size + positions % size

        def scratch(positions: Tensor) -> Tensor:
            return positions + (first_block - self.first_state_block) * size

        past, span = torch.arange(oldest, start), torch.arange(start, end)
        # Only tokens that something later can read: the last of the segment and the last of each block in it.
        kept = span[(span >= end - size) | (span % block_size >= block_size - size)]
        self.slots = scratch(span)
        self.past_ring, self.past_scratch = ring(past), scratch(past)
        self.kept_ring, self.kept_scratch = ring(kept), scratch(kept)
