"""A decode step whose index tensors come from buffers of fixed shape: what a CUDA graph can replay.

The host gives three things a row: token, position and block table. All else is computed from them on the device, inside
the graph, at widths that hold the longest sequence. A row without blocks pads the batch: it writes nothing, sees nothing,
and no other row can tell that it is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ds4bench.embedded.caches import ring_size
from ds4bench.embedded.config import C4A, C128A, ModelConfig
from ds4bench.embedded.device.plan import DecodeRows, PrefillGroup, every_entry
from ds4bench.embedded.device.state import Scratch, StateRows

_TOKEN, _POSITION, _TABLE = 0, 1, 2
"""Columns of the packed rows."""


@dataclass(frozen=True)
class DecodeRow:
    """A token at a position of a sequence, whose ``blocks`` cover it."""

    token: int
    position: int
    blocks: list[int]


@dataclass(frozen=True)
class DecodeShape:
    """What is fixed for an engine: positions a block, and the longest sequence that a buffer holds."""

    block_size: int
    max_len: int
    num_drafts: int = 0

    @property
    def max_blocks(self) -> int:
        """Blocks of the longest sequence."""
        return -(-self.max_len // self.block_size)


class PackedRows:
    """The rows of a step as one int32 buffer ``[rows, 2 + blocks]`` on the device, filled in one copy."""

    def __init__(self, num_rows: int, shape: DecodeShape, device: torch.device) -> None:
        self.data = torch.empty(num_rows, _TABLE + shape.max_blocks, dtype=torch.int32, device=device)
        self.fill([])

    @property
    def num_rows(self) -> int:
        """Rows of the buffer."""
        return int(self.data.shape[0])

    @property
    def token_ids(self) -> Tensor:
        """int64 ``[rows]``, 0 for padding."""
        return self.data[:, _TOKEN].long()

    @property
    def positions(self) -> Tensor:
        """int64 ``[rows]``, 0 for padding."""
        return self.data[:, _POSITION].long()

    @property
    def block_table(self) -> Tensor:
        """int32 ``[rows, blocks]``, -1 behind a row's last block."""
        return self.data[:, _TABLE:]

    def fill(self, rows: list[DecodeRow]) -> None:
        """Overwrite the buffer; rows behind the given ones become padding.

        The copy reads a pinned block of its own, so the host may go on and fill again.
        """
        on_gpu = self.data.is_cuda
        host = torch.empty(self.data.shape, dtype=torch.int32, pin_memory=on_gpu)
        host[:, _TABLE:] = -1
        host[:, :_TABLE] = 0
        values = host.numpy()
        for index, row in enumerate(rows):
            values[index, _TOKEN], values[index, _POSITION] = row.token, row.position
            values[index, _TABLE : _TABLE + len(row.blocks)] = row.blocks
        self.data.copy_(host, non_blocking=on_gpu)


@dataclass(frozen=True)
class DecodeState:
    """As ``state.StatePlan``, for single tokens alone."""

    decode: StateRows
    entry_slots: Tensor
    scratch: Scratch | None = None


class DecodePlan:
    """``plan.StepPlan`` of single tokens, computed on the device from packed rows with no look at their values.

    ``masked_fill`` and not ``where``: the latter copies a scalar to the device, which a capture refuses.
    """

    def __init__(self, rows: PackedRows, config: ModelConfig, shape: DecodeShape) -> None:
        size, count = shape.block_size, rows.num_rows
        self.block_size = size
        self.token_ids = rows.token_ids
        self.positions = rows.positions
        table = rows.block_table.contiguous()
        block = table.gather(1, (self.positions // size).unsqueeze(1)).squeeze(1).long()
        is_valid = table[:, 0] >= 0
        self.slots = (block * size + self.positions % size).masked_fill(~is_valid, -1)
        requests = torch.arange(count, dtype=torch.int32, device=table.device)
        self.states = {
            ratio: self._state(ratio, ring_size(ratio, size, shape.num_drafts), block, table, requests)
            for ratio in (C4A, C128A)
            if ratio in config.compress_ratios
        }
        every = None
        if C128A in config.compress_ratios and shape.max_len >= C128A:
            lists = every_entry(
                shape.max_len // C128A, count, self.positions, self.slots, requests, table, size
            )  # fmt: skip
            every = lists[0], lists[1]
        max_indexed = shape.max_len // C4A if C4A in config.compress_ratios else 0
        self.decode = DecodeRows(
            self.positions, requests, table, is_valid, size, max_indexed, every, config.window
        )  # fmt: skip
        self.groups: list[PrefillGroup] = []

    def _state(self, ratio: int, size: int, block: Tensor, table: Tensor, requests: Tensor) -> DecodeState:
        """``size`` is the ring's; see ``state.StatePlan``, whose numbers these are."""
        padding = self.slots < 0
        entry_slots = (self.slots // ratio).masked_fill(padding | ((self.positions + 1) % ratio != 0), -1)
        slots = (block * size + self.positions % size).masked_fill(padding, -1)
        repeated = table.unsqueeze(2).expand(-1, -1, self.block_size // size).flatten(1)
        return DecodeState(StateRows(slice(0, len(requests)), slots, repeated, requests), entry_slots)
