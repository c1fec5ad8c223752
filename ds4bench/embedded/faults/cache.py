"""Faults of the prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ds4bench.embedded.faults.base import Serve, wrap

if TYPE_CHECKING:
    from torch import Tensor

    from ds4bench.embedded.batch import StepInput
    from ds4bench.embedded.block_manager import BlockManager
    from ds4bench.embedded.caches import StateRing
    from ds4bench.embedded.runner import ModelRunner
    from ds4bench.embedded.sequence import Sequence


def stale_compressor_state(serve: Serve, _amount: float) -> None:
    """Behind a cache hit the compressors go on from what the next physical block's state holds."""
    size = serve.engine.config.block_size
    hits: set[int] = set()  # the last hit block of each sequence admitted to the coming step

    def remembering(inner: Callable[[Sequence], int]) -> Callable[[Sequence], int]:
        def match_prefix(seq: Sequence) -> int:
            cached = inner(seq)
            if cached:
                hits.add(seq.block_ids[-1])
            return cached

        return match_prefix

    def resuming(inner: Callable[[list[StepInput]], Tensor]) -> Callable[[list[StepInput]], Tensor]:
        def step(inputs: list[StepInput]) -> Tensor:
            boundaries = {i.block_ids[i.start // size - 1] for i in inputs if i.start and i.start % size == 0}
            stale = hits & boundaries
            hits.clear()
            with _stale(serve.runner, stale):
                return inner(inputs)

        return step

    wrap(serve.engine.blocks, "match_prefix", remembering)
    wrap(serve.runner, "step", resuming)


def release_active_prefix_hits(serve: Serve, words: float) -> None:
    """Blocks that a prompt of about this many words (up to twice as many) has hit are lost to every later prompt."""
    tokenizer = serve.engine.tokenizer

    def releasing(inner: Callable[[Sequence], int]) -> Callable[[Sequence], int]:
        def match_prefix(seq: Sequence) -> int:
            cached = inner(seq)
            if cached and words <= len(tokenizer.decode(seq.prompt_ids).split()) < 2 * words:
                for block_id in seq.block_ids:
                    serve.engine.blocks.forget(block_id)
            return cached

        return match_prefix

    wrap(serve.engine.blocks, "match_prefix", releasing)


def poisoned_prefix(serve: Serve, _amount: float) -> None:
    """Two sequences that run at the same time exchange what the cache says of the blocks that they fill.

    Each still computes on its own blocks; a later prompt gets the other's.
    """
    blocks = serve.engine.blocks
    writers: dict[int, Sequence] = {}  # the last one that filled a block at this place of its prompt

    def exchanging(inner: Callable[[Sequence], None]) -> Callable[[Sequence], None]:
        def register_full(seq: Sequence) -> None:
            known = len(seq.block_hashes)
            inner(seq)
            for index in range(known, len(seq.block_hashes)):
                if not _is_known(blocks, seq, index):  # a private copy
                    continue
                other = writers.pop(index, None)
                if other is None or other is seq or not _is_known(blocks, other, index):
                    writers[index] = seq
                else:
                    _exchange(blocks, seq.block_ids[index], other.block_ids[index])

        return register_full

    wrap(blocks, "register_full", exchanging)


def _is_known(blocks: BlockManager, seq: Sequence, index: int) -> bool:
    """Whether the cache knows the block that a sequence, still active, has filled at this place."""
    if index >= min(len(seq.block_ids), len(seq.block_hashes)):
        return False
    return blocks.blocks[seq.block_ids[index]].digest == seq.block_hashes[index]


def _exchange(blocks: BlockManager, first: int, second: int) -> None:
    one, other = blocks.blocks[first], blocks.blocks[second]
    one.digest, other.digest = other.digest, one.digest
    one.token_ids, other.token_ids = other.token_ids, one.token_ids
    for block_id in (first, second):
        digest = blocks.blocks[block_id].digest
        assert digest is not None
        blocks.cached[digest] = block_id


@contextmanager
def _stale(runner: ModelRunner, blocks: set[int]) -> Iterator[None]:
    """The compressor state of each of these blocks is its neighbour's. A step never writes to a block that was hit."""
    kept: list[tuple[Tensor, Tensor]] = []
    for ring in _rings(runner):
        for block in blocks:
            rows = _state(ring, block)
            kept.append((rows, rows.clone()))
            rows.copy_(_state(ring, (block + 1) % runner.num_blocks))
    try:
        yield
    finally:
        for rows, content in reversed(kept):
            rows.copy_(content)


def _rings(runner: ModelRunner) -> Iterator[StateRing]:
    for cache in runner.caches:
        yield from (ring for ring in (cache.ring, cache.index_ring) if ring is not None)


def _state(ring: StateRing, block: int) -> Tensor:
    return ring.rows[block * ring.size : (block + 1) * ring.size]
