"""One step's tokens, flattened: single tokens (decode) first, then the prefill segments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepInput:
    """One sequence's share of a step: ``token_ids`` stand at positions ``start`` and following.

    ``block_ids`` cover positions ``0 .. start + len(token_ids) - 1``. ``want_logits`` asks for the last token's logits. If
    the last ``num_drafts`` tokens are drafts behind a single token, it asks for the logits of all of them.
    """

    token_ids: list[int]
    start: int
    block_ids: list[int]
    want_logits: bool
    num_drafts: int = 0

    @property
    def is_decode(self) -> bool:
        """A single token, with drafts or without: its rows are computed one by one, each over the cached keys."""
        return len(self.token_ids) == 1 + self.num_drafts


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one sequence: rows ``rows`` of the batch, positions ``start .. end - 1``."""

    rows: slice
    start: int
    end: int
    blocks: Tensor


class Batch:
    """Index tensors of a step, all int64: ``token_ids``, ``positions`` and physical ``blocks`` per token ``[T]``.

    Rows ``0 .. num_decodes - 1`` are single tokens with padded tables ``decode_blocks [num_decodes, max blocks]``;
    ``segments`` are the rest. ``rows[i]`` are the rows of input i, ``order`` the inputs by their rows.
    """

    def __init__(self, inputs: list[StepInput], block_size: int) -> None:
        decodes = [i for i, item in enumerate(inputs) if item.is_decode]
        self.order = decodes + [i for i, item in enumerate(inputs) if not item.is_decode]
        self.block_size = block_size
        self.num_decodes = sum(len(inputs[i].token_ids) for i in decodes)
        self.segments: list[Segment] = []
        self.rows = [slice(0)] * len(inputs)
        token_ids: list[int] = []
        positions: list[Tensor] = []
        blocks: list[Tensor] = []
        for i in self.order:
            item = inputs[i]
            end = item.start + len(item.token_ids)
            span = torch.arange(item.start, end)
            table = torch.tensor(item.block_ids, dtype=torch.int64)
            self.rows[i] = slice(len(token_ids), len(token_ids) + len(item.token_ids))
            if not item.is_decode:
                self.segments.append(Segment(self.rows[i], item.start, end, table))
            token_ids.extend(item.token_ids)
            positions.append(span)
            blocks.append(table[span // block_size])
        self.token_ids = torch.tensor(token_ids, dtype=torch.int64)
        self.positions = torch.cat(positions)
        self.blocks = torch.cat(blocks)
        self.slots = self.blocks * block_size + self.positions % block_size
        self.decode_blocks = _padded([inputs[i].block_ids for i in decodes for _ in inputs[i].token_ids])
        wanted = [(rows.stop, item) for rows, item in zip(self.rows, inputs, strict=True) if item.want_logits]
        self.logit_rows = torch.tensor(
            [row for stop, item in wanted for row in range(stop - 1 - item.num_drafts, stop)], dtype=torch.int64
        )

    @property
    def decode_positions(self) -> Tensor:
        """Positions of the single-token rows."""
        return self.positions[: self.num_decodes]


def entry_slots(blocks: Tensor, entries: Tensor, ratio: int, block_size: int) -> Tensor:
    """Slots of compressed entries (ratio 1: of positions) in a cache with ``block_size // ratio`` slots a block.

    ``blocks`` is one table ``[n]`` for ``entries [N]``, or padded tables ``[B, n]`` for ``entries [B, N]``. Negative
    entries give the slot of entry 0: mask them.
    """
    per_block = block_size // ratio
    entries = entries.clamp_min(0)
    physical = blocks[entries // per_block] if blocks.dim() == 1 else blocks.gather(1, entries // per_block)
    return physical * per_block + entries % per_block


def _padded(tables: list[list[int]]) -> Tensor:
    width = max((len(t) for t in tables), default=0)
    return torch.tensor([t + [0] * (width - len(t)) for t in tables], dtype=torch.int64).view(len(tables), width)
