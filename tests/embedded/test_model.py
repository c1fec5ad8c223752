"""The model over paged caches: equal greedy tokens however a prompt is cut, batched or cached.

FP64 compute, because FP32 rounding depends on the batch shape and may flip an FP8 rounding; the caches are the real
FP8 bytes.
"""

from __future__ import annotations

import random

import pytest
import torch

from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.runner import ModelRunner, StepInput

BLOCK = 128
PROMPTS = 50
NEW_TOKENS = 4


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    model = ModelConfig(
        name="test", vocab_size=128, dim=128, num_heads=4, compress_ratios=(0, 4, 128), num_hash_layers=1,
        expert_dim=128, num_experts=4, index_heads=4, index_topk=16, max_position=2048,
    )  # fmt: skip
    engine = EngineConfig(block_size=BLOCK, num_blocks=64, dtype="float64", seed=5, num_threads=1)
    return ModelRunner(model, engine)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(7)
    edges = [1, 2, 3, 4, 5, 127, 128, 129, 255, 256, 257]
    lengths = edges + [rng.randint(1, 400) for _ in range(PROMPTS - len(edges))]
    return [[rng.randrange(2, 128) for _ in range(n)] for n in lengths]


@pytest.fixture(scope="module")
def expected(runner: ModelRunner, prompts: list[list[int]]) -> list[list[int]]:
    return [generate(runner, prompt, [len(prompt)], first_block=0) for prompt in prompts]


def generate(runner: ModelRunner, prompt: list[int], cuts: list[int], first_block: int) -> list[int]:
    """Greedy tokens after prefilling ``prompt`` in chunks that end at ``cuts``, alone, in consecutive blocks."""
    start = 0
    for end in cuts:
        logits = runner.step([StepInput(prompt[start:end], start, blocks_for(end, first_block), end == len(prompt))])
        start = end
    tokens = [int(logits.argmax())]
    while len(tokens) < NEW_TOKENS:
        position = len(prompt) + len(tokens) - 1
        logits = runner.step([StepInput(tokens[-1:], position, blocks_for(position + 1, first_block), True)])
        tokens.append(int(logits.argmax()))
    return tokens


def blocks_for(tokens: int, first_block: int) -> list[int]:
    return list(range(first_block, first_block + -(-tokens // BLOCK)))


def test_chunked_prefill_gives_the_tokens_of_one_shot_prefill(
    runner: ModelRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    rng = random.Random(3)
    for prompt, tokens in zip(prompts, expected, strict=True):
        inner = rng.sample(range(1, len(prompt)), min(4, len(prompt) - 1))
        assert generate(runner, prompt, [*sorted(inner), len(prompt)], first_block=8) == tokens


def test_batched_sequences_give_the_tokens_of_sequences_alone(
    runner: ModelRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    width = 5
    for begin in range(0, PROMPTS, width):
        group = prompts[begin : begin + width]
        inputs = [StepInput(p, 0, blocks_for(len(p), 8 * i), True) for i, p in enumerate(group)]
        produced = [[t] for t in runner.step(inputs).argmax(-1).tolist()]
        for _ in range(NEW_TOKENS - 1):
            inputs = [
                StepInput(out[-1:], len(p) + len(out) - 1, blocks_for(len(p) + len(out), 8 * i), True)
                for i, (p, out) in enumerate(zip(group, produced, strict=True))
            ]
            for out, token in zip(produced, runner.step(inputs).argmax(-1).tolist(), strict=True):
                out.append(token)
        assert produced == expected[begin : begin + width]


def test_decode_and_prefill_in_one_step_do_not_disturb_each_other(
    runner: ModelRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    pairs = [(3, 40), (7, 20), (12, 30)]
    for first, second in pairs:
        one, two = prompts[first], prompts[second]
        token = int(runner.step([StepInput(one, 0, blocks_for(len(one), 0), True)]).argmax())
        mixed = runner.step(
            [
                StepInput(two, 0, blocks_for(len(two), 8), True),
                StepInput([token], len(one), blocks_for(len(one) + 1, 0), True),
            ]
        ).argmax(-1)
        assert mixed.tolist() == [expected[second][0], expected[first][1]]


def test_a_sequence_behind_shared_full_blocks_gives_the_tokens_of_a_cold_one(
    runner: ModelRunner, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """The compressor state at the cached boundary comes from the shared block, not from recomputation."""
    for prompt, tokens in zip(prompts, expected, strict=True):
        shared = (len(prompt) - 1) // BLOCK
        if not shared:
            continue
        runner.step([StepInput(prompt, 0, blocks_for(len(prompt), 16), True)])  # the sequence that filled the cache
        blocks = [*range(16, 16 + shared), *range(40, 44)]
        rest = prompt[shared * BLOCK :]
        logits = runner.step([StepInput(rest, shared * BLOCK, blocks, True)])
        produced = [int(logits.argmax())]
        while len(produced) < NEW_TOKENS:
            position = len(prompt) + len(produced) - 1
            logits = runner.step([StepInput(produced[-1:], position, blocks, True)])
            produced.append(int(logits.argmax()))
        assert produced == tokens


def test_a_wrong_compressor_ring_at_a_cached_boundary_changes_the_answer(
    runner: ModelRunner, prompts: list[list[int]]
) -> None:
    """Guards the test above: it could not fail if the ring did not matter."""
    prompt = next(p for p in prompts if len(p) > BLOCK + 3)
    cold = runner.step([StepInput(prompt, 0, blocks_for(len(prompt), 16), True)])
    ring = runner.caches[1].ring
    assert ring is not None
    kept = ring.rows.clone()
    ring.rows[16 * ring.size : 17 * ring.size] = 0.5
    blocks = [16, 40, 41, 42]
    warm = runner.step([StepInput(prompt[BLOCK:], BLOCK, blocks, True)])
    ring.rows.copy_(kept)
    assert not torch.allclose(cold, warm, atol=1e-6)
