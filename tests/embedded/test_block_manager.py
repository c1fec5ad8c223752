"""Blocks: shared only when full and equal, never lost, never handed out twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ds4bench.embedded.block_manager import BlockManager
from ds4bench.embedded.sequence import SamplingParams, Sequence

SIZE = 4
PARAMS = SamplingParams()


def manager(blocks: int = 8, *, caching: bool = True) -> BlockManager:
    return BlockManager(blocks, SIZE, enable_prefix_caching=caching)


def computed(blocks: BlockManager, seq: Sequence) -> Sequence:
    """Admit a sequence whole, as the scheduler does for a prompt within budget."""
    seq.num_computed = blocks.match_prefix(seq)
    assert blocks.grow(seq, seq.num_tokens)
    seq.num_computed = seq.num_tokens
    blocks.register_full(seq)
    return seq


def test_equal_prompts_share_full_blocks_and_leave_one_token_to_compute() -> None:
    blocks = manager()
    first = computed(blocks, Sequence(list(range(12)), PARAMS))
    second = Sequence(list(range(12)), PARAMS)
    assert blocks.match_prefix(second) == 8  # the third block is full, but the last token must be computed
    assert second.block_ids == first.block_ids[:2]


def test_a_prompt_that_differs_early_shares_nothing_after_the_difference() -> None:
    blocks = manager()
    computed(blocks, Sequence([1, 2, 3, 4, 5, 6, 7, 8, 9], PARAMS))
    other = Sequence([0, 2, 3, 4, 5, 6, 7, 8, 9], PARAMS)
    assert blocks.match_prefix(other) == 0


def test_a_cache_salt_separates_equal_prompts() -> None:
    blocks = manager()
    computed(blocks, Sequence(list(range(9)), PARAMS, cache_salt="a"))
    assert blocks.match_prefix(Sequence(list(range(9)), PARAMS, cache_salt="b")) == 0
    assert blocks.match_prefix(Sequence(list(range(9)), PARAMS, cache_salt="a")) == 8


def test_caching_can_be_switched_off() -> None:
    blocks = manager(caching=False)
    computed(blocks, Sequence(list(range(9)), PARAMS))
    assert blocks.match_prefix(Sequence(list(range(9)), PARAMS)) == 0


def test_freed_blocks_are_found_again_until_something_else_needs_them() -> None:
    blocks = manager(blocks=3)
    first = computed(blocks, Sequence(list(range(12)), PARAMS))
    blocks.release(first)
    again = Sequence(list(range(12)), PARAMS)
    assert blocks.match_prefix(again) == 8
    blocks.release(again)
    computed(blocks, Sequence([9] * 12, PARAMS))
    assert blocks.match_prefix(Sequence(list(range(12)), PARAMS)) == 0


def test_the_end_of_a_prompt_is_evicted_before_its_beginning() -> None:
    blocks = manager(blocks=3)
    blocks.release(computed(blocks, Sequence(list(range(12)), PARAMS)))
    computed(blocks, Sequence([9] * 3, PARAMS))
    assert blocks.match_prefix(Sequence(list(range(12)), PARAMS)) == 8


def test_growing_beyond_what_is_free_changes_nothing() -> None:
    blocks = manager(blocks=2)
    seq = Sequence([1], PARAMS)
    assert not blocks.grow(seq, 3 * SIZE)
    assert seq.block_ids == []
    assert len(blocks.free) == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 24)), max_size=60), st.booleans())
def test_no_sequence_of_operations_loses_or_doubles_a_block(ops: list[tuple[int, int, int]], caching: bool) -> None:
    blocks = manager(blocks=10, caching=caching)
    live: list[Sequence] = []
    for op, which, length in ops:
        if op <= 1:
            seq = Sequence([t % 3 for t in range(length)], PARAMS, cache_salt=str(which % 2))
            seq.num_computed = blocks.match_prefix(seq)
            if blocks.grow(seq, seq.num_tokens):
                seq.num_computed = seq.num_tokens
                blocks.register_full(seq)
                live.append(seq)
            else:
                blocks.release(seq)
        elif op == 2 and live:
            seq = live[which % len(live)]
            seq.output_ids.append(which)
            if blocks.grow(seq, seq.num_tokens):
                seq.num_computed = seq.num_tokens
                blocks.register_full(seq)
            else:
                seq.output_ids.pop()
        elif op == 3 and live:
            blocks.release(live.pop(which % len(live)))
        elif op == 4:
            blocks.reset_cache()
        check_conservation(blocks, live)
    for seq in live:
        blocks.release(seq)
    assert len(blocks.free) == 10


def check_conservation(blocks: BlockManager, live: list[Sequence]) -> None:
    used = [b for seq in live for b in seq.block_ids]
    for block_id, block in enumerate(blocks.blocks):
        assert block.ref_count == used.count(block_id)
        assert (block_id in blocks.free) == (block.ref_count == 0)
    for digest, block_id in blocks.cached.items():
        assert blocks.blocks[block_id].digest == digest
    for seq in live:
        assert len(set(seq.block_ids)) == len(seq.block_ids)
        assert len(seq.block_ids) * SIZE >= seq.num_tokens
