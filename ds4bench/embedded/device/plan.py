"""A step's index tensors on the device: everything that the layers need to know besides the tokens' vectors.

All of it is computed once a step, from the host's copy of the batch, so that no layer has to ask the device anything.
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
        self.token_ids = batch.token_ids.to(device)
        self.positions = batch.positions.to(device)
        self.slots = batch.slots.to(device)
        self.block_table = table.to(device)
        self.token_to_req = torch.cat(requests).to(device, torch.int32)
        self.states = {
            ratio: StatePlan(batch, table, ratio, ring_size(ratio, batch.block_size, num_drafts), device)
            for ratio in (C4A, C128A)
            if ratio in config.compress_ratios
        }
        every = self._every_entry(int(batch.positions.max()), config)
        self.decode = DecodeRows(self, int(batch.decode_positions.max()), every, config) if decodes else None
        self.groups = [
            PrefillGroup(self, batch.segments[i : i + SEGMENTS_PER_GROUP], decodes + i, every, config)
            for i in range(0, len(batch.segments), SEGMENTS_PER_GROUP)
        ]

    def _every_entry(self, last_position: int, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor] | None:
        """Lists of the layers without indexer: (slots of decode rows, their lengths, entries of prefill rows)."""
        count = (last_position + 1) // C128A
        if not count or C128A not in config.compress_ratios:
            return None
        width = -(-count // WIDTH_ALIGNMENT) * WIDTH_ALIGNMENT
        device, decodes = self.positions.device, self.num_decodes
        lists: tuple[Tensor, Tensor, Tensor] = ops.c128a_metadata(
            self.positions, C128A, decodes, self.token_to_req, self.block_table, self.block_size // C128A, self.slots,
            torch.empty(decodes, width, dtype=torch.int32, device=device),
            torch.empty(decodes, dtype=torch.int32, device=device),
            torch.empty(self.num_tokens - decodes, width, dtype=torch.int32, device=device),
            width,
        )  # fmt: skip
        return lists


class DecodeRows:
    """The single-token rows, the batch's first: they attend to slots of the caches."""

    def __init__(
        self, plan: StepPlan, last_position: int, every: tuple[Tensor, Tensor, Tensor] | None, config: ModelConfig
    ) -> None:
        count = plan.num_decodes
        self.rows = slice(0, count)
        self.block_size = plan.block_size
        self.block_table = plan.block_table[:count]
        self.token_to_req = plan.token_to_req[:count]
        self.is_valid = torch.ones(count, dtype=torch.bool, device=plan.positions.device)
        positions = plan.positions[:count]
        self.window: IndexList = ops.decode_swa_slots(
            positions, self.token_to_req, self.block_table, plan.block_size, self.is_valid, config.window
        )
        self.max_indexed = (last_position + 1) // C4A
        self.indexed_lens = ((positions + 1) // C4A).to(torch.int32).unsqueeze(1)
        self.tie_break = tie_break(self.max_indexed, positions.device)
        self.every: IndexList | None = None
        if every is not None and last_position + 1 >= C128A:
            self.every = (every[0], every[1])

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
        self.query_start_loc = torch.tensor([0, *lens], device=device).cumsum(0).to(torch.int32)
        self.seq_lens = torch.tensor([segment.end for segment in segments], dtype=torch.int32, device=device)
        self.gather_lens = torch.tensor(reach, dtype=torch.int32, device=device)
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
        self.entry_lens = torch.tensor(counts, dtype=torch.int32, device=device)
        self.starts = torch.tensor(starts, dtype=torch.int32, device=device)
        self.visible = torch.cat(visible).to(device, torch.int32)
        self.row_starts = torch.cat(first).to(device, torch.int32)
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
