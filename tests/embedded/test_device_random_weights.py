"""Weights made on the device: formats, sizes and determinism, and a model that runs on them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ds4_kernels.reference import quant

from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.config import EngineConfig, ModelConfig, flash
from ds4bench.embedded.device.memory import cache_bytes, flash_that_fits, layer_bytes, layers_that_fit
from ds4bench.embedded.device.model import DeviceModel
from ds4bench.embedded.device.random_weights import RandomWeights
from ds4bench.embedded.device.weights import StoredWeights
from ds4bench.embedded.runner import ModelRunner
from ds4bench.embedded.weights import random_checkpoint

MODEL = ModelConfig(
    name="test", vocab_size=128, dim=256, compress_ratios=(0, 4, 128), num_hash_layers=1, num_experts=4,
    index_heads=4, index_topk=16, max_position=1024,
)  # fmt: skip
ENGINE = EngineConfig(block_size=128, num_blocks=8, backend="ops", num_threads=1)
GIB = 2**30


@pytest.fixture(scope="module")
def made() -> RandomWeights:
    return RandomWeights(MODEL, 1, "cpu")


@pytest.fixture(scope="module")
def stored() -> StoredWeights:
    return StoredWeights(random_checkpoint(MODEL, 1), torch.device("cpu"))


def test_shapes_and_dtypes_are_those_of_a_checkpoint(made: RandomWeights, stored: StoredWeights) -> None:
    for name in ("layers.1.attn.wq_b.weight", "layers.2.attn.wo_b.weight", "mtp.0.e_proj.weight"):
        one, two = made.fp8(name), stored.fp8(name)
        assert (one.values.shape, one.values.dtype) == (two.values.shape, two.values.dtype)
        assert (one.scale.shape, one.scale.dtype) == (two.scale.shape, two.scale.dtype)
    pair = "layers.0.attn.wq_a.weight", "layers.0.attn.wkv.weight"
    assert made.fp8(*pair).values.shape == stored.fp8(*pair).values.shape
    for parts in (("w1", "w3"), ("w2",)):
        experts = made.experts("layers.0.ffn.experts", 4, *parts), stored.experts("layers.0.ffn.experts", 4, *parts)
        assert experts[0].packed.shape == experts[1].packed.shape
        assert experts[0].scale.shape == experts[1].scale.shape
    for name in ("layers.0.ffn.gate.tid2eid", "layers.1.ffn.gate.bias", "layers.1.attn.compressor.ape", "hc_head_fn"):
        assert made.has(name)
        assert made.tensor(name).shape == stored.tensor(name).shape
    assert not made.has("layers.0.attn.compressor.ape")
    assert made.has_mtp()


@pytest.mark.parametrize(("parts", "cols"), [(("w1", "w3"), 256), (("w2",), 128)])
def test_experts_have_the_gain_of_a_linear(made: RandomWeights, parts: tuple[str, ...], cols: int) -> None:
    experts = made.experts("layers.1.ffn.experts", 4, *parts)
    values = quant.mxfp4_dequantize(experts.packed, experts.scale, torch.float32)
    gain = float(values.square().mean().sqrt()) * math.sqrt(cols)
    assert 2**-0.6 < gain < 2**0.6  # scales are powers of two
    assert abs(float(values.mean())) < 0.01
    assert len(experts.packed.unique()) == 256


def test_what_checkpoints_store_in_bf16_is_bf16(made: RandomWeights) -> None:
    for name in ("layers.1.attn.compressor.wkv.weight", "layers.1.ffn.gate.weight", "head.weight"):
        value = made.tensor(name)
        assert value.dtype == torch.float32
        assert torch.equal(value.bfloat16().float(), value)


def test_a_tensor_depends_on_seed_and_name_alone(made: RandomWeights) -> None:
    name, prefix = "layers.1.attn.wkv.weight", "layers.1.ffn.experts"
    first = made.tensor(name)
    again = RandomWeights(MODEL, 1, "cpu")
    experts = again.experts(prefix, 4, "w2")
    assert torch.equal(again.tensor(name), first)
    assert torch.equal(made.experts(prefix, 4, "w2").packed, experts.packed)
    assert not torch.equal(made.tensor("layers.0.attn.wkv.weight"), first)
    assert not torch.equal(RandomWeights(MODEL, 2, "cpu").tensor(name), first)
    revisions = {made.revision(), again.revision(), RandomWeights(MODEL, 2, "cpu").revision()}
    revisions.add(RandomWeights(replace(MODEL, dim=512), 1, "cpu").revision())
    assert len(revisions) == 3


def test_a_model_on_them_gives_finite_logits_that_depend_on_the_prompt(made: RandomWeights) -> None:
    runner = ModelRunner(MODEL, replace(ENGINE, num_speculative_tokens=1), made)
    assert isinstance(runner.model, DeviceModel)
    assert runner.weights_revision == made.revision()
    logits = [
        runner.step([StepInput([5, 6, last, *[10 + i % 100 for i in range(140)]], 0, [0, 1], True)]) for last in (7, 8)
    ]
    assert logits[0].isfinite().all()
    assert 0.1 < float(logits[0].std()) < 30
    assert not torch.equal(*logits)


def test_the_fused_backend_has_no_use_for_them(made: RandomWeights) -> None:
    with pytest.raises(ValueError, match="need --backend ops"):
        ModelRunner(MODEL, replace(ENGINE, backend="fused"), made)


def test_flash_has_the_released_dimensions() -> None:
    config = flash(43, 2048)
    assert config.compress_ratios[:6] == (0, 0, 4, 128, 4, 128)
    assert [config.compress_ratios.count(ratio) for ratio in (0, 4, 128)] == [2, 21, 20]
    assert (config.dim, config.num_heads, config.o_groups, config.num_experts) == (4096, 64, 8, 256)
    assert flash(8, 2048).compress_ratios == (0, 0, 4, 128, 4, 128, 4, 128)
    for count in (0, 44):
        with pytest.raises(ValueError, match=f"layers must be 1 to 43, not {count}"):
            flash(count, 2048)


def test_the_size_of_a_layer_is_that_of_its_tensors() -> None:
    """Against the tensors of a small model, and the released one's 147.2 GB of experts and 5.9 GB of FP8 linears."""
    model = DeviceModel(MODEL, RandomWeights(MODEL, 1, "cpu"))
    for block, ratio in zip(model.blocks, MODEL.compress_ratios, strict=True):
        attention, moe = block.attention, block.moe
        big = [attention.q_and_kv, attention.wq_b, attention.wo_b, moe.shared_w13, moe.shared_w2]
        if attention.indexer is not None:
            big.append(attention.indexer.wq_b)
        total = sum(part.values.nbytes for part in big) + attention.wo_a.nbytes
        total += sum(part.nbytes for experts in (moe.w13, moe.w2) for part in (experts.packed, experts.scale))
        total += moe.gate.weight.numel() * 2
        if attention.projection is not None:
            total += attention.projection.weight.numel() * 2
        assert layer_bytes(MODEL, ratio) == total
    whole = flash(43, 2048)
    assert sum(layer_bytes(whole, ratio) for ratio in whole.compress_ratios) / 1e9 == pytest.approx(154, abs=2)


def test_as_many_layers_as_fit() -> None:
    engine = EngineConfig(backend="ops", num_blocks=2304, max_num_batched_tokens=8192)

    def fit(gib: float) -> int:
        return layers_that_fit(lambda count: flash(count, 2048), 43, engine, int(gib * GIB))

    assert 20 < fit(139) < 36
    assert fit(60) < fit(139) < fit(400) == 43
    whole = flash(43, 2048)
    used = sum(layer_bytes(whole, r) + cache_bytes(whole, engine, r) for r in whole.compress_ratios[: fit(139)])
    assert 100 < used / GIB < 130
    with pytest.raises(ValueError, match=r"not one layer of ds4-flash fits into 4\.0 GiB of free GPU memory"):
        fit(4)
    with pytest.raises(ValueError, match="needs --layers"):
        flash_that_fits(engine, 2048)
