"""Decode from static buffers: a replay on other rows, lengths and blocks is the plain step, and padding changes nothing.

The capture of these tests runs the captured function anew (``EagerCapture``); all else is what a CUDA graph replays.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.device.graphs import SIZES, EagerCapture, Outputs, sizes_up_to
from ds4bench.embedded.runner import ModelRunner, capturable
from ds4bench.embedded.weights import Checkpoint, random_checkpoint

BLOCK = 128
DEPTH = 2
MODEL = ModelConfig(
    name="test", vocab_size=128, dim=128, num_heads=4, compress_ratios=(0, 4, 128), num_hash_layers=1, num_experts=4,
    index_heads=4, index_topk=16, max_position=1024,
)  # fmt: skip
ENGINE = EngineConfig(
    block_size=BLOCK, num_blocks=32, max_num_seqs=6, max_model_len=640, backend="ops", num_threads=1
)  # fmt: skip
LENGTHS = [1, 2, 3, 7, 126, 127, 128, 255, 300, 511]
"""Tokens before the decoded one: no entry yet, the first C4A entry, the window's end, the first C128A entry, more."""


class CountingCapture(EagerCapture):
    """Counts what it captures, and spoils all that no replay wrote: what a replay does not write must not be read."""

    def __init__(self) -> None:
        self.captured = 0
        self.replayed = 0

    def __call__(self, step: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        replay, outputs = super().__call__(step)
        self.captured += 1

        def counted() -> None:
            self.replayed += 1
            for output in outputs:
                output.fill_(torch.nan)
            replay()

        return counted, outputs


@pytest.fixture(scope="module")
def weights() -> Checkpoint:
    return random_checkpoint(MODEL, 1)


def pair(weights: Checkpoint, **engine: object) -> tuple[ModelRunner, ModelRunner, CountingCapture]:
    """(runner with graphs, plain runner, the first one's capture) on equal weights."""
    config, capture = replace(ENGINE, **engine), CountingCapture()  # type: ignore[arg-type]
    return ModelRunner(MODEL, config, weights, capture=capture), ModelRunner(MODEL, config, weights), capture


def tokens(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(1000 * seed + length)
    return [rng.randrange(2, MODEL.vocab_size) for _ in range(length)]


def fill(runner: ModelRunner, lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Prefill sequences of these lengths; returns their blocks, scattered over the cache."""
    free = random.Random(seed).sample(range(ENGINE.num_blocks), ENGINE.num_blocks)
    tables = []
    for length in lengths:
        count = -(-(length + 4) // BLOCK)
        tables.append([free.pop() for _ in range(count)])
        runner.step([StepInput(tokens(length), 0, tables[-1], False)])
    return tables


def caches(runner: ModelRunner) -> list[Tensor]:
    found = []
    for cache in [*runner.caches, *([runner.mtp_cache] if runner.mtp_cache else [])]:
        found += [part.data for part in (cache.window, cache.compressed, cache.index) if part is not None]
        found += [ring.rows for ring in (cache.ring, cache.index_ring) if ring is not None]
    return found


def written(before: list[Tensor], after: list[Tensor]) -> list[list[int]]:
    """The blocks or rows of each cache that have changed."""
    changed = [(one != two).flatten(1).any(1) for one, two in zip(before, after, strict=True)]
    return [rows.nonzero().flatten().tolist() for rows in changed]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_replay_gives_the_logits_and_the_cache_of_the_plain_step(weights: Checkpoint, length: int) -> None:
    graphs, plain, capture = pair(weights)
    for runner in (graphs, plain):
        fill(runner, [length])
    tables = fill(graphs, [length], seed=1)
    assert fill(plain, [length], seed=1) == tables
    capture.replayed = 0  # a prompt of one token is a decode, too
    for position in range(length, length + 3):
        step = [StepInput([9 + position % 7], position, tables[0], True)]
        assert torch.equal(graphs.step(step), plain.step(step))
    assert (capture.captured, capture.replayed) == (1, 3)
    assert all(torch.equal(one, two) for one, two in zip(caches(graphs), caches(plain), strict=True))


def test_one_capture_serves_other_sequences_lengths_and_orders(weights: Checkpoint) -> None:
    graphs, plain, capture = pair(weights)
    lengths = [300, 5, 128, 511]
    tables = fill(graphs, lengths)
    fill(plain, lengths)
    rng = random.Random(3)
    places = lengths.copy()
    for _ in range(6):
        order = rng.sample(range(4), 4)
        step = [StepInput([rng.randrange(2, 128)], places[i], tables[i], True) for i in order]
        assert torch.equal(graphs.step(step), plain.step(step))
        places[order[0]] += 1  # the others decode the same position again
    assert capture.captured == 1


def test_padding_changes_nothing(weights: Checkpoint) -> None:
    """Five rows run in a buffer of six: the sixth once held a real row, whose cache must not be touched again."""
    graphs, plain, capture = pair(weights)
    lengths = [300, 5, 128, 3, 255, 511]
    tables = fill(graphs, lengths)
    fill(plain, lengths)
    six = [StepInput([7], length, table, True) for length, table in zip(lengths, tables, strict=True)]
    for runner in (graphs, plain):
        runner.step(six)
    five = [StepInput([8], item.start + 1, item.block_ids, True) for item in six[:5]]
    before = [[cache.clone() for cache in caches(runner)] for runner in (graphs, plain)]
    # products of six rows and of five need not agree in the last bit: that is the BLAS library's choice
    torch.testing.assert_close(graphs.step(five), plain.step(five), rtol=1e-3, atol=1e-2)
    assert capture.captured == 1
    assert written(before[0], caches(graphs)) == written(before[1], caches(plain))


def test_capturing_writes_to_no_cache(weights: Checkpoint) -> None:
    graphs, _, capture = pair(weights, num_speculative_tokens=DEPTH, max_num_seqs=1)
    fill(graphs, [300])
    before = [cache.clone() for cache in caches(graphs)]
    graphs.capture_all()
    assert capture.captured == 2 * len(sizes_up_to(1 + DEPTH))
    assert all(torch.equal(one, two) for one, two in zip(caches(graphs), before, strict=True))


def test_answers_behind_a_warm_up_are_those_without(weights: Checkpoint) -> None:
    """It leaves keys of its own in blocks that nobody owns yet."""
    graphs, plain, capture = pair(weights, num_speculative_tokens=1, max_num_seqs=1)
    graphs.warm_up()
    assert capture.captured == 2 * len(sizes_up_to(2))
    for length in (130, 3):
        prompt = [StepInput(tokens(length), 0, [0, 1], True)]
        assert torch.equal(graphs.step(prompt), plain.step(prompt))
        answer = [StepInput([9], length, [0, 1], True)]
        assert torch.equal(graphs.step(answer), plain.step(answer))


def test_rows_that_a_buffer_cannot_hold_run_without_it(weights: Checkpoint) -> None:
    graphs, plain, capture = pair(weights, max_num_seqs=1, max_model_len=256)
    tables = fill(graphs, [256, 10])
    fill(plain, [256, 10])
    long = [StepInput([9], 256, tables[0], True)]
    assert torch.equal(graphs.step(long), plain.step(long))
    two = [StepInput([9], 255, tables[0], True), StepInput([9], 10, tables[1], True)]
    assert torch.equal(graphs.step(two), plain.step(two))
    mixed = [StepInput([9], 11, tables[1], True), StepInput([9, 8], 254, tables[0], False)]
    assert torch.equal(graphs.step(mixed), plain.step(mixed))
    assert capture.replayed == 0


@pytest.mark.parametrize("accepted", [0, 1, 2])
def test_drafts_and_their_verification_replay_as_they_run_plainly(weights: Checkpoint, accepted: int) -> None:
    """A verified step, the MTP pass behind its accepted tokens, and a second draft that goes on from the first."""
    graphs, plain, capture = pair(weights, num_speculative_tokens=DEPTH)
    lengths = [126, 40, 255]
    results = []
    for runner in (graphs, plain):
        tables = fill(runner, lengths)
        runs = list(zip(lengths, tables, strict=True))
        verify = [StepInput([5, 6, 7], length, table, True, DEPTH) for length, table in runs]
        logits = runner.step(verify)
        behind = [StepInput([6, 7, 8][: 1 + accepted], length, table, i != 1) for i, (length, table) in enumerate(runs)]
        first = runner.draft(behind, [0, 1, 2])
        more = [StepInput([11], length + accepted + 1, table, True) for length, table in (runs[2], runs[0])]
        second = runner.draft(more, [1, 0])
        results.append((logits, first, second))
    assert [part.shape[0] for part in results[0]] == [9, 2, 2]
    for one, two in zip(*results, strict=True):
        assert torch.nn.functional.cosine_similarity(one, two, dim=-1).min() > 0.9999
    assert (capture.captured, capture.replayed) == (3, 3)


def test_sizes_cover_the_rows_with_little_padding() -> None:
    assert sizes_up_to(1) == (1,)
    assert sizes_up_to(5) == (1, 2, 3, 4, 6)
    assert sizes_up_to(16) == (1, 2, 3, 4, 6, 8, 12, 16)
    assert sizes_up_to(1000) == SIZES
    assert all(after <= 1.5 * size for size, after in itertools.pairwise(SIZES[1:]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("drafts", [0, DEPTH])
def test_cuda_graphs_give_the_logits_of_plain_steps(weights: Checkpoint, drafts: int) -> None:
    """Real captures against the same steps uncaptured, on the same widths: the same bits. Against steps of their own width,
    where the sums are split otherwise, a routing of random weights may tip over: most rows agree."""
    config = replace(ENGINE, device="cuda", num_speculative_tokens=drafts)
    graphs = ModelRunner(MODEL, config, weights)
    same = ModelRunner(MODEL, config, weights, capture=EagerCapture())
    plain = ModelRunner(MODEL, replace(config, enforce_eager=True), weights)
    assert graphs.uses_graphs
    assert not plain.uses_graphs
    lengths = [300, 5, 128, 3, 255]
    for runner in (
        graphs,
        same,
        plain,
    ):  # a warm-up leaves its own entries in the MTP block's cache, which fill() does not write
        runner.warm_up()
        tables = fill(runner, lengths)
    for count in (5, 1, 3):
        rows = list(zip(lengths, tables, strict=True))[:count]
        step = [StepInput([7, 8, 9][: 1 + drafts], length, table, True, drafts) for length, table in rows]
        _same_logits(*(runner.step(step) for runner in (graphs, same, plain)))
        if drafts:
            behind = [StepInput([8, 9], length, table, True) for length, table in rows]
            _same_logits(*(runner.draft(behind, list(range(count))) for runner in (graphs, same, plain)))


def _same_logits(graph: Tensor, same: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(graph, same, rtol=1e-5, atol=1e-5)
    assert torch.nn.functional.cosine_similarity(graph, plain, dim=-1).median() > 0.99


@pytest.mark.parametrize("mode", ["reference", "triton"])
def test_an_op_on_its_reference_is_never_captured(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A reference synchronises with the host, which a capture does not allow."""
    pytest.importorskip("triton")
    monkeypatch.delenv("DS4_KERNELS_OPS", raising=False)
    monkeypatch.setenv("DS4_KERNELS", mode)
    assert capturable("cuda") is (mode == "triton")
    monkeypatch.setenv("DS4_KERNELS_OPS", "attn")
    assert not capturable("cuda")
