"""The model on the ops: the answers of the fused model, however a prompt is cut, batched or cached.

The ops round to BF16 where engines do (streams, norms, outputs of linears). ``bf16_roundings`` puts the same roundings into
the fused model in FP64, so that what is left is the rounding of FP32 sums. On the same inputs every layer then agrees
token by token. Over several layers such a rounding now and then tips an FP8 value over to its neighbour, which is why
whole answers get a wider bound: the fused model in FP32 differs as much from itself in FP64. Experts are chosen by token
id there, since a choice that flips at a near tie is another answer altogether.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from ds4_kernels.reference import attention as attention_ops
from ds4_kernels.reference import compressor, mhc, moe, quant
from torch import Tensor

from ds4bench.embedded import __main__ as serve
from ds4bench.embedded import attention, layers, model
from ds4bench.embedded.batch import Batch
from ds4bench.embedded.config import EngineConfig, ModelConfig
from ds4bench.embedded.device.model import DeviceModel
from ds4bench.embedded.device.plan import StepPlan
from ds4bench.embedded.device.weights import StoredWeights
from ds4bench.embedded.model import DeepseekV4
from ds4bench.embedded.runner import ModelRunner, StepInput
from ds4bench.embedded.weights import random_checkpoint

BLOCK = 128
MODEL = ModelConfig(
    name="test", vocab_size=128, dim=128, num_heads=4, compress_ratios=(0, 4, 128), num_hash_layers=1, num_experts=4,
    index_heads=4, index_topk=16, max_position=2048,
)  # fmt: skip
HASHED = replace(MODEL, num_hash_layers=3)
LAYER = 0.999
ANSWER = 0.99
LENGTHS = [1, 2, 3, 4, 5, 8, 127, 128, 129, 255, 256, 257, 400]  # ends of C4A entries, of the window, of C128A entries


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return ops_runner(HASHED)


@pytest.fixture(scope="module")
def fused() -> ModelRunner:
    return fused_runner(HASHED)


def ops_runner(config: ModelConfig) -> ModelRunner:
    return ModelRunner(config, EngineConfig(block_size=BLOCK, num_blocks=64, backend="ops", seed=1, num_threads=1))


def fused_runner(config: ModelConfig) -> ModelRunner:
    checkpoint = random_checkpoint(config, 1)
    checkpoint["embed.weight"] = bf16(checkpoint["embed.weight"])
    engine = EngineConfig(block_size=BLOCK, num_blocks=64, dtype="float64", num_threads=1)
    return ModelRunner(config, engine, checkpoint)


@pytest.fixture
def bf16_roundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Round in the fused model where the ops do."""
    rms_norm, apply_rope_, linear = model.rms_norm, attention.apply_rope_, layers.Linear.__call__
    finish, experts, post = attention_ops.finish, moe.experts, mhc.apply_post

    def rounded_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        out = rms_norm(bf16(x), weight, eps)
        return out if weight is None else bf16(out)

    def rounded_rope_(x: Tensor, cos_sin: Tensor, *, inverse: bool = False) -> Tensor:
        apply_rope_(x, cos_sin, inverse=inverse)
        return x if inverse else x.copy_(bf16(x))

    def rounded_finish(*args: object) -> tuple[Tensor, Tensor]:
        out, lse = finish(*args)
        return bf16(out), lse

    def shared(self: layers.MoE, inputs: Tensor) -> Tensor:
        hidden = moe.swiglu_clamped(bf16(layers.fp8_linear(inputs, self.shared_w13)), self.config.swiglu_limit)
        return bf16(layers.fp8_linear(quant.fp8_simulate(bf16(hidden), 128), self.shared_w2))

    for module in (model, attention):
        monkeypatch.setattr(module, "rms_norm", rounded_norm)
    monkeypatch.setattr(attention, "apply_rope_", rounded_rope_)
    monkeypatch.setattr(attention_ops, "finish", rounded_finish)
    monkeypatch.setattr(layers.Linear, "__call__", lambda self, x: bf16(linear(self, bf16(x))))
    monkeypatch.setattr(layers.MoE, "_shared", shared)
    monkeypatch.setattr(moe, "experts", lambda *args, **kwargs: bf16(experts(*args, **kwargs)))
    monkeypatch.setattr(mhc, "apply_post", lambda f, *args: bf16(post(bf16(f), *args)))
    for module, name in ((mhc, "apply_pre"), (compressor, "pool")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, function=function: bf16(function(*args)))
    yield


def bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(x.dtype)


def cosine(one: Tensor, two: Tensor) -> Tensor:
    """Of each row."""
    return torch.nn.functional.cosine_similarity(one.double().flatten(1), two.double().flatten(1), dim=-1)


def tokens(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(1000 * seed + length)
    return [rng.randrange(2, MODEL.vocab_size) for _ in range(length)]


def blocks_for(length: int, first_block: int = 0) -> list[int]:
    return list(range(first_block, first_block + -(-length // BLOCK)))


def whole(prompt: list[int], first_block: int = 0) -> StepInput:
    return StepInput(prompt, 0, blocks_for(len(prompt), first_block), True)


def in_chunks(runner: ModelRunner, prompt: list[int], cuts: list[int], first_block: int = 0) -> Tensor:
    """Logits behind the prompt when it is computed in chunks that end at ``cuts`` and at its end."""
    start, blocks = 0, blocks_for(len(prompt), first_block)
    for end in [*cuts, len(prompt)]:
        logits = runner.step([StepInput(prompt[start:end], start, blocks, end == len(prompt))])
        start = end
    return logits


@pytest.fixture(scope="module")
def gated() -> tuple[ModelRunner, ModelRunner]:
    """Both models with a router on all layers but the first."""
    return ops_runner(MODEL), fused_runner(MODEL)


@pytest.mark.parametrize("length", [8, 127, 128, 129, 257, 300])
@pytest.mark.usefixtures("bf16_roundings")
@torch.inference_mode()
def test_every_layer_agrees_with_the_fused_model_on_the_same_inputs(
    gated: tuple[ModelRunner, ModelRunner], length: int
) -> None:
    runner, fused = gated
    batch = Batch([whole(tokens(length))], BLOCK)
    plan = StepPlan(batch, MODEL, torch.device("cpu"))
    assert isinstance(runner.model, DeviceModel)
    assert isinstance(fused.model, DeepseekV4)
    streams = fused.model.embed[batch.token_ids].unsqueeze(1).repeat(1, 4, 1)
    for index, (ours, theirs) in enumerate(zip(runner.model.blocks, fused.model.blocks, strict=True)):
        x, post, comb = theirs.attn_hc.pre(streams)
        x = model.rms_norm(x, theirs.attn_norm, MODEL.norm_eps)
        own_x, own_post, own_comb = ours.attn_hc.pre(streams.bfloat16())
        assert cosine(own_x, x).min() > 0.99999
        torch.testing.assert_close((own_post.double(), own_comb.double()), (post, comb), rtol=1e-4, atol=1e-5)

        y = theirs.attention(x, batch, fused.caches[index])
        own_y = ours.attention(x.bfloat16(), plan, runner.caches[index])
        assert cosine(own_y, y).min() > LAYER
        used = blocks_for(length)
        for name in ("window", "compressed", "index"):
            one, two = getattr(runner.caches[index], name), getattr(fused.caches[index], name)
            if two is not None:
                assert (one.data[used] != two.data[used]).float().mean() < 1e-3

        streams = mhc.apply_post(y, streams, post, comb)
        x, post, comb = theirs.ffn_hc.pre(streams)
        x = model.rms_norm(x, theirs.ffn_norm, MODEL.norm_eps)
        y = theirs.moe(x, batch.token_ids)
        assert cosine(ours.moe(x.bfloat16(), plan.token_ids), y).min() > LAYER
        streams = mhc.apply_post(y, streams, post, comb)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.usefixtures("bf16_roundings")
def test_logits_agree_with_the_fused_model(runner: ModelRunner, fused: ModelRunner, length: int) -> None:
    prompt = tokens(length)
    assert cosine(runner.step([whole(prompt)]), fused.step([whole(prompt)])).min() > ANSWER
    for position in (length, length + 1):  # single tokens, the first of them at the boundary itself
        step = [StepInput([7], position, blocks_for(position + 1), True)]
        assert cosine(runner.step(step), fused.step(step)).min() > ANSWER


@pytest.mark.parametrize(
    ("length", "cuts"),
    [
        (5, [3]), (8, [4]), (8, [1, 2, 3, 4, 5, 6, 7]), (130, [1, 126, 127]), (257, [128, 256]), (300, [3, 6, 131, 259]),
        (400, [127, 255, 383]),
    ],
)  # fmt: skip
def test_chunked_prefill_gives_the_logits_of_one_shot_prefill(
    runner: ModelRunner, length: int, cuts: list[int]
) -> None:
    prompt = tokens(length)
    expected = runner.step([whole(prompt)])
    assert cosine(in_chunks(runner, prompt, cuts, first_block=8), expected).min() > ANSWER


@pytest.mark.parametrize(("start", "length"), [(1, 9), (120, 140), pytest.param(250, 262, marks=pytest.mark.slow)])
def test_single_tokens_give_the_logits_of_prefill(runner: ModelRunner, start: int, length: int) -> None:
    prompt = tokens(length)
    runner.step([whole(prompt[:start], first_block=8)])
    for end in range(start + 1, length + 1):
        logits = runner.step([StepInput(prompt[end - 1 : end], end - 1, blocks_for(end, 8), True)])
        expected = runner.step([whole(prompt[:end])])
        assert cosine(logits, expected).min() > ANSWER


def test_a_batch_of_prefills_and_single_tokens_gives_the_logits_of_each_alone(runner: ModelRunner) -> None:
    """Six segments: more than one group of gathered segments; single tokens between them in the list."""
    lengths = [2, 130, 5, 257, 40, 129]
    prompts = [tokens(length, seed=1) for length in lengths]
    histories = [tokens(length, seed=2) for length in (3, 131)]
    expected = [runner.step([whole(prompt)]) for prompt in prompts]
    expected += [runner.step([whole([*history, 9])]) for history in histories]
    for i, history in enumerate(histories):
        runner.step([whole(history, first_block=40 + 4 * i)])
    inputs = [whole(prompt, first_block=4 * i) for i, prompt in enumerate(prompts)]
    singles = [StepInput([9], len(h), blocks_for(len(h) + 1, 40 + 4 * i), True) for i, h in enumerate(histories)]
    logits = runner.step([inputs[0], singles[0], *inputs[1:4], singles[1], *inputs[4:]])
    order = [0, 6, 1, 2, 3, 7, 4, 5]
    assert cosine(logits, torch.cat([expected[i] for i in order])).min() > ANSWER


@pytest.mark.parametrize("length", [129, 131, 200, 300, 400])
def test_a_sequence_behind_shared_full_blocks_gives_the_logits_of_a_cold_one(runner: ModelRunner, length: int) -> None:
    prompt = tokens(length)
    expected = runner.step([whole(prompt, first_block=16)])
    shared = (length - 1) // BLOCK
    blocks = [*range(16, 16 + shared), 40, 41]
    logits = runner.step([StepInput(prompt[shared * BLOCK :], shared * BLOCK, blocks, True)])
    assert cosine(logits, expected).min() > ANSWER


@pytest.mark.parametrize("ring_of", ["ring", "index_ring"])
def test_a_wrong_compressor_ring_at_a_cached_boundary_changes_the_entry_behind_it(
    runner: ModelRunner, ring_of: str
) -> None:
    """Guards the test above: it could not fail if the ring did not matter."""
    prompt = tokens(140)
    cold = runner.step([whole(prompt, first_block=16)])
    cache = runner.caches[1]
    keys = cache.compressed if ring_of == "ring" else cache.index
    ring = getattr(cache, ring_of)
    assert keys is not None
    warm = StepInput(prompt[BLOCK:], BLOCK, [16, 40], True)
    runner.step([warm])
    right = keys.data[40].clone()
    kept = ring.rows.clone()
    ring.rows[16 * ring.size : 17 * ring.size] = 0.5
    logits = runner.step([warm])
    ring.rows.copy_(kept)
    assert not torch.equal(keys.data[40], right)
    if ring_of == "ring":
        assert not torch.allclose(logits, cold, atol=1e-3)


def test_a_chunk_without_wanted_logits_gives_none(runner: ModelRunner) -> None:
    logits = runner.step([StepInput(tokens(5), 0, [0], False)])
    assert logits.shape == (0, MODEL.vocab_size)
    assert logits.dtype == torch.float32


def test_a_model_that_the_ops_cannot_hold_is_refused() -> None:
    unquantised = ModelConfig(name="test", dim=128, vocab_size=128, quantize=False)
    with pytest.raises(ValueError, match="quantize=False"):
        DeviceModel(unquantised, StoredWeights({}, torch.device("cpu")))
    with pytest.raises(ValueError, match="dim to be a multiple of 128, not 192"):
        DeviceModel(ModelConfig(name="test", dim=192), StoredWeights({}, torch.device("cpu")))


def test_backends_and_devices_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="fused backend runs on cpu only"):
        EngineConfig(device="cuda", backend="fused")
    with pytest.raises(ValueError, match="dtype must be float32"):
        EngineConfig(backend="ops", dtype="float64")
    with pytest.raises(ValueError, match="device 'tpu'"):
        EngineConfig(device="tpu")
    assert EngineConfig(device="cuda:1").uses_ops
    assert not EngineConfig().uses_ops


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message of a machine without a GPU")
def test_a_serve_without_its_gpu_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--port", "0", "--device", "cuda"]) == 2
    assert "finds no CUDA device" in capsys.readouterr().err
    assert serve.main(["--port", "0", "--device", "cuda", "--backend", "fused"]) == 2
    assert "fused backend runs on cpu only" in capsys.readouterr().err
