"""Drafts on the ops: verified rows are single tokens, rejected ones leave no trace, and the MTP block is the fused one's."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ds4bench.embedded.batch import Batch, StepInput
from ds4bench.embedded.caches import IndexCache, KeyCache, LayerCache, StateRing, ring_size
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.device.attention import Compressor
from ds4bench.embedded.device.mtp import DeviceMtpBlock
from ds4bench.embedded.device.plan import StepPlan
from ds4bench.embedded.device.weights import StoredWeights
from ds4bench.embedded.model import rope_tables
from ds4bench.embedded.mtp import MtpBlock
from ds4bench.embedded.runner import ModelRunner
from ds4bench.embedded.weights import Checkpoint, random_checkpoint

DEPTH = 3
CPU = torch.device("cpu")
MODEL = ModelConfig(
    name="test", vocab_size=128, dim=128, num_heads=4, compress_ratios=(0, 4, 128), num_hash_layers=3, num_experts=4,
    index_heads=4, index_topk=16, max_position=1024,
)  # fmt: skip


@pytest.mark.parametrize("block_size", [128, 256, 384])
@pytest.mark.parametrize("ratio", [4, 128])
def test_a_ring_divides_its_block_and_no_draft_takes_a_row_that_is_needed(ratio: int, block_size: int) -> None:
    window = 8 if ratio == 4 else 128
    assert ring_size(ratio, block_size, 0) == window
    for depth in (1, 2, 3):
        size = ring_size(ratio, block_size, depth)
        assert block_size % size == size % window == 0
        for position in range(window, 3 * block_size):  # the first draft, rejected
            needed = {(p // block_size, p % size) for p in range(position - window + 1, position)}
            drafts = {(p // block_size, p % size) for p in range(position, position + depth)}
            assert not needed & drafts


@pytest.mark.parametrize("kind", ["c4a", "c128a", "indexer"])
@pytest.mark.parametrize("block_size", [128, 256])
def test_rejected_drafts_leave_the_entries_of_one_shot_prefill(kind: str, block_size: int) -> None:
    """Bytes of the entries; drafts have other values than the tokens that come in their place."""
    length, ratio = 2 * block_size + 40, 128 if kind == "c128a" else 4
    engine = EngineConfig(block_size=block_size, num_blocks=8, backend="ops", num_speculative_tokens=DEPTH)
    prefix = f"layers.{2 if ratio == 128 else 1}.attn." + ("indexer.compressor" if kind == "indexer" else "compressor")
    rope = rope_tables(MODEL, torch.float32)[1]
    weights = StoredWeights(random_checkpoint(MODEL, 3), CPU)
    compressor = Compressor(MODEL, weights, prefix, ratio, rope, "indexer" if kind == "indexer" else "mla")

    def run(prompt: int, drafts_at: list[int]) -> Tensor:
        """A segment of ``prompt`` tokens, then single tokens with drafts."""
        cache = LayerCache(MODEL, engine, ratio, torch.float32)
        ring, keys = _parts(cache, kind)
        tokens = torch.randn(length + DEPTH, 2 * ring.width, generator=torch.Generator().manual_seed(5))
        inputs = [StepInput([0] * prompt, 0, [0, 1, 2], False)]
        for position, drafts in enumerate(drafts_at, start=prompt):
            inputs.append(StepInput([0] * (1 + drafts), position, [0, 1, 2], False, drafts))
        for item in inputs:
            rows = tokens[item.start : item.start + len(item.token_ids)].clone()
            rows[len(rows) - item.num_drafts :] *= -1
            compressor(rows, StepPlan(Batch([item], block_size), MODEL, CPU, DEPTH), ring, keys)
        per_block = block_size // ratio
        return _entries(keys, kind, per_block)[: length // ratio]

    rng = random.Random(1)
    expected = run(length, [])
    assert torch.equal(run(100, [rng.randint(0, DEPTH) for _ in range(100, length)]), expected)
    assert len(expected.unique(dim=0)) == length // ratio


def _parts(cache: LayerCache, kind: str) -> tuple[StateRing, KeyCache | IndexCache]:
    ring, keys = (cache.index_ring, cache.index) if kind == "indexer" else (cache.ring, cache.compressed)
    assert ring is not None
    assert keys is not None
    return ring, keys


def _entries(keys: KeyCache | IndexCache, kind: str, per_block: int) -> Tensor:
    data = keys.data[:3].view(3, -1)
    width, scale_bytes = (128, 4) if kind == "indexer" else (576, 8)
    values = data[:, : per_block * width].reshape(-1, width)
    scales = data[:, per_block * width : per_block * (width + scale_bytes)].reshape(-1, scale_bytes)
    return torch.cat((values, scales), dim=1)


@pytest.fixture(scope="module")
def weights() -> Checkpoint:
    return random_checkpoint(MODEL, 1)


def runner_of(weights: Checkpoint, **engine: object) -> ModelRunner:
    config = EngineConfig(block_size=128, num_blocks=16, num_threads=1, num_speculative_tokens=DEPTH)
    return ModelRunner(MODEL, replace(config, **engine), weights)  # type: ignore[arg-type]


def cosine(one: Tensor, two: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one.double(), two.double(), dim=-1)


@pytest.mark.parametrize("length", [3, 120, 126, 254])
def test_verified_rows_have_the_logits_of_single_tokens(weights: Checkpoint, length: int) -> None:
    runner = runner_of(weights, backend="ops")
    blocks = list(range(-(-(length + 4) // 128)))
    prompt = [random.Random(length).randrange(2, 128) for _ in range(length)]
    runner.step([StepInput(prompt, 0, blocks, True)])
    verified = runner.step([StepInput([9, 11, 12, 13], length, blocks, True, num_drafts=3)])
    singles = [runner.step([StepInput([t], length + i, blocks, True)]) for i, t in enumerate([9, 11, 12, 13])]
    assert cosine(verified, torch.cat(singles)).min() > 0.99


@torch.inference_mode()
def test_the_mtp_block_agrees_with_the_fused_one_on_the_same_streams(weights: Checkpoint) -> None:
    """Prompts and single tokens. The ops round to BF16, which tips some FP8 values and now and then the router."""
    weights = {**weights, "embed.weight": weights["embed.weight"].bfloat16()}
    ops, fused = runner_of(weights, backend="ops"), runner_of(weights, dtype="float64")
    assert isinstance(ops.mtp, DeviceMtpBlock)
    assert isinstance(fused.mtp, MtpBlock)
    assert ops.mtp_cache is not None
    assert fused.mtp_cache is not None
    rng, generator = random.Random(2), torch.Generator().manual_seed(2)
    cosines = []
    for spans in ([(0, 140), (0, 9)], [(140, 141), (9, 12)], [(141, 143), (12, 13)]):
        inputs = [
            StepInput([rng.randrange(2, 128) for _ in range(end - start)], start, [4 * i, 4 * i + 1], True)
            for i, (start, end) in enumerate(spans)
        ]
        batch = Batch(inputs, 128)
        streams = torch.randn(len(batch.token_ids), 4, MODEL.dim, generator=generator).bfloat16()
        one = ops.mtp.streams(batch, streams, ops.mtp_cache)
        two = fused.mtp.streams(batch, streams.double(), fused.mtp_cache)
        cosines.append(cosine(one.flatten(1), two.flatten(1)))
        logits = ops.mtp.head(two.bfloat16()), fused.mtp.head(two)
        assert cosine(*logits).min() > 0.999
    every = torch.cat(cosines)
    assert float((every > 0.98).double().mean()) > 0.9
    assert float(every.median()) > 0.995


def test_speculation_without_an_mtp_block_is_refused(weights: Checkpoint) -> None:
    without = {name: value for name, value in weights.items() if not name.startswith("mtp.")}
    with pytest.raises(ValueError, match="no MTP block"):
        runner_of(without)
    with pytest.raises(ValueError, match="num_speculative_tokens 4 must be 0 to 3"):
        EngineConfig(num_speculative_tokens=4)
