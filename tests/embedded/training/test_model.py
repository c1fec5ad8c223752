"""The training model against the engine: same weights, same logits."""

from dataclasses import replace

import pytest
import torch

from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.runner import ModelRunner, StepInput
from ds4bench.embedded.training import checkpoint
from ds4bench.embedded.training.model import TrainingModel

SMALL = ModelConfig(
    name="small", vocab_size=256, dim=128, num_heads=2, o_groups=1, compress_ratios=(0, 4, 128, 4), num_hash_layers=1,
    index_heads=2, index_topk=16, num_experts=4, max_position=2048,
)  # fmt: skip


def _model(*, quantise: bool) -> tuple[TrainingModel, dict[str, torch.Tensor]]:
    model = TrainingModel(SMALL)
    checkpoint.initialise(model, 7)
    if quantise:
        checkpoint.load(model, checkpoint.quantised(model))  # BF16 tensors are rounded in the file
    stored = checkpoint.quantised(model) if quantise else checkpoint.unquantised(model)
    model.eval()
    model.precision.products = torch.float32
    model.precision.quantise, model.precision.sparse = quantise, True
    return model, stored


def _engine(stored: dict[str, torch.Tensor], *, quantise: bool, dtype: str = "float32", drafts: int = 0) -> ModelRunner:
    config = EngineConfig(num_blocks=3, num_threads=1, dtype=dtype, num_speculative_tokens=drafts)  # type: ignore[arg-type]
    return ModelRunner(replace(SMALL, quantize=quantise), config, stored)


def _ids(length: int) -> torch.Tensor:
    return torch.randint(20, SMALL.vocab_size, (1, length), generator=torch.Generator().manual_seed(3))


def _tail(runner: ModelRunner, ids: torch.Tensor, rows: int) -> torch.Tensor:
    """Logits of the last ``rows`` positions: chunked prefill, then single tokens, as in a serve."""
    tokens, start = ids[0].tolist(), 0
    first = len(tokens) - rows
    while start < first:
        end = min(first, start + 200)
        runner.step([StepInput(tokens[start:end], start, [0, 1, 2], False)])
        start = end
    return torch.stack(
        [runner.step([StepInput([tokens[p]], p, [0, 1, 2], True)])[0] for p in range(first, len(tokens))]
    )


@pytest.mark.parametrize("length", [60, 640])
def test_logits_are_the_engines_without_quantisation(length: int) -> None:
    model, stored = _model(quantise=False)
    ids = _ids(length)
    engine = _engine(stored, quantise=False, dtype="float64")  # in FP32 a CPU may multiply keys as BF16
    wanted = _tail(engine, ids, 24).float()
    with torch.no_grad():
        got = model(ids).logits[0, -24:]
    assert torch.nn.functional.cosine_similarity(got, wanted, dim=-1).min() > 0.999


@pytest.mark.parametrize("length", [60, 640])
def test_quantised_logits_are_as_near_as_the_engine_in_fp64(
    length: int,
) -> None:
    model, stored = _model(quantise=True)
    ids = _ids(length)
    wanted = _tail(_engine(stored, quantise=True), ids, 24)
    precise = _tail(_engine(stored, quantise=True, dtype="float64"), ids, 24)
    with torch.no_grad():
        got = model(ids).logits[0, -24:]
    ours = torch.nn.functional.cosine_similarity(got, wanted, dim=-1).mean()
    own = torch.nn.functional.cosine_similarity(precise, wanted, dim=-1).mean()
    assert ours > min(0.999, own - 0.01)
    agreed = (got.argmax(-1) == wanted.argmax(-1)).float().mean()
    assert agreed >= (precise.argmax(-1) == wanted.argmax(-1)).float().mean() - 0.15


def test_mtp_logits_are_the_engines() -> None:
    model, stored = _model(quantise=False)
    ids = _ids(70)
    runner = _engine(stored, quantise=False, drafts=1)
    tokens = ids[0].tolist()
    runner.step([StepInput(tokens[:-1], 0, [0, 1, 2], True)])
    wanted = runner.draft([StepInput(tokens[1:], 0, [0, 1, 2], True)], [0])[0]
    with torch.no_grad():
        got = model(ids).mtp_logits[0, -2]
    assert torch.nn.functional.cosine_similarity(got, wanted, dim=0) > 0.999


def test_only_the_indexer_learns_from_its_lesson() -> None:
    model, _ = _model(quantise=False)
    model.train()
    model.precision.sparse = False
    model(_ids(256), torch.ones(1, 256)).index_loss.backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert taught and all(".indexer." in name for name in taught)


def test_quantised_training_has_gradients_for_every_parameter() -> None:
    model, _ = _model(quantise=False)
    model.train()
    model.precision.quantise = True
    out = model(_ids(256), torch.ones(1, 256))
    (out.logits.square().mean() + out.mtp_logits.square().mean() + out.index_loss).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_fewer_visible_entries_change_the_output_where_the_top_k_cuts() -> None:
    model, _ = _model(quantise=False)
    ids = _ids(640)
    with torch.no_grad():
        sparse = model(ids).logits
        model.precision.sparse = False
        dense = model(ids).logits
    assert torch.equal(sparse[:, :64], dense[:, :64])  # up to 16 entries of 4 tokens
    assert not torch.allclose(sparse[:, -1], dense[:, -1])


def test_balancing_moves_the_bias_against_the_load() -> None:
    model, _ = _model(quantise=False)
    model.train()
    model(_ids(128))
    gate = model.layers[1].ffn.gate
    before = gate.bias.clone()
    model.balance(0.01)
    assert gate.bias[gate.load.argmax()] < before[gate.load.argmax()]
    assert gate.bias[gate.load.argmin()] > before[gate.load.argmin()]
