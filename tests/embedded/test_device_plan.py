"""A step's index lists against the definition: which positions and entries each token may see, and where they lie."""

from __future__ import annotations

import pytest
import torch

from ds4bench.embedded.batch import Batch, StepInput
from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.device.plan import IndexList, StepPlan

BLOCK = 128
MODEL = ModelConfig(name="test", vocab_size=32, dim=128, compress_ratios=(0, 4, 128), index_topk=8, max_position=1024)
DECODES = [(0, [3]), (127, [4]), (130, [9, 5]), (383, [0, 1, 2])]  # position, blocks
SEGMENTS = [
    (0, 2, [10]), (0, 130, [11, 12]), (125, 131, [13, 14]), (255, 257, [15, 16, 17]), (383, 513, [6, 20, 8, 22, 7]),
    (3, 9, [23]),
]  # start, end, blocks  # fmt: skip
SPANS = [(p, p + 1, blocks) for p, blocks in DECODES] + SEGMENTS


@pytest.fixture(scope="module")
def plan() -> StepPlan:
    spans = [*SPANS[2:], *SPANS[:2]]  # in any order; the batch puts single tokens first, else keeps it
    inputs = [StepInput([1] * (end - start), start, blocks, True) for start, end, blocks in spans]
    return StepPlan(Batch(inputs, BLOCK), MODEL, torch.device("cpu"))


def ordered() -> list[tuple[int, int, list[int]]]:
    """The spans as the batch orders them."""
    spans = [*SPANS[2:], *SPANS[:2]]
    return sorted(spans, key=lambda span: span[1] - span[0] > 1)


def picked(lists: IndexList, row: int) -> list[int]:
    indices, lens = lists
    count = int(lens[row])
    assert (indices[row, count:] == -1).all()
    return indices[row, :count].tolist()


def slot(blocks: list[int], entry: int, ratio: int = 1) -> int:
    per_block = BLOCK // ratio
    return blocks[entry // per_block] * per_block + entry % per_block


def test_requests_have_their_own_blocks_and_nothing_behind_them(plan: StepPlan) -> None:
    width = plan.block_table.shape[1]
    expected = [blocks + [-1] * (width - len(blocks)) for _, _, blocks in ordered()]
    assert plan.block_table.tolist() == expected
    requests = [i for i, (start, end, _) in enumerate(ordered()) for _ in range(start, end)]
    assert plan.token_to_req.tolist() == requests


def test_single_tokens_see_the_slots_of_their_window_and_of_every_entry(plan: StepPlan) -> None:
    assert plan.decode is not None
    assert plan.decode.every is not None
    for row, (position, _, blocks) in enumerate(ordered()[: len(DECODES)]):
        window = [slot(blocks, p) for p in range(max(0, position - 127), position + 1)]
        entries = [slot(blocks, e, 128) for e in range((position + 1) // 128)]
        assert picked(plan.decode.window, row) == window
        assert picked(plan.decode.every, row) == entries
        assert int(plan.decode.indexed_lens[row, 0]) == (position + 1) // 4
    assert plan.decode.max_indexed == 96


def test_segments_see_the_workspace_rows_of_their_entries_and_window(plan: StepPlan) -> None:
    segments = ordered()[len(DECODES) :]
    assert [group.num_segments for group in plan.groups] == [4, 2]
    for number, group in enumerate(plan.groups):
        members = segments[4 * number : 4 * number + 4]
        for lists, ratio in ((group.window_only, 0), (group.every, 128)):
            assert lists is not None
            space = group.workspace(ratio)
            row = 0
            for request, (start, end, _) in enumerate(members):
                oldest = max(0, start - 127)
                assert space.entries + end - oldest <= space.rows
                for position in range(start, end):
                    entries = range((position + 1) // 128) if ratio else range(0)
                    window = range(max(0, position - 127), position + 1)
                    base = request * space.rows
                    expected = [base + e for e in entries] + [base + space.entries + p - oldest for p in window]
                    assert picked(lists, row) == expected
                    row += 1
            assert row == group.rows.stop - group.rows.start


def test_segments_score_the_index_keys_that_each_token_sees(plan: StepPlan) -> None:
    segments = ordered()[len(DECODES) :]
    for number, group in enumerate(plan.groups):
        members = segments[4 * number : 4 * number + 4]
        ranges = group.index
        assert ranges is not None
        counts = [end // 4 for _, end, _ in members]
        assert ranges.entry_lens.tolist() == counts
        assert ranges.starts.tolist() == [sum(counts[:i]) for i in range(len(counts) + 1)]
        assert (ranges.num_keys, ranges.max_keys) == (sum(counts), max(counts))
        seen = [(sum(counts[:i]), (p + 1) // 4) for i, (start, end, _) in enumerate(members) for p in range(start, end)]
        assert ranges.visible.tolist() == [visible for _, visible in seen]
        assert ranges.row_starts.tolist() == [first for first, _ in seen]
        assert ranges.row_ends.tolist() == [first + visible for first, visible in seen]


def test_a_token_that_ends_a_window_names_its_entrys_slot(plan: StepPlan) -> None:
    for ratio in (4, 128):
        expected = [
            slot(blocks, p // ratio, ratio) if (p + 1) % ratio == 0 else -1
            for start, end, blocks in ordered()
            for p in range(start, end)
        ]
        assert plan.states[ratio].entry_slots.tolist() == expected
