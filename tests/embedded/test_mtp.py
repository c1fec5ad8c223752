"""The MTP block: its formula, and a cache that holds the same however the sequence came in. FP64, real FP8 bytes."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from ds4bench.embedded.batch import Batch, StepInput
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.mtp import MtpBlock
from ds4bench.embedded.runner import ModelRunner
from ds4bench.embedded.weights import Weights, random_checkpoint, revision

MODEL = ModelConfig(
    name="test", vocab_size=64, dim=128, compress_ratios=(0, 4), num_hash_layers=1, num_experts=4, index_heads=4,
    index_topk=16, max_position=1024,
)  # fmt: skip
ENGINE = EngineConfig(block_size=128, num_blocks=16, dtype="float64", num_threads=1, num_speculative_tokens=3, seed=5)
BLOCKS = [4, 9, 2]


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return ModelRunner(MODEL, ENGINE)


def prompt_of(length: int) -> list[int]:
    rng = random.Random(length)
    return [rng.randrange(2, MODEL.vocab_size) for _ in range(length)]


def drafted(runner: ModelRunner, tokens: list[int], cuts: list[int]) -> Tensor:
    """Logits behind the last token when the ones before it are computed in pieces that end at ``cuts``."""
    start = 0
    for end in cuts:
        runner.step([StepInput(tokens[start:end], start, BLOCKS, False)])
        logits = runner.draft([StepInput(tokens[start + 1 : end + 1], start, BLOCKS, end == cuts[-1])], [0])
        start = end
    return logits


@torch.inference_mode()
def test_the_block_reads_the_token_behind_and_every_stream(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(runner.mtp, MtpBlock)
    assert runner.mtp_cache is not None
    weights = Weights(random_checkpoint(MODEL, ENGINE.seed), torch.float64)
    monkeypatch.setattr(runner.mtp, "block", lambda streams, *_: streams)
    for name in ("embed_proj", "streams_proj"):
        monkeypatch.setattr(getattr(runner.mtp, name), "quantize", False)
    streams = torch.randn(3, 4, MODEL.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch = Batch([StepInput([7, 8, 9], 0, BLOCKS, True)], ENGINE.block_size)
    out = runner.mtp.streams(batch, streams.clone(), runner.mtp_cache)

    def normed(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean() + MODEL.norm_eps).sqrt() * weights.matrix(f"mtp.0.{name}.weight")

    for row, token in enumerate([7, 8, 9]):
        e = weights.matrix("mtp.0.e_proj.weight") @ normed(weights.matrix("embed.weight")[token], "enorm")
        for stream in range(4):
            h = weights.matrix("mtp.0.h_proj.weight") @ normed(streams[row, stream], "hnorm")
            torch.testing.assert_close(out[row, stream], e + h)


@pytest.mark.parametrize("length", [2, 5, 127, 128, 130, 260])
def test_pieces_give_the_draft_of_the_whole(runner: ModelRunner, length: int) -> None:
    tokens = prompt_of(length + 1)
    expected = drafted(runner, tokens, [length])
    rng = random.Random(1)
    pieces = sorted({*rng.sample(range(1, length), min(6, length - 1)), length})
    torch.testing.assert_close(drafted(runner, tokens, pieces), expected, rtol=1e-9, atol=1e-9)
    one_by_one = [*range(max(1, length - 9), length), length]
    torch.testing.assert_close(drafted(runner, tokens, one_by_one), expected, rtol=1e-9, atol=1e-9)


def test_a_further_guess_reads_the_blocks_own_streams_at_the_next_position(runner: ModelRunner) -> None:
    """Against one pass of the block over all positions, the last with the streams that the first pass gave."""
    assert isinstance(runner.mtp, MtpBlock)
    assert runner.mtp_cache is not None
    tokens = prompt_of(131)
    drafted(runner, tokens, [130])
    own = runner._streams[0]
    further = runner.draft([StepInput([17], 130, BLOCKS, True)], [0])
    with torch.inference_mode():
        batch = Batch([StepInput([*tokens[1:], 17], 0, BLOCKS, True)], ENGINE.block_size)
        main = Batch([StepInput(tokens[:130], 0, BLOCKS, False)], ENGINE.block_size)
        streams = torch.cat((runner.model.streams(main, runner.caches), own))
        whole = runner.mtp.head(runner.mtp.streams(batch, streams, runner.mtp_cache)[-1:])
    torch.testing.assert_close(further, whole.float(), rtol=1e-6, atol=1e-6)


def test_wrong_guesses_are_overwritten(runner: ModelRunner) -> None:
    tokens = prompt_of(140)
    expected = drafted(runner, tokens, [139])
    drafted(runner, tokens, [130])
    for position in (130, 131):  # guesses that do not come true
        runner.draft([StepInput([60], position, BLOCKS, True)], [0])
    runner.step([StepInput(tokens[130:139], 130, BLOCKS, False)])
    logits = runner.draft([StepInput(tokens[131:140], 130, BLOCKS, True)], [0])
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_the_revision_names_what_answers_depend_on() -> None:
    checkpoint = random_checkpoint(MODEL, 1)
    other = {**checkpoint, "mtp.0.norm.weight": checkpoint["mtp.0.norm.weight"] + 1}
    assert revision(other) == revision(checkpoint)
    assert revision({**checkpoint, "norm.weight": checkpoint["norm.weight"] + 1}) != revision(checkpoint)
