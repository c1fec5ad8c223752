"""The paged state of one layer: KV slots in the real byte layouts and the compressor's rings.

One block id stands for ``block_size`` positions in every cache, so a block that two sequences share carries everything
that the next token needs: keys, compressed entries, and the compressor's last tokens before the block's end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from ds4_kernels import layouts
from ds4_kernels.reference import compressor
from torch import Tensor

from ds4bench.embedded.config import C4A, EngineConfig, ModelConfig


class _SlotCache(ABC):
    """Rows of ``WIDTH`` in slots of ``LAYOUT``, packed by ``_pack``, or as plain floats when quantisation is off."""

    LAYOUT: ClassVar[layouts.PlanarLayout]
    WIDTH: ClassVar[int]

    def __init__(
        self, num_blocks: int, slots_per_block: int, *, quantize: bool, dtype: torch.dtype, device: str
    ) -> None:
        self.slots_per_block = slots_per_block
        self._dtype = dtype
        self._quantize = quantize
        if quantize:
            self.data = self.LAYOUT.allocate(num_blocks, slots_per_block, device)
        else:
            self.data = torch.zeros(num_blocks * slots_per_block, self.WIDTH, dtype=dtype, device=device)

    def write(self, slots: Tensor, keys: Tensor) -> None:
        """Store keys ``[N, WIDTH]`` at slots ``[N]``."""
        if self._quantize:
            self.LAYOUT.write(self.data, self.slots_per_block, slots, *self._pack(keys))
        else:
            self.data.index_copy_(0, slots, keys)

    @abstractmethod
    def _pack(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(data, scales) of keys, as ``LAYOUT`` writes them."""


class KeyCache(_SlotCache):
    """Attention keys ``[slots, 512]`` in ``fp8_ds_mla`` slots, or as plain floats when quantisation is off."""

    LAYOUT, WIDTH = layouts.FP8_DS_MLA, layouts.HEAD_DIM

    def read(self, slots: Tensor) -> Tensor:
        """Keys ``[N, 512]`` at slots ``[N]``."""
        if not self._quantize:
            return self.data.index_select(0, slots)
        return layouts.unpack_fp8_ds_mla(*self.LAYOUT.read(self.data, self.slots_per_block, slots), self._dtype)

    def _pack(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        return layouts.pack_fp8_ds_mla(keys)


class IndexCache(_SlotCache):
    """Indexer keys ``[slots, 128]`` in ``indexer_fp8`` slots, or as plain floats when quantisation is off."""

    LAYOUT, WIDTH = layouts.INDEXER_FP8, layouts.INDEX_DIM

    def read(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """(values ``[N, 128]``, scales ``[N]``) at slots ``[N]``: the operands of the MQA logits."""
        if not self._quantize:
            keys = self.data.index_select(0, slots)
            return keys, torch.ones(keys.shape[0], dtype=keys.dtype)
        return layouts.unpack_indexer_fp8(*self.LAYOUT.read(self.data, self.slots_per_block, slots), self._dtype)

    def _pack(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        return layouts.pack_indexer_fp8(keys)


class StateRing:
    """The compressor's last ``size`` tokens of every block: ``[kv | score]`` rows in FP32 (or FP64).

    Position p of a block lives in row ``p % size``. When a block is full its ring holds the tokens before its end:
    what a sequence that starts behind a cached block needs.
    """

    def __init__(self, num_blocks: int, size: int, ratio: int, head_dim: int, dtype: torch.dtype, device: str) -> None:
        self.ratio = ratio
        self.size = size
        self.width = compressor.overlap(ratio) * head_dim
        self.rows = torch.zeros(num_blocks * self.size, 2 * self.width, dtype=dtype, device=device)

    def write(self, blocks: Tensor, positions: Tensor, kv: Tensor, score: Tensor) -> None:
        """Store tokens ``[N, width]`` at positions ``[N]`` of physical blocks ``[N]``."""
        self.rows.index_copy_(0, blocks * self.size + positions % self.size, torch.cat((kv, score), dim=-1))

    def read(self, blocks: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(kv, score) ``[N, width]`` of positions ``[N]``; a negative position gives kv 0 and score -inf."""
        rows = self.rows.index_select(0, blocks * self.size + positions.clamp_min(0) % self.size)
        kv, score = rows[:, : self.width], rows[:, self.width :]
        absent = (positions < 0).unsqueeze(-1)
        return kv.masked_fill(absent, 0.0), score.masked_fill(absent, -torch.inf)


def ring_size(ratio: int, block_size: int, num_drafts: int) -> int:
    """Rows of a ring: whole windows of one entry, as many as divide the block and leave room for a step's drafts.

    A draft at position p overwrites the row of ``p - size``. If it is rejected, the token decoded in its place may still
    need the ``overlap * ratio - 1`` tokens before it, so none of those may share a row with a draft. In a ring as long as
    the block every position has a row of its own.
    """
    window = compressor.overlap(ratio) * ratio
    sizes = [n for n in range(window, block_size + 1, window) if block_size % n == 0]
    return next(n for n in sizes if n >= window + num_drafts or n == block_size)


class LayerCache:
    """Everything paged that one layer keeps."""

    def __init__(self, model: ModelConfig, engine: EngineConfig, ratio: int, dtype: torch.dtype) -> None:
        blocks, size, device = engine.num_blocks, engine.block_size, engine.device
        self.window = KeyCache(blocks, size, quantize=model.quantize, dtype=dtype, device=device)
        self.compressed: KeyCache | None = None
        self.ring: StateRing | None = None
        self.index: IndexCache | None = None
        self.index_ring: StateRing | None = None
        if ratio:
            self.compressed = KeyCache(blocks, size // ratio, quantize=model.quantize, dtype=dtype, device=device)
            rows = ring_size(ratio, size, engine.num_speculative_tokens)
            self.ring = StateRing(blocks, rows, ratio, model.head_dim, dtype, device)
        if ratio == C4A:
            self.index = IndexCache(blocks, size // ratio, quantize=model.quantize, dtype=dtype, device=device)
            self.index_ring = StateRing(blocks, rows, ratio, model.index_head_dim, dtype, device)
