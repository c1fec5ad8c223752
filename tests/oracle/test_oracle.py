"""The engine's logits against transformers' DeepseekV4ForCausalLM, quantisation off."""

from __future__ import annotations

import pytest
import torch
import transformers_oracle as oracle
from safetensors.torch import load_file

from ds4bench.embedded.config import EngineConfig
from ds4bench.embedded.runner import ModelRunner, StepInput

BLOCKS = [5, 2, 7, 0, 3]


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return ModelRunner(oracle.CONFIG, EngineConfig(num_blocks=8, seed=oracle.SEED, dtype="float64", num_threads=1))


def cosine(runner: ModelRunner, length: int, reference: torch.Tensor) -> float:
    ours = runner.step([StepInput(oracle.prompt(length), 0, BLOCKS, True)])[0]
    return torch.nn.functional.cosine_similarity(ours.double(), reference.double(), dim=0).item()


@pytest.mark.parametrize("length", oracle.LENGTHS)
def test_logits_equal_the_stored_logits_of_transformers(runner: ModelRunner, length: int) -> None:
    assert cosine(runner, length, load_file(oracle.FIXTURE)[str(length)]) > 0.9999


def test_a_wrong_rope_theta_would_be_seen(runner: ModelRunner) -> None:
    rope = runner.model.blocks[1].attention.rope
    kept = rope.clone()
    rope.copy_(torch.roll(kept, 1, 0))
    rolled = cosine(runner, 129, load_file(oracle.FIXTURE)["129"])
    rope.copy_(kept)
    assert rolled < 0.9999


@pytest.mark.oracle
@pytest.mark.parametrize("length", oracle.LENGTHS)
def test_logits_equal_transformers_live(runner: ModelRunner, length: int, live_logits: dict[str, torch.Tensor]) -> None:
    assert cosine(runner, length, live_logits[str(length)]) > 0.9999


@pytest.fixture(scope="module")
def live_logits() -> dict[str, torch.Tensor]:
    return oracle.transformers_logits()
