"""The compressor's state on the ops: cached entries are the same bytes however a sequence is cut, batched or cached."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ds4bench.embedded.batch import Batch, StepInput
from ds4bench.embedded.caches import IndexCache, KeyCache, LayerCache, StateRing
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.device.attention import Compressor
from ds4bench.embedded.device.plan import StepPlan
from ds4bench.embedded.device.weights import StoredWeights
from ds4bench.embedded.model import rope_tables
from ds4bench.embedded.weights import random_checkpoint

BLOCK = 128
CPU = torch.device("cpu")
MODEL = ModelConfig(
    name="test", vocab_size=32, dim=128, compress_ratios=(4, 128), num_experts=4, index_heads=4, max_position=1024
)
ENGINE = EngineConfig(block_size=BLOCK, num_blocks=24, backend="ops")
LENGTH = 3 * BLOCK + 40
KINDS = ["c4a", "c128a", "indexer"]


class Stage:
    """One compressor with caches of its own, fed with the same projected tokens ``[LENGTH, kv | score]`` in any cut."""

    def __init__(self, kind: str) -> None:
        layer = 1 if kind == "c128a" else 0
        ratio = MODEL.compress_ratios[layer]
        prefix = f"layers.{layer}.attn." + ("indexer.compressor" if kind == "indexer" else "compressor")
        weights = StoredWeights(random_checkpoint(MODEL, 3), CPU)
        rope = rope_tables(MODEL, torch.float32)[1]
        self.compressor = Compressor(MODEL, weights, prefix, ratio, rope, "indexer" if kind == "indexer" else "mla")
        self.kind = kind
        self.ratio = ratio
        self.reset()
        generator = torch.Generator().manual_seed(5)
        self.tokens = torch.randn(LENGTH, 2 * self.ring.width, generator=generator)

    def reset(self) -> None:
        cache = LayerCache(MODEL, ENGINE, self.ratio, torch.float32)
        rings, keys = (cache.ring, cache.index_ring), (cache.compressed, cache.index)
        ring, key = rings[self.kind == "indexer"], keys[self.kind == "indexer"]
        assert ring is not None
        assert key is not None
        self.ring: StateRing = ring
        self.keys: KeyCache | IndexCache = key
        self.keys.data.fill_(0xFF)
        self.ring.rows.fill_(torch.nan)  # nothing may be read that was not written

    def step(self, spans: list[tuple[int, int]], blocks: list[list[int]]) -> None:
        """Positions ``start .. end - 1`` of each sequence; all sequences have the same tokens."""
        inputs = [
            StepInput([0] * (end - start), start, ids, False) for (start, end), ids in zip(spans, blocks, strict=True)
        ]
        batch = Batch(inputs, BLOCK)
        self.compressor(self.tokens[batch.positions], StepPlan(batch, MODEL, CPU), self.ring, self.keys)

    def entries(self, blocks: list[int], length: int) -> Tensor:
        """Bytes of the blocks' entries that ``length`` tokens complete."""
        per_block = BLOCK // self.ratio
        data = self.keys.data[blocks].view(len(blocks), -1)
        width = 128 if self.kind == "indexer" else 576
        scale_bytes = 4 if self.kind == "indexer" else 8
        values = data[:, : per_block * width].reshape(-1, width)
        scales = data[:, per_block * width : per_block * (width + scale_bytes)].reshape(-1, scale_bytes)
        return torch.cat((values, scales), dim=1)[: length // self.ratio]


@pytest.fixture(scope="module", params=KINDS)
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(request.param)


@pytest.fixture(scope="module")
def one_shot(stage: Stage) -> Tensor:
    stage.reset()
    stage.step([(0, LENGTH)], [[0, 1, 2, 3]])
    entries = stage.entries([0, 1, 2, 3], LENGTH).clone()
    assert entries.unique(dim=0).shape[0] == LENGTH // stage.ratio
    return entries


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, LENGTH - 1), max_size=8))
def test_chunks_store_the_entries_of_one_shot_prefill(stage: Stage, one_shot: Tensor, cuts: set[int]) -> None:
    stage.reset()
    ends = [*sorted(cuts), LENGTH]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        stage.step([(start, end)], [[5, 9, 2, 7]])
    assert torch.equal(stage.entries([5, 9, 2, 7], LENGTH), one_shot)


def test_single_tokens_store_the_entries_of_one_shot_prefill(stage: Stage, one_shot: Tensor) -> None:
    stage.reset()
    stage.step([(0, 122)], [[5, 9, 2, 7]])
    for position in range(122, LENGTH):
        stage.step([(position, position + 1)], [[5, 9, 2, 7]])
    assert torch.equal(stage.entries([5, 9, 2, 7], LENGTH), one_shot)


def test_sequences_in_one_batch_store_the_entries_of_each_alone(stage: Stage, one_shot: Tensor) -> None:
    """Sequences at different places, single tokens and segments mixed."""
    stage.reset()
    rng = random.Random(2)
    tables = [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3] for i in range(5)]
    done = [0] * 5
    while min(done) < LENGTH:
        active = [i for i in range(5) if done[i] < LENGTH]
        ends = [min(LENGTH, done[i] + rng.choice([1, 1, 2, 3, 7, 64, 129])) for i in active]
        stage.step([(done[i], end) for i, end in zip(active, ends, strict=True)], [tables[i] for i in active])
        for i, end in zip(active, ends, strict=True):
            done[i] = end
    for table in tables:
        assert torch.equal(stage.entries(table, LENGTH), one_shot)


@pytest.mark.parametrize("shared", [1, 2, 3])
@pytest.mark.parametrize("first", [1, 2, 5, 40])
def test_a_sequence_behind_shared_blocks_stores_the_entries_of_a_cold_one(
    stage: Stage, one_shot: Tensor, shared: int, first: int
) -> None:
    """The shared blocks are full and never written again; the next token may come alone or in a segment."""
    stage.reset()
    stage.step([(0, LENGTH)], [[0, 1, 2, 3]])
    before = stage.ring.rows[: shared * stage.ring.size].clone()
    blocks = [*range(shared), *range(10, 14 - shared)]
    stage.step([(shared * BLOCK, shared * BLOCK + first)], [blocks])
    if shared * BLOCK + first < LENGTH:
        stage.step([(shared * BLOCK + first, LENGTH)], [blocks])
    assert torch.equal(stage.entries(blocks, LENGTH), one_shot)
    assert torch.equal(stage.ring.rows[: shared * stage.ring.size], before)
