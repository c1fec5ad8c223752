"""Index builders: the reference against plain loops, the kernels in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels.cases import index_builders as cases
from ds4_kernels.cases.base import Inputs
from ds4_kernels.reference import index_builders
from hypothesis import given, settings
from hypothesis import strategies as st

CPU = torch.device("cpu")


def inputs_of(build, seed: int = 1) -> Inputs:  # type: ignore[no-untyped-def]
    return build(torch.Generator().manual_seed(seed), CPU)


def slot_of(table: list[list[int]], request: int, entry: int, block_size: int) -> int:
    if entry < 0 or not 0 <= request < len(table) or entry // block_size >= len(table[request]):
        return -1
    block = table[request][entry // block_size]
    return -1 if block < 0 else block * block_size + entry % block_size


def padded(row: list[int], width: int) -> list[int]:
    return row + [-1] * (width - len(row))


@pytest.mark.parametrize("tokens, width, block_size, buffer", [(6, 20, 4, 0), (5, 16, 64, 24)])
def test_topk_entries_become_slots(tokens: int, width: int, block_size: int, buffer: int) -> None:
    inputs = inputs_of(cases.topk_build(tokens, width, block_size, buffer))
    table = inputs["block_table"].tolist()
    slots, lens = index_builders.global_topk_slots(**inputs)
    for token in range(tokens):
        request = int(inputs["token_to_req"][token])
        valid = bool(inputs["is_valid"][token])
        entries = inputs["topk_indices"][token].tolist()
        row = [slot_of(table, request, entry, block_size) if valid else -1 for entry in entries]
        assert slots[token].tolist() == padded(row, buffer or width)
        assert int(lens[token]) == sum(slot >= 0 for slot in row)


def test_the_published_example_of_padding_and_missing_pages() -> None:
    """The vectors of vLLM's own test: a missing block, a negative entry, an entry beyond the table, a bad request."""
    entries = torch.tensor([[0, 63, 64, 128, -1, 512]] * 4, dtype=torch.int32)
    requests = torch.tensor([0, 1, 1, 3], dtype=torch.int32)
    table = torch.tensor([[2, -1], [0, 1]], dtype=torch.int32)
    valid = torch.tensor([True, True, False, True])
    slots, lens = index_builders.global_topk_slots(entries, requests, table, 64, valid)
    assert slots.tolist() == [[128, 191, -1, -1, -1, -1], [0, 63, 64, -1, -1, -1], [-1] * 6, [-1] * 6]
    assert lens.tolist() == [2, 3, 0, 0]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), min_size=1, max_size=4),
    st.sampled_from([(4, 8), (16, 3), (1, 0), (0, 0)]),
    st.integers(1, 9),
)
@settings(max_examples=40, deadline=None)
def test_combined_rows_list_the_topk_then_the_window(
    requests: list[tuple[int, int]], compression: tuple[int, int], window: int
) -> None:
    ratio, topk = compression
    queries, prefix = [q for q, _ in requests], [p for _, p in requests]
    if sum(queries) == 0:
        return
    inputs = inputs_of(cases.combine_build(queries, prefix, ratio, topk))
    inputs["window"] = window
    inputs["gather_lens"] = torch.tensor([q + min(p, window - 1) for q, p in requests], dtype=torch.int32)
    indices, lens = index_builders.combine_topk_swa(**inputs)
    m, n_row, token = inputs["workspace_rows"], inputs["swa_row"], 0
    for request, (count, before) in enumerate(requests):
        seq_len = before + count
        first_gathered = seq_len - int(inputs["gather_lens"][request])
        for position in range(before, seq_len):
            n = min((position + 1) // ratio, topk) if topk else 0
            row = [int(inputs["topk_indices"][token, j]) + m * request for j in range(n)]
            row += [
                m * request + n_row + p - first_gathered for p in range(max(0, position - window + 1), position + 1)
            ]
            assert indices[token].tolist() == padded(row, -(-(topk + window) // 128) * 128)
            assert int(lens[token]) == len(row)
            token += 1
    assert indices[token:].tolist() == [[-1] * indices.shape[1]] * 4
    assert lens[token:].tolist() == [0] * 4


@pytest.mark.parametrize("decode, prefill, width, max_width", [(4, 3, 256, 128), (0, 2, 128, 128), (3, 0, 384, 256)])
def test_c128a_rows_list_every_visible_entry(decode: int, prefill: int, width: int, max_width: int) -> None:
    inputs = inputs_of(cases.c128a_build(decode, prefill, width, max_width))
    table = inputs["block_table"].tolist()
    slots, lens, local = index_builders.c128a_metadata(**inputs)
    assert slots.stride() == inputs["decode_slots"].stride()
    assert (slots.shape[0], local.shape[0], slots.shape[1]) == (decode, prefill, width)
    assert decode == 0 or slots.data_ptr() == inputs["decode_slots"].data_ptr()
    for token in range(decode + prefill):
        n = min((int(inputs["positions"][token]) + 1) // 128, max_width)
        if token < decode:
            n = n if int(inputs["slot_mapping"][token]) >= 0 else 0
            request = int(inputs["token_to_req"][token])
            assert slots[token].tolist() == padded([slot_of(table, request, j, 2) for j in range(n)], width)
            assert int(lens[token]) == n
        else:
            assert local[token - decode].tolist() == padded(list(range(n)), width)
    assert bool((inputs["decode_slots"][decode:] == 77).all())
    assert bool((inputs["decode_lens"][decode:] == 77).all())
    assert bool((inputs["prefill_indices"][prefill:] == 77).all())


@pytest.mark.parametrize("window, buffer", [(128, 0), (7, 20)])
def test_decode_windows_are_slots_from_the_oldest(window: int, buffer: int) -> None:
    inputs = inputs_of(cases.swa_build(9, 4, window, buffer))
    table = inputs["block_table"].tolist()
    slots, lens = index_builders.decode_swa_slots(**inputs)
    for token in range(9):
        position, request = int(inputs["positions"][token]), int(inputs["token_to_req"][token])
        seen = range(max(0, position - window + 1), position + 1) if inputs["is_valid"][token] else range(0)
        assert slots[token].tolist() == padded([slot_of(table, request, p, 4) for p in seen], buffer or window)
        assert int(lens[token]) == len(seen)


def test_wrong_buffers_are_refused() -> None:
    inputs = inputs_of(cases.c128a_build(2, 2, 256, 256))
    for change in ({"max_width": 384}, {"max_width": 100}, {"num_decode_tokens": 5}, {"decode_lens": torch.zeros(9)}):
        with pytest.raises(ValueError):
            index_builders.c128a_metadata(**{**inputs, **change})
    inputs = inputs_of(cases.topk_build(3, 8, 4, 8))
    narrow = (torch.zeros(3, 7, dtype=torch.int32), torch.zeros(3, dtype=torch.int32))
    for change in ({"out": narrow}, {"topk_indices": inputs["topk_indices"].long()}, {"is_valid": torch.ones(3)}):
        with pytest.raises(ValueError):
            index_builders.global_topk_slots(**{**inputs, **change})
    inputs = inputs_of(cases.combine_build([2], [3], 4, 8))
    for change in ({"topk": 9}, {"query_start_loc": torch.zeros(1, dtype=torch.int32)}):
        with pytest.raises(ValueError):
            index_builders.combine_topk_swa(**{**inputs, **change})
    inputs = inputs_of(cases.swa_build(3, 4, 8, 0))
    with pytest.raises(ValueError):
        index_builders.decode_swa_slots(**{**inputs, "window": 0})
