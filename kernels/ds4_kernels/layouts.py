"""Byte layouts of the KV caches. Nothing else in the project knows the numbers 584, 132 and 68.

A block of ``block_size`` slots is *planar*: first the data bytes of all slots, then the scale bytes of all slots.
A cache is ``uint8 [num_blocks, block_stride]``. The stride is a whole number of data rows, so a slot's data is one
row of a flat ``[-1, data_bytes]`` view and reads and writes are plain row copies.

* ``fp8_ds_mla``, 584 bytes a token: 448 e4m3 (no-rope dimensions), 64 bfloat16 (rope); scales: 7 E8M0 bytes, one per
  64 dimensions, and one pad byte that is written 0.
* ``indexer_fp8``, 132 bytes: 128 e4m3; scale: one float32, a power of two.
* ``indexer_mxfp4``, 68 bytes: 64 bytes of packed E2M1; scales: 4 E8M0 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ds4_kernels.reference import quant

NOPE_DIM = 448
ROPE_DIM = 64
HEAD_DIM = NOPE_DIM + ROPE_DIM
INDEX_DIM = 128
MLA_GROUP = 64
_MLA_SCALES = NOPE_DIM // MLA_GROUP


@dataclass(frozen=True)
class PlanarLayout:
    """Bytes of one slot: ``data_bytes`` in the data plane, ``scale_bytes`` in the scale plane of its block."""

    name: str
    data_bytes: int
    scale_bytes: int

    @property
    def slot_bytes(self) -> int:
        """Bytes that a token occupies, both planes."""
        return self.data_bytes + self.scale_bytes

    def block_stride(self, block_size: int) -> int:
        """Bytes from one block to the next: both planes, rounded up to whole data rows."""
        rows = -(-block_size * self.slot_bytes // self.data_bytes)
        return rows * self.data_bytes

    def allocate(self, num_blocks: int, block_size: int, device: str = "cpu") -> Tensor:
        """A zeroed cache, uint8 ``[num_blocks, block_stride]``."""
        return torch.zeros(num_blocks, self.block_stride(block_size), dtype=torch.uint8, device=device)

    def write(self, cache: Tensor, block_size: int, slots: Tensor, data: Tensor, scales: Tensor) -> None:
        """Store uint8 rows, data ``[N, data_bytes]`` and scales ``[N, scale_bytes]``, at int64 slots ``[N]`` >= 0."""
        block, offset = slots // block_size, slots % block_size
        self._data_rows(cache).index_copy_(0, self._data_index(cache, block, offset), data)
        self._scale_rows(cache).index_copy_(0, self._scale_index(cache, block_size, block, offset), scales)

    def read(self, cache: Tensor, block_size: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``write``: (data uint8 ``[N, data_bytes]``, scales uint8 ``[N, scale_bytes]``)."""
        block, offset = slots // block_size, slots % block_size
        data = self._data_rows(cache).index_select(0, self._data_index(cache, block, offset))
        scales = self._scale_rows(cache).index_select(0, self._scale_index(cache, block_size, block, offset))
        return data, scales

    def _data_rows(self, cache: Tensor) -> Tensor:
        return cache.view(-1, self.data_bytes)

    def _scale_rows(self, cache: Tensor) -> Tensor:
        return cache.view(-1, self.scale_bytes)

    def _data_index(self, cache: Tensor, block: Tensor, offset: Tensor) -> Tensor:
        return block * (cache.shape[1] // self.data_bytes) + offset

    def _scale_index(self, cache: Tensor, block_size: int, block: Tensor, offset: Tensor) -> Tensor:
        plane = block_size * self.data_bytes // self.scale_bytes
        return block * (cache.shape[1] // self.scale_bytes) + plane + offset


FP8_DS_MLA = PlanarLayout("fp8_ds_mla", data_bytes=NOPE_DIM + 2 * ROPE_DIM, scale_bytes=_MLA_SCALES + 1)
INDEXER_FP8 = PlanarLayout("indexer_fp8", data_bytes=INDEX_DIM, scale_bytes=4)
INDEXER_MXFP4 = PlanarLayout("indexer_mxfp4", data_bytes=INDEX_DIM // 2, scale_bytes=4)


def pack_fp8_ds_mla(k: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise keys ``[N, 512]`` (float) to the planes of ``fp8_ds_mla``: uint8 ``[N, 576]`` and ``[N, 8]``."""
    q, scale = quant.fp8_quantize(k[:, :NOPE_DIM], MLA_GROUP)
    rope = k[:, NOPE_DIM:].to(torch.bfloat16).contiguous().view(torch.uint8)
    return torch.cat((q.view(torch.uint8), rope), dim=1), torch.nn.functional.pad(scale, (0, 1))


def unpack_fp8_ds_mla(data: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Dequantise ``fp8_ds_mla`` rows to ``[N, 512]``."""
    out = torch.empty(data.shape[0], HEAD_DIM, dtype=dtype, device=data.device)
    nope = quant.e4m3_to_float(data[:, :NOPE_DIM].view(torch.float8_e4m3fn), dtype).view(-1, _MLA_SCALES, MLA_GROUP)
    factor = quant.e8m0_value(scales[:, :_MLA_SCALES], dtype).unsqueeze(-1)
    torch.mul(nope, factor, out=out[:, :NOPE_DIM].view(-1, _MLA_SCALES, MLA_GROUP))
    out[:, NOPE_DIM:] = data[:, NOPE_DIM:].contiguous().view(torch.bfloat16)
    return out


def pack_indexer_fp8(k: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise indexer keys ``[N, 128]`` to uint8 ``[N, 128]`` and the bytes of one float32 scale ``[N, 4]``."""
    q, scale = quant.fp8_quantize(k, INDEX_DIM)
    return q.view(torch.uint8), quant.e8m0_value(scale).contiguous().view(torch.uint8)


def unpack_indexer_fp8(data: Tensor, scales: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Indexer rows as (e4m3 values widened to ``[N, 128]``, scale ``[N]``), the two operands of the MQA logits."""
    values = quant.e4m3_to_float(data.view(torch.float8_e4m3fn), dtype)
    return values, scales.contiguous().view(torch.float32).squeeze(-1).to(dtype)


def pack_indexer_mxfp4(k: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise indexer keys ``[N, 128]`` to packed E2M1 ``[N, 64]`` and E8M0 ``[N, 4]``."""
    return quant.mxfp4_quantize(k)


def unpack_indexer_mxfp4(data: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Dequantise ``indexer_mxfp4`` rows to ``[N, 128]``."""
    return quant.mxfp4_dequantize(data, scales, dtype)
