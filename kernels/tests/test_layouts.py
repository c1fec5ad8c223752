"""Byte layouts, checked byte by byte against the published arithmetic rather than against our own reader."""

from __future__ import annotations

import struct

import pytest
import torch
from ds4_kernels import layouts
from ds4_kernels.reference import quant
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("block_size", "stride"), [(2, 1728), (64, 37440), (128, 74880), (256, 149760)])
def test_fp8_ds_mla_strides_are_the_published_ones(block_size: int, stride: int) -> None:
    assert layouts.FP8_DS_MLA.slot_bytes == 584
    assert layouts.FP8_DS_MLA.block_stride(block_size) == stride


def test_indexer_slots_have_the_published_sizes() -> None:
    assert layouts.INDEXER_FP8.slot_bytes == 132
    assert layouts.INDEXER_MXFP4.slot_bytes == 68
    assert layouts.INDEXER_FP8.block_stride(64) == 64 * 132


def test_a_token_of_fp8_ds_mla_lies_where_the_format_says() -> None:
    block_size, slot = 64, 64 + 5  # block 1, offset 5
    key = torch.randn(1, 512, generator=torch.Generator().manual_seed(3)) * 4
    cache = layouts.FP8_DS_MLA.allocate(2, block_size)
    layouts.FP8_DS_MLA.write(cache, block_size, torch.tensor([slot]), *layouts.pack_fp8_ds_mla(key))
    raw = bytes(cache[1].tolist())
    groups = key[0, :448].view(7, 64)
    for group in range(7):
        byte = raw[block_size * 576 + 5 * 8 + group]
        scale = 2.0 ** (byte - 127)
        expected = (groups[group] / scale).to(torch.float8_e4m3fn).view(torch.uint8)
        assert list(raw[5 * 576 + group * 64 : 5 * 576 + (group + 1) * 64]) == expected.tolist()
    assert raw[block_size * 576 + 5 * 8 + 7] == 0
    rope = raw[5 * 576 + 448 : 6 * 576]
    assert struct.unpack("<64H", rope) == tuple(
        key[0, 448:].to(torch.bfloat16).view(torch.int16).long().remainder(2**16).tolist()
    )
    written = {*range(5 * 576, 6 * 576), *range(block_size * 576 + 40, block_size * 576 + 48)}
    assert all(raw[i] == 0 for i in range(len(raw)) if i not in written)
    assert not cache[0].any()


def test_a_token_of_the_indexer_cache_lies_where_the_format_says() -> None:
    block_size, offset = 64, 9
    key = torch.randn(1, 128, generator=torch.Generator().manual_seed(4))
    cache = layouts.INDEXER_FP8.allocate(1, block_size)
    layouts.INDEXER_FP8.write(cache, block_size, torch.tensor([offset]), *layouts.pack_indexer_fp8(key))
    raw = bytes(cache[0].tolist())
    (scale,) = struct.unpack("<f", raw[block_size * 128 + 4 * offset : block_size * 128 + 4 * offset + 4])
    assert scale == quant.pow2_ceil(key.abs().amax() / 448).item()
    expected = (key[0] / scale).to(torch.float8_e4m3fn).view(torch.uint8).tolist()
    assert list(raw[offset * 128 : (offset + 1) * 128]) == expected


@given(st.integers(0, 2**31), st.sampled_from([2, 64, 256]), st.integers(1, 40))
def test_what_is_written_at_any_slots_is_read_back(seed: int, block_size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    blocks = 24
    slots = torch.randperm(blocks * block_size, generator=generator)[:count]
    keys = torch.randn(len(slots), 512, generator=generator)
    cache = layouts.FP8_DS_MLA.allocate(blocks, block_size)
    data, scales = layouts.pack_fp8_ds_mla(keys)
    layouts.FP8_DS_MLA.write(cache, block_size, slots, data, scales)
    read_data, read_scales = layouts.FP8_DS_MLA.read(cache, block_size, slots)
    assert torch.equal(read_data, data)
    assert torch.equal(read_scales, scales)


def test_unpacking_gives_the_quantised_value_and_the_exact_rope_part() -> None:
    keys = torch.randn(10, 512, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    back = layouts.unpack_fp8_ds_mla(*layouts.pack_fp8_ds_mla(keys), torch.float64)
    assert torch.equal(back[:, :448], quant.fp8_simulate(keys[:, :448], 64))
    assert torch.equal(back[:, 448:], keys[:, 448:].to(torch.bfloat16).double())


def test_packing_what_was_unpacked_changes_no_byte() -> None:
    data, scales = layouts.pack_fp8_ds_mla(torch.randn(20, 512, generator=torch.Generator().manual_seed(6)))
    again, again_scales = layouts.pack_fp8_ds_mla(layouts.unpack_fp8_ds_mla(data, scales, torch.float32))
    assert torch.equal(
        layouts.unpack_fp8_ds_mla(again, again_scales, torch.float32),
        layouts.unpack_fp8_ds_mla(data, scales, torch.float32),
    )


def test_mxfp4_indexer_rows_round_trip() -> None:
    keys = torch.randn(6, 128, generator=torch.Generator().manual_seed(7))
    data, scales = layouts.pack_indexer_mxfp4(keys)
    assert data.shape == (6, 64)
    assert scales.shape == (6, 4)
    once = layouts.unpack_indexer_mxfp4(data, scales, torch.float32)
    assert torch.equal(layouts.unpack_indexer_mxfp4(*layouts.pack_indexer_mxfp4(once), torch.float32), once)
