"""Speculative decoding in the whole engine: the answers of plain decoding, whatever is drafted. Real model, FP64.

``predictable`` makes a checkpoint whose next token mostly follows from the last one, and an MTP block that knows it, so
that drafts are often right; with plain random weights they never are. Drafts that are always right, always wrong or
right by turns are put in where the MTP block would be asked.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from ds4_kernels.reference import quant
from scipy import stats

from ds4bench.embedded import caches
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.engine import Engine, Output, Runner
from ds4bench.embedded.metrics import EngineMetrics
from ds4bench.embedded.runner import ModelRunner, StepInput
from ds4bench.embedded.sequence import Draft, SamplingParams
from ds4bench.embedded.speculative import Computed, Drafter, MtpDrafter
from ds4bench.embedded.tokenizer import Tokenizer
from ds4bench.embedded.weights import Checkpoint, random_checkpoint

MODEL = ModelConfig(
    name="test", dim=128, num_heads=4, compress_ratios=(0, 4, 128), num_hash_layers=1, num_experts=4, index_heads=4,
    index_topk=16, max_position=2048,
)  # fmt: skip
PLAIN = EngineConfig(
    block_size=256, num_blocks=32, max_num_seqs=8, max_num_batched_tokens=4096, max_model_len=1024, dtype="float64",
    num_threads=1,
)  # fmt: skip
MTP = replace(PLAIN, num_speculative_tokens=3)
GREEDY = SamplingParams(max_tokens=14, temperature=0.0, ignore_eos=True)
LENGTHS = [1, 3, 118, 122, 245, 250, 252]  # outputs pass the ends of C4A and C128A entries, of the window, of a block


def predictable(gain: float) -> Checkpoint:
    """Weights that favour one next token for each token; the MTP block looks at the token only, through its layers."""
    checkpoint = random_checkpoint(MODEL, 3)
    embed = checkpoint["embed.weight"]
    order = torch.randperm(len(embed), generator=torch.Generator().manual_seed(1))
    following = torch.empty_like(order)
    following[order] = order.roll(-1)
    head = checkpoint["head.weight"].clone()
    head[following] += gain * embed / MODEL.dim
    checkpoint["head.weight"] = head
    for part, matrix in (("e_proj", torch.eye(MODEL.dim)), ("h_proj", torch.zeros(MODEL.dim, MODEL.dim))):
        name = f"mtp.0.{part}"
        checkpoint[f"{name}.weight"], checkpoint[f"{name}.scale"] = quant.fp8_quantize_weight(matrix)
    return checkpoint


WEIGHTS = predictable(30.0)


@asynccontextmanager
async def running(
    config: EngineConfig,
    weights: Checkpoint = WEIGHTS,
    make_drafter: Callable[[Runner, int], Drafter] = MtpDrafter,
    model: ModelConfig = MODEL,
) -> AsyncIterator[Engine]:
    metrics = EngineMetrics("test", config.num_speculative_tokens)
    engine = Engine(lambda: ModelRunner(model, config, weights), Tokenizer(), config, metrics, make_drafter)
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


async def outputs(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY) -> list[Output]:
    return [output async for output in engine.generate(prompt, params)]


async def tokens(engine: Engine, prompt: list[int], params: SamplingParams = GREEDY) -> list[int]:
    pieces = [piece for output in await outputs(engine, prompt, params) for piece in output.tokens]
    return [piece.token_id for piece in pieces if piece.token_id >= 0]  # -1 is text only: half a character at the end


async def all_at_once(engine: Engine, prompts: list[list[int]], params: SamplingParams = GREEDY) -> list[list[int]]:
    return list(await asyncio.gather(*(tokens(engine, prompt, params) for prompt in prompts)))


def counter(engine: Engine, name: str, **labels: str) -> float:
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = engine.metrics.render().decode().splitlines()
    found = [x for x in lines if x.startswith(f"vllm:{name}_total{{") and all(word in x for word in wanted)]
    assert found, f"{name} is not exported"
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(20, 2000) for _ in range(n)] for n in LENGTHS]


@pytest.fixture(scope="module")
def expected(prompts: list[list[int]]) -> list[list[int]]:
    async def alone() -> list[list[int]]:
        async with running(PLAIN) as engine:
            return [await tokens(engine, prompt) for prompt in prompts]

    return asyncio.run(alone())


@dataclass
class Scripted:
    """Drafts the known answer, but for the places where ``wrong`` says so."""

    prompts: list[list[int]]
    answers: list[list[int]]
    wrong: Callable[[int], bool]

    def __call__(self, _runner: Runner, _eos_id: int) -> Drafter:
        return self

    def draft(self, computed: list[Computed]) -> list[Draft]:
        return [Draft(self._guesses(item)) for item in computed]

    def _guesses(self, item: Computed) -> list[int]:
        answer = self.answers[self.prompts.index(item.seq.prompt_ids)]
        first = len(item.seq.output_ids)
        places = range(first, min(first + item.max_drafts, len(answer)))
        return [(answer[i] + 1) % MODEL.vocab_size if self.wrong(i) else answer[i] for i in places]


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow), 3])
async def test_drafts_of_the_mtp_block_do_not_change_greedy_answers(
    prompts: list[list[int]], expected: list[list[int]], depth: int
) -> None:
    async with running(replace(MTP, num_speculative_tokens=depth)) as engine:
        assert await all_at_once(engine, prompts) == expected
        drafts, drafted = counter(engine, "spec_decode_num_drafts"), counter(engine, "spec_decode_num_draft_tokens")
        accepted = counter(engine, "spec_decode_num_accepted_tokens")
        name = "spec_decode_num_accepted_tokens_per_pos"
        places = [counter(engine, name, position=str(i)) for i in range(depth)]
    assert 0 < accepted < drafted <= drafts * depth
    assert sum(places) == accepted
    assert places == sorted(places, reverse=True)
    assert places[-1] > 0


@pytest.mark.slow
async def test_random_weights_draft_badly_and_answer_the_same(prompts: list[list[int]]) -> None:
    weights = random_checkpoint(MODEL, 3)
    async with running(PLAIN, weights) as engine:
        plain = await all_at_once(engine, prompts)
    async with running(MTP, weights) as engine:
        assert await all_at_once(engine, prompts) == plain
        assert counter(engine, "spec_decode_num_accepted_tokens") <= counter(engine, "spec_decode_num_drafts") / 10


@pytest.mark.parametrize(
    "wrong",
    [lambda _: False, lambda _: True, lambda i: i % 3 == 2, lambda i: i % 2 == 0],
    ids=["right", "wrong", "third wrong", "alternating"],
)
async def test_forced_drafts_do_not_change_greedy_answers(
    prompts: list[list[int]], expected: list[list[int]], wrong: Callable[[int], bool]
) -> None:
    async with running(MTP, make_drafter=Scripted(prompts, expected, wrong)) as engine:
        assert await all_at_once(engine, prompts) == expected
        accepted = counter(engine, "spec_decode_num_accepted_tokens")
        drafted = counter(engine, "spec_decode_num_draft_tokens")
    assert drafted > 0
    assert (accepted == drafted) == (not any(map(wrong, range(14))))
    assert (accepted == 0) == wrong(1)


async def test_right_drafts_come_several_tokens_an_output(prompts: list[list[int]], expected: list[list[int]]) -> None:
    async with running(MTP, make_drafter=Scripted(prompts, expected, lambda _: False)) as engine:
        out = await outputs(engine, prompts[3])
    assert [len([p for p in output.tokens if p.token_id >= 0]) for output in out] == [1, 4, 4, 4, 1]
    assert [output.num_output_tokens for output in out] == [1, 5, 9, 13, 14]
    assert [output.finish_reason for output in out] == [None] * 4 + ["length"]


async def test_rejected_drafts_need_the_room_of_the_rings(
    prompts: list[list[int]], expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the tests of wrong drafts: they could not fail if nothing were overwritten."""
    size = caches.ring_size
    monkeypatch.setattr(caches, "ring_size", lambda ratio, block_size, _drafts: size(ratio, block_size, 0))
    async with running(MTP, make_drafter=Scripted(prompts, expected, lambda _: True)) as engine:
        assert await all_at_once(engine, prompts) != expected


async def test_chunked_prefill_and_preemption_do_not_change_answers(
    prompts: list[list[int]], expected: list[list[int]]
) -> None:
    async with running(replace(MTP, max_num_batched_tokens=50)) as engine:
        assert await all_at_once(engine, prompts) == expected
    async with running(replace(MTP, num_blocks=3)) as engine:
        assert await all_at_once(engine, prompts[4:]) == expected[4:]  # each needs a second block while it decodes
        assert counter(engine, "num_preemptions") > 0
        assert counter(engine, "spec_decode_num_accepted_tokens") > 0
        assert len(engine.blocks.free) == 3


async def test_prefix_hits_do_not_change_answers(prompts: list[list[int]], expected: list[list[int]]) -> None:
    long = [prompt + prompts[5] + prompts[2] for prompt in prompts[3:]]
    async with running(PLAIN) as engine:
        cold = await all_at_once(engine, long)
    async with running(MTP) as engine:
        assert await all_at_once(engine, long) == cold
        assert counter(engine, "prefix_cache_hits") == 0
        assert await all_at_once(engine, long) == cold
        assert counter(engine, "prefix_cache_hits") == 256 * 7
        # What was decoded is shared too: prompt and answer as a new prompt.
        again = [prompts[6] + expected[6][:8]]
        assert await all_at_once(engine, prompts[6:]) == expected[6:]
        hits = counter(engine, "prefix_cache_hits")
        assert (await all_at_once(engine, again))[0][:6] == expected[6][8:]
        assert counter(engine, "prefix_cache_hits") == hits + 256


@dataclass
class Recorded:
    """Keeps the drafts of another."""

    inner: Drafter | None = None

    def __post_init__(self) -> None:
        self.drafts: list[list[int]] = []

    def __call__(self, runner: Runner, eos_id: int) -> Drafter:
        self.inner = MtpDrafter(runner, eos_id)
        return self

    def draft(self, computed: list[Computed]) -> list[Draft]:
        assert self.inner is not None
        drafts = self.inner.draft(computed)
        self.drafts += [draft.tokens for draft in drafts if draft.tokens]
        return drafts


async def test_drafts_are_the_same_however_the_prompt_was_computed() -> None:
    """The MTP block's cache holds every position: of chunks, of cached blocks, of accepted and of rejected drafts."""
    weights = random_checkpoint(MODEL, 3)  # this block sees the streams, and its cache matters
    prompt = [random.Random(9).randrange(20, 2000) for _ in range(300)]

    async def drafts(config: EngineConfig, before: list[list[int]]) -> list[list[int]]:
        recorded = Recorded()
        async with running(config, weights, recorded) as engine:
            for earlier in before:
                await tokens(engine, earlier, replace(GREEDY, max_tokens=1))
            recorded.drafts.clear()
            await tokens(engine, prompt)
            hits = counter(engine, "prefix_cache_hits")
        assert hits == (256 if before and before[-1][:257] == prompt[:257] else 0)
        return recorded.drafts

    expected = await drafts(MTP, [])
    assert len(expected) == 12
    assert await drafts(replace(MTP, max_num_batched_tokens=37), []) == expected
    assert await drafts(MTP, [prompt]) == expected
    assert await drafts(MTP, [prompt[:257]]) == expected
    # The same block before another token: its last MTP position is not this prompt's, so it is no hit.
    assert await drafts(MTP, [[*prompt[:256], 7]]) == expected


@pytest.fixture(scope="module")
def ending(prompts: list[list[int]], expected: list[list[int]]) -> tuple[list[int], list[int], str]:
    """A prompt, its answer, and the answer's text."""
    return prompts[2], expected[2], Tokenizer().decode(expected[2])


@pytest.mark.parametrize(
    "case", ["max_tokens", "stop token", "stop string", "long stop string", "logprobs", "min_tokens"]
)
async def test_an_answer_ends_at_the_token_where_plain_decoding_ends_it(
    ending: tuple[list[int], list[int], str], case: str
) -> None:
    prompt, answer, text = ending
    params = {
        "max_tokens": replace(GREEDY, max_tokens=7),
        "stop token": replace(GREEDY, stop_token_ids=(answer[6],)),
        "stop string": replace(GREEDY, stop=(text[len(Tokenizer().decode(answer[:5])) :][:2],)),
        "long stop string": replace(GREEDY, stop=(Tokenizer().decode(answer[5:8]),)),
        "logprobs": replace(GREEDY, logprobs=3),
        "min_tokens": replace(GREEDY, stop_token_ids=(answer[2], answer[9]), min_tokens=5),
    }[case]
    async with running(PLAIN) as engine:
        plain = await outputs(engine, prompt, params)
    async with running(MTP, make_drafter=Scripted([prompt], [answer], lambda _: False)) as engine:
        fast = await outputs(engine, prompt, params)
        assert len(engine.blocks.free) == MTP.num_blocks
    assert len(fast) < len(plain)
    for name in ("finish_reason", "num_output_tokens"):
        assert getattr(fast[-1], name) == getattr(plain[-1], name)
    one, two = ([piece for output in out for piece in output.tokens] for out in (plain, fast))
    assert [(piece.token_id, piece.text) for piece in two] == [(piece.token_id, piece.text) for piece in one]
    for first, second in zip(one, two, strict=True):
        assert (first.logprob is None) == (second.logprob is None) == (case != "logprobs")
        if first.logprob is not None and second.logprob is not None:
            assert second.logprob.logprob == pytest.approx(first.logprob.logprob, abs=1e-5)
            assert [token for token, _ in second.logprob.top] == [token for token, _ in first.logprob.top]


async def test_the_longest_context_is_kept(prompts: list[list[int]]) -> None:
    config = replace(MTP, num_blocks=1)
    async with running(replace(PLAIN, num_blocks=1)) as engine:
        plain = await outputs(engine, prompts[5], replace(GREEDY, max_tokens=50))
    async with running(config, make_drafter=MtpDrafter) as engine:
        fast = await outputs(engine, prompts[5], replace(GREEDY, max_tokens=50))
    assert plain[-1].num_output_tokens == fast[-1].num_output_tokens == 256 - len(prompts[5])
    one, two = ([piece.token_id for output in out for piece in output.tokens] for out in (plain, fast))
    assert one == two


async def test_sampled_answers_have_the_models_joint_distribution() -> None:
    """Pairs of tokens of many requests against the exact probabilities of the plain model."""
    model = replace(MODEL, vocab_size=6, compress_ratios=(0,))
    weights = random_checkpoint(model, 3)
    prompt = [2, 3, 4]
    runner = ModelRunner(model, PLAIN, weights)
    rows = [prompt, *([*prompt, token] for token in range(6))]
    logits = torch.cat([runner.step([StepInput(row, 0, [0], True)]) for row in rows])
    first, second = logits[0].softmax(-1), logits[1:].softmax(-1)
    params = SamplingParams(max_tokens=3, temperature=1.0, ignore_eos=True)
    async with running(replace(MTP, max_num_seqs=16), weights, model=model) as engine:
        answers = await asyncio.gather(*(tokens(engine, prompt, replace(params, seed=seed)) for seed in range(600)))
        accepted = counter(engine, "spec_decode_num_accepted_tokens")
        assert 0 < accepted < counter(engine, "spec_decode_num_draft_tokens")
    pairs = Counter((answer[0], answer[1]) for answer in answers)
    exact = (first.unsqueeze(1) * second).double()
    counts = [pairs[one, two] for one in range(6) for two in range(6)]
    assert stats.chisquare(counts, (exact / exact.sum() * 600).flatten().numpy()).pvalue > 0.01
