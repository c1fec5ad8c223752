"""The whole engine: scheduling, sharing and preemption never change what a request is answered. Real model, FP64."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.engine import Engine, EngineDeadError, Output
from ds4bench.embedded.metrics import EngineMetrics
from ds4bench.embedded.runner import ModelRunner, StepInput
from ds4bench.embedded.sequence import SamplingParams
from ds4bench.embedded.tokenizer import Tokenizer

MODEL = ModelConfig(
    name="test", dim=128, num_heads=4, compress_ratios=(0, 4, 128), num_hash_layers=1, num_experts=4, index_heads=4,
    index_topk=16, max_position=2048,
)  # fmt: skip
ROOMY = EngineConfig(
    block_size=128, num_blocks=64, max_num_seqs=8, max_num_batched_tokens=4096, max_model_len=1024,
    enable_prefix_caching=False, dtype="float64", num_threads=1,
)  # fmt: skip
GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)


def build(config: EngineConfig) -> Engine:
    return Engine(lambda: ModelRunner(MODEL, config), Tokenizer(), config, EngineMetrics("test"))


@asynccontextmanager
async def running(config: EngineConfig) -> AsyncIterator[Engine]:
    engine = build(config)
    engine.start()
    yield engine
    await asyncio.to_thread(engine.stop)


async def tokens(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    outputs = [output async for output in engine.generate(prompt, params)]
    return [piece.token_id for output in outputs for piece in output.tokens]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """50 prompts; every third begins like an earlier one, so that there is something to share."""
    rng = random.Random(21)
    out: list[list[int]] = []
    for i in range(50):
        fresh = [rng.randrange(20, 2000) for _ in range(rng.randint(1, 330))]
        out.append(out[i - 2][: rng.randint(1, len(out[i - 2]))] + fresh[:40] if i % 3 == 2 else fresh)
    return out


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    async def alone() -> list[list[int]]:
        async with running(ROOMY) as engine:
            return [await tokens(engine, prompt) for prompt in prompts]

    return asyncio.run(alone())


async def all_at_once(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    return list(await asyncio.gather(*(tokens(engine, prompt) for prompt in prompts)))


async def test_concurrent_chunked_requests_get_the_tokens_they_get_alone(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with running(replace(ROOMY, max_num_batched_tokens=96)) as engine:
        assert await all_at_once(engine, prompts) == expected


async def test_prefix_hits_do_not_change_an_answer(prompts: list[list[int]], expected: list[list[int]]) -> None:
    async with running(
        replace(ROOMY, num_blocks=256, enable_prefix_caching=True, max_num_batched_tokens=200)
    ) as engine:
        assert await all_at_once(engine, prompts) == expected
        assert await all_at_once(engine, prompts) == expected
        assert _sample(engine, "vllm:prefix_cache_hits_total") >= 3840  # every full block of the second pass


async def test_preempted_requests_get_the_tokens_of_undisturbed_ones(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with running(replace(ROOMY, num_blocks=4, enable_prefix_caching=True)) as engine:
        long = [i for i, prompt in enumerate(prompts) if 120 <= len(prompt) <= 128 or len(prompt) > 250]
        edge = [[*prompts[i][:125]] for i in long[:6]]  # each needs a second block while it decodes
        together = await all_at_once(engine, edge)
        assert _sample(engine, "vllm:num_preemptions_total") > 0
        async with running(ROOMY) as quiet:
            assert together == [await tokens(quiet, prompt) for prompt in edge]
        assert await all_at_once(engine, prompts[:20]) == expected[:20]
        assert len(engine.blocks.free) == 4


async def test_a_client_that_leaves_frees_its_blocks() -> None:
    async with running(ROOMY) as engine:
        stream = engine.generate([5] * 300, replace(GREEDY, max_tokens=600))
        await anext(stream)
        assert len(engine.blocks.free) < 64
        await stream.aclose()  # type: ignore[attr-defined]
        assert len(engine.blocks.free) == 64
        assert not engine.scheduler.has_work()


async def test_a_seeded_request_draws_the_same_tokens_beside_others() -> None:
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=77, ignore_eos=True)
    async with running(ROOMY) as engine:
        alone = await tokens(engine, [30, 40, 50], params)
        beside = await asyncio.gather(
            tokens(engine, [30, 40, 50], params),
            *(tokens(engine, [60 + i], replace(params, seed=i)) for i in range(4)),
        )
        assert beside[0] == alone
        assert len({tuple(t) for t in beside}) == 5


async def test_usage_counts_and_finish_reasons() -> None:
    async with running(ROOMY) as engine:
        outputs: list[Output] = [o async for o in engine.generate([30, 40], GREEDY)]
        assert outputs[-1].finish_reason == "length"
        assert outputs[-1].num_output_tokens == 6
        stop_at = outputs[2].tokens[0].token_id
        stopped = [o async for o in engine.generate([30, 40], replace(GREEDY, stop_token_ids=(stop_at,)))]
        assert stopped[-1].finish_reason == "stop"
        assert stopped[-1].num_output_tokens <= 3


async def test_a_failing_step_fails_the_requests_and_later_ones_at_once() -> None:
    engine = build(ROOMY)

    class Broken:
        def step(self, inputs: list[StepInput]) -> object:
            raise RuntimeError("out of luck")

    engine._runner = Broken()  # type: ignore[assignment]
    engine.start()
    with pytest.raises(EngineDeadError, match="out of luck"):
        await tokens(engine, [30])
    with pytest.raises(EngineDeadError, match="out of luck"):
        await tokens(engine, [30])
    await asyncio.to_thread(engine.stop)


def _sample(engine: Engine, name: str) -> float:
    for line in engine.metrics.render().decode().splitlines():
        if line.startswith(name + "{"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"{name} is not exported")
