"""A step's index tensors on the device: everything that the layers need to know besides the tokens' vectors.

All of it is computed once a step, from the host's copy of the batch, so that no layer has to ask the device anything, and
goes there from pinned memory, so that the host can prepare a step while the device computes the one before.
Requests are the batch's single-token rows, then its segments; ``token_to_req`` and ``block_table`` count them so.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ds4_kernels import ops
from ds4_kernels.reference.index_builders import WIDTH_ALIGNMENT
from torch import Tensor

from ds4bench.embedded.batch import Batch, Segment
from ds4bench.embedded.caches import ring_size
from ds4bench.embedded.config import C4A, C128A, ModelConfig
from ds4bench.embedded.device.state import StatePlan
from ds4bench.embedded.device.upload import upload

SEGMENTS_PER_GROUP = 4
"""Segments that share one gathered workspace: bounds its memory, as engines do (kernels.md 2.2.3)."""

TIE_BREAK = 1e-30
"""The ReLU makes indexer scores of exactly 0 common. A bias far below any other difference gives such ties to the earlier
entry, so that the selection depends on neither batch, chunk nor backend (``reference.indexer`` does the same)."""

IndexList = tuple[Tensor, Tensor]
"""Candidates int32 ``[T, W]`` and how many of them a row has, int32 ``[T]``."""


class StepPlan:
    """Per token: ``token_ids``, ``positions`` int64, window-cache ``slots``; then the parts for each kind of row.

    ``num_drafts`` is what the caches' rings are made for, see ``caches.ring_size``.
    """

    def __init__(self, batch: Batch, config: ModelConfig, device: torch.device, num_drafts: int = 0) -> None:
        tokens, decodes = len(batch.token_ids), batch.num_decodes
        table = block_table(batch)
        requests = [torch.arange(decodes)] + [
            torch.full((segment.end - segment.start,), decodes + i) for i, segment in enumerate(batch.segments)
        ]
        self.num_decodes = decodes
        self.num_tokens = tokens
        self.block_size = batch.block_size
        self.token_ids = upload(batch.token_ids, device)
        self.positions = upload(batch.positions, device)
        self.slots = upload(batch.slots, device)
        self.block_table = upload(table, device)
        self.token_to_req = upload(torch.cat(requests), device, torch.int32)
        self.states = {
            ratio: StatePlan(batch, table, ratio, ring_size(ratio, batch.block_size, num_drafts), device)
            for ratio in (C4A, C128A)
            if ratio in config.compress_ratios
        }
        every = self._every_entry(int(batch.positions.max()), config)
        self.decode = self._decode_rows(int(batch.decode_positions.max()), every, config) if decodes else None
        self.groups = [
            PrefillGroup(self, batch.segments[i : i + SEGMENTS_PER_GROUP], decodes + i, every, config)
            for i in range(0, len(batch.segments), SEGMENTS_PER_GROUP)
        ]

    def _every_entry(self, last_position: int, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor] | None:
        """Lists of the layers without indexer: (slots of decode rows, their lengths, entries of prefill rows)."""
        count = (last_position + 1) // C128A
        if not count or C128A not in config.compress_ratios:
            return None
        return every_entry(
            count, self.num_decodes, self.positions, self.slots, self.token_to_req, self.block_table, self.block_size
        )

    def _decode_rows(
        self, last_position: int, every: tuple[Tensor, Tensor, Tensor] | None, config: ModelConfig
    ) -> DecodeRows:
        count = self.num_decodes
        is_valid = torch.ones(count, dtype=torch.bool, device=self.positions.device)
        return DecodeRows(
            self.positions[:count], self.token_to_req[:count], self.block_table[:count], is_valid, self.block_size,
            (last_position + 1) // C4A, (every[0], every[1]) if every is not None else None, config.window,
        )  # fmt: skip


def every_entry(
    count: int,
    num_decodes: int,
    positions: Tensor,
    slots: Tensor,
    token_to_req: Tensor,
    block_table: Tensor,
    block_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists for rows that see all of up to ``count`` C128A entries: slots ``[num_decodes, W]`` of the first rows and their
    lengths, entries ``[T - num_decodes, W]`` of the others. Rows with slot -1 see nothing."""  # fmt: skip
    width = -(-count // WIDTH_ALIGNMENT) * WIDTH_ALIGNMENT
    device = positions.device
    lists: tuple[Tensor, Tensor, Tensor] = ops.c128a_metadata(
        positions, C128A, num_decodes, token_to_req, block_table, block_size // C128A, slots,
        torch.empty(num_decodes, width, dtype=torch.int32, device=device),
        torch.empty(num_decodes, dtype=torch.int32, device=device),
        torch.empty(positions.shape[0] - num_decodes, width, dtype=torch.int32, device=device),
        width,
    )  # fmt: skip
    return lists


class DecodeRows:
    """The single-token rows, the batch's first: they attend to slots of the caches.

    ``positions [D]``, ``token_to_req`` and ``block_table`` are theirs; rows that are not ``is_valid`` pad the batch and see
    nothing. ``max_indexed`` is the width of the indexer's scores, at least the entries that a row sees; ``every`` is the
    list of the layers without indexer.
    """

    def __init__(
        self, positions: Tensor, token_to_req: Tensor, block_table: Tensor, is_valid: Tensor, block_size: int,
        max_indexed: int, every: IndexList | None, window: int,
    ) -> None:  # fmt: skip
        self.rows = slice(0, positions.shape[0])
        self.block_size = block_size
        self.block_table = block_table
        self.token_to_req = token_to_req
        self.is_valid = is_valid
        self.window: IndexList = ops.decode_swa_slots(
            positions, token_to_req, block_table, block_size, is_valid, window
        )
        self.max_indexed = max_indexed
        visible = ((positions + 1) // C4A).to(torch.int32)
        self.indexed_lens = visible.masked_fill(~is_valid, 0).unsqueeze(1)
        self.tie_break = tie_break(max_indexed, positions.device)
        self.every = every

    def indexed(self, logits: Tensor, topk: int) -> IndexList:
        """Slots of the entries with the highest logits FP32 ``[D, max_indexed]``, which are changed."""
        local = ops.topk_decode(logits.sub_(self.tie_break), 1, self.indexed_lens, topk)
        slots, lens = ops.global_topk_slots(
            local, self.token_to_req, self.block_table, self.block_size // C4A, self.is_valid
        )
        return slots, lens


@dataclass(frozen=True)
class Workspace:
    """Rows that each segment of a group has in the gathered workspace: compressed entries first, then the window."""

    entries: int
    rows: int


class PrefillGroup:
    """A few segments, consecutive in the batch: they attend to keys gathered into one BF16 workspace."""

    def __init__(
        self, plan: StepPlan, segments: list[Segment], first_request: int, every: tuple[Tensor, Tensor, Tensor] | None,
        config: ModelConfig,
    ) -> None:  # fmt: skip
        device = plan.positions.device
        self.rows = slice(segments[0].rows.start, segments[-1].rows.stop)
        self.num_segments = len(segments)
        self.window = config.window
        lens = [segment.end - segment.start for segment in segments]
        reach = [n + min(segment.start, config.window - 1) for n, segment in zip(lens, segments, strict=True)]
        self.window_rows = max(reach)
        self.last_end = max(segment.end for segment in segments)
        self.block_table = plan.block_table[first_request : first_request + len(segments)]
        self.query_start_loc = upload(torch.tensor([0, *lens]).cumsum(0), device, torch.int32)
        self.seq_lens = upload(torch.tensor([segment.end for segment in segments]), device, torch.int32)
        self.gather_lens = upload(torch.tensor(reach), device, torch.int32)
        self.index = IndexRanges(segments, device) if C4A in config.compress_ratios else None
        tokens = self.rows.stop - self.rows.start
        nothing = torch.empty(tokens, 0, dtype=torch.int32, device=device)
        self.window_only = self.combined(nothing, 1, 0)
        self.every: IndexList | None = None
        if every is not None and self.last_end >= C128A:
            first = self.rows.start - plan.num_decodes
            self.every = self.combined(every[2][first : first + tokens], C128A, self.last_end // C128A)

    def workspace(self, ratio: int) -> Workspace:
        """The workspace of a layer."""
        entries = self.last_end // ratio if ratio else 0
        return Workspace(entries, entries + self.window_rows)

    def combined(self, picks: Tensor, ratio: int, topk: int) -> IndexList:
        """Workspace rows of picked entries int32 ``[tokens, >= topk]`` and of the window behind them."""
        space = self.workspace(ratio if topk else 0)
        indices, lens = ops.combine_topk_swa(
            picks, self.query_start_loc, self.seq_lens, self.gather_lens, self.window, ratio, topk, space.rows,
            space.entries,
        )  # fmt: skip
        return indices, lens


class IndexRanges:
    """Where the indexer keys of a group's segments lie once gathered, and the part of them that each token sees."""

    def __init__(self, segments: list[Segment], device: torch.device) -> None:
        counts = [segment.end // C4A for segment in segments]
        starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
        visible = [(torch.arange(s.start, s.end) + 1) // C4A for s in segments]
        first = [torch.full_like(seen, start) for seen, start in zip(visible, starts, strict=False)]
        self.num_keys = starts[-1]
        self.max_keys = max(counts)
        self.entry_lens = upload(torch.tensor(counts), device, torch.int32)
        self.starts = upload(torch.tensor(starts), device, torch.int32)
        self.visible = upload(torch.cat(visible), device, torch.int32)
        self.row_starts = upload(torch.cat(first), device, torch.int32)
        self.row_ends = self.row_starts + self.visible
        self.zeros = torch.zeros_like(self.visible)
        self.tie_break = tie_break(self.max_keys, device)


def tie_break(columns: int, device: torch.device) -> Tensor:
    """What to subtract from each column of the indexer's scores."""
    return torch.arange(columns, dtype=torch.float32, device=device) * TIE_BREAK


def block_table(batch: Batch) -> Tensor:
    """Blocks of every request, int32 ``[requests, B]`` on the host; -1 behind the last block that holds a token."""
    tables = list(batch.decode_blocks) + [segment.blocks for segment in batch.segments]
    ends = (batch.decode_positions + 1).tolist() + [segment.end for segment in batch.segments]
    counts = [-(-end // batch.block_size) for end in ends]
    table = torch.full((len(tables), max(counts)), -1, dtype=torch.int32)
    for row, (blocks, count) in enumerate(zip(tables, counts, strict=True)):
        table[row, :count] = blocks[:count]
    return table
