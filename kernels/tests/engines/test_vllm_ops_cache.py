"""Adapters of the cache gather and of the index builders, in vLLM's shapes, against plain loops."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.vllm_ops import cache
from torch import Tensor

pytestmark = pytest.mark.usefixtures("each_backend")

BLOCK = 4


def unused(*args: object, **kwargs: object) -> object:
    raise AssertionError("the engine's op must not run")


def engine_cache(blocks: int) -> tuple[Tensor, Tensor]:
    """(uint8 view ``[blocks, 4, 584]`` with padded blocks, its entries FP64 ``[blocks * 4, 512]``)."""
    generator = torch.Generator().manual_seed(41)
    stride = -(-BLOCK * 584 // 576) * 576
    storage = torch.full((blocks, stride), 0x7F, dtype=torch.uint8)
    nope = torch.randn(blocks, BLOCK, 448, generator=generator).to(torch.float8_e4m3fn)
    rope = torch.randn(blocks, BLOCK, 64, generator=generator).bfloat16()
    exponents = torch.randint(120, 130, (blocks, BLOCK, 7), generator=generator, dtype=torch.uint8)
    for b in range(blocks):
        for slot in range(BLOCK):
            row = storage[b, slot * 576 : (slot + 1) * 576]
            row[:448], row[448:] = nope[b, slot].view(torch.uint8), rope[b, slot].view(torch.uint8)
            at = BLOCK * 576 + slot * 8
            storage[b, at : at + 7] = exponents[b, slot]
    factor = torch.exp2(exponents.double() - 127).repeat_interleave(64, -1)
    entries = torch.cat((nope.double() * factor, rope.double()), dim=-1)
    return storage.as_strided((blocks, BLOCK, 584), (stride, 584, 1)), entries.view(-1, 512)


@pytest.mark.parametrize("whole", [True, False], ids=["compressed entries", "window"])
def test_gather_reads_padded_planar_blocks(whole: bool) -> None:
    view, entries = engine_cache(6)
    table = torch.tensor([[5, 2, 0], [1, 3, 0]], dtype=torch.int32)
    seq_lens = torch.tensor([7, 3], dtype=torch.int32)
    lens = None if whole else torch.tensor([4, 2], dtype=torch.int32)
    out = torch.full((2, 12, 512), torch.nan, dtype=torch.bfloat16)
    assert cache.gather(unused)(out, view, seq_lens, lens, table, block_size=BLOCK, offset=3) is None
    for r in range(2):
        count = int(seq_lens[r]) if lens is None else int(lens[r])
        for i in range(count):
            position = int(seq_lens[r]) - count + i
            slot = int(table[r, position // BLOCK]) * BLOCK + position % BLOCK
            assert torch.equal(out[r, 3 + i].double(), entries[slot].bfloat16().double())
        assert bool(out[r, :3].isnan().all()) and bool(out[r, 3 + count :].isnan().all())


def test_what_the_gather_leaves_to_the_engine() -> None:
    view, _ = engine_cache(2)
    lens, table = torch.tensor([1], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    out = torch.zeros(1, 2, 512, dtype=torch.bfloat16)
    call = cache.gather(unused)
    assert isinstance(call(out, view, lens, None, table, BLOCK, 0, use_fnuz=True), Declined)
    assert isinstance(call(out, view[:, :, :576], lens, None, table, BLOCK, 0), Declined)
    assert isinstance(call(out.float(), view, lens, None, table, BLOCK, 0), Declined)


def test_global_slots_of_the_engines_longer_token_arrays() -> None:
    local = torch.tensor([[0, 5, -1], [9, 2, 1], [3, 3, -1]], dtype=torch.int32)
    token_to_req = torch.tensor([0, 1, 1, 0, 0], dtype=torch.int32)  # the engine's covers the whole batch
    table = torch.tensor([[7, 4, 2], [1, 8, 6]], dtype=torch.int32)
    valid = torch.tensor([True, True, False])
    slots, lens = cache.global_topk(unused)(local, token_to_req, table, BLOCK, valid)
    for t in range(2):
        for i, entry in enumerate(local[t].tolist()):
            request = int(token_to_req[t])
            expected = -1 if entry < 0 else int(table[request, entry // BLOCK]) * BLOCK + entry % BLOCK
            assert int(slots[t, i]) == expected
    assert lens.tolist() == [2, 3, 0]
    kept, _ = cache._within_lens({}, (torch.tensor([[4, 9], [1, 2]]), torch.tensor([1, 0])))
    assert kept.tolist() == [[4, -1], [-1, -1]]
    assert isinstance(cache.global_topk(unused)(local, token_to_req, table, BLOCK, valid.int()), Declined)


def test_combined_rows_are_topk_then_window() -> None:
    window, ratio, topk, M, N = 4, 4, 3, 40, 20
    starts, seq_lens = torch.tensor([10, 12, 15], dtype=torch.int32), torch.tensor([2, 21], dtype=torch.int32)
    gather = torch.tensor([2, 6], dtype=torch.int32)  # query length + min(prefix, window - 1)
    topk_rows = torch.arange(15, dtype=torch.int32).view(5, 3)
    indices, lens = cache.combine(unused)(topk_rows, starts, seq_lens, gather, window, ratio, topk, M, N)
    assert indices.shape == (5, 128)
    token = 0
    for request, length in enumerate((2, 3)):
        for j in range(length):
            position = int(seq_lens[request]) - length + j
            chosen = [int(x) + M * request for x in topk_rows[token, : min((position + 1) // ratio, topk)]]
            first = int(seq_lens[request]) - int(gather[request])
            seen = range(max(position - window + 1, 0), position + 1)
            row = chosen + [M * request + N + p - first for p in seen]
            assert indices[token, : len(row)].tolist() == row and int(lens[token]) == len(row)
            assert bool((indices[token, len(row) :] == -1).all())
            token += 1
    call = cache.combine(unused)
    arguments = (topk_rows, starts, seq_lens, gather, window, ratio)
    assert isinstance(call(*arguments, topk, M, N, max_image_tokens=1), Declined)
    assert isinstance(call(*arguments, topk, M, N, out=(indices, lens)), Declined)
    assert isinstance(call(*arguments, 9, M, N), Declined)


@pytest.mark.parametrize("decodes", [2, 0])
def test_c128a_lists_in_the_engines_buffers(decodes: int) -> None:
    positions = torch.tensor([300, 127, 511, 0])
    token_to_req = torch.tensor([0, 1, 1, 1], dtype=torch.int32)
    table = torch.tensor([[5, 3], [4, 9]], dtype=torch.int32)[:decodes]
    mapping = torch.tensor([8, -1, 2, 3])
    buffers = [torch.full((4, 128), 99, dtype=torch.int32), torch.full((4,), 99, dtype=torch.int32)]
    buffers.append(torch.full((4, 128), 99, dtype=torch.int32))
    call = cache.c128a(unused)
    slots, lens, local = call(positions, 128, decodes, token_to_req, table, 2, mapping, *buffers, 128)
    assert slots.data_ptr() == buffers[0].data_ptr() or not decodes
    assert slots.shape == (decodes, 128) and local.shape == (4 - decodes, 128)
    if decodes:
        assert slots[0, :2].tolist() == [10, 11] and bool((slots[0, 2:] == -1).all())
        assert lens.tolist() == [2, 0]
    for row, position in zip(local, positions[decodes:].tolist(), strict=True):
        count = (position + 1) // 128
        assert row.tolist() == list(range(count)) + [-1] * (128 - count)
    compared = cache._c128a_lists({}, (slots, lens, local, *buffers))
    assert len(compared) == 6 and compared[0].shape == slots.shape
    assert isinstance(call(positions, 128, decodes, token_to_req, table, 2, mapping, *buffers, 100), Declined)
