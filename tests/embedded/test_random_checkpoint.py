"""Checkpoints of random weights in the released layout: what other engines find in them, and that ours serves them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode

from ds4bench.embedded import random_checkpoint, released, stored
from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.config import EngineConfig, ModelConfig, flash
from ds4bench.embedded.device.random_weights import RandomWeights
from ds4bench.embedded.device.weights import StoredWeights
from ds4bench.embedded.runner import ModelRunner
from ds4bench.embedded.tokenizer import Tokenizer
from ds4bench.embedded.weights import Weights
from tests.serving import launched

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]

E4M3, E8M0, CODES = torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.int8
F32, BF16, I32 = torch.float32, torch.bfloat16, torch.int32
VOCAB = Tokenizer().vocab_size
SMALL = ModelConfig(
    name="small", vocab_size=VOCAB, dim=256, compress_ratios=(0, 4, 128), num_hash_layers=1, num_experts=4,
    index_heads=4, index_topk=16, max_position=1024,
)  # fmt: skip


def fp8(name: str, rows: int, cols: int) -> Layout:
    return {f"{name}.weight": (E4M3, (rows, cols)), f"{name}.scale": (E8M0, (-(-rows // 128), cols // 128))}


def fp4(name: str, rows: int, cols: int) -> Layout:
    return {f"{name}.weight": (CODES, (rows, cols // 2)), f"{name}.scale": (E8M0, (rows, cols // 32))}


def compressor(name: str, ratio: int, dim: int) -> Layout:
    width = dim * (2 if ratio == 4 else 1)
    both = {f"{name}.{part}.weight": (BF16, (width, 4096)) for part in ("wkv", "wgate")}
    return {**both, f"{name}.ape": (F32, (ratio, width)), f"{name}.norm.weight": (BF16, (dim,))}


def block(ratio: int, *, hashed: bool, experts: int) -> Layout:
    """A block of DeepSeek-V4-Flash, written down from the table of the released checkpoint (kernels.md 1.1, 1.2)."""
    found: Layout = {
        **fp8("attn.wq_a", 1024, 4096), **fp8("attn.wq_b", 32768, 1024), **fp8("attn.wkv", 512, 4096),
        **fp8("attn.wo_a", 8192, 4096), **fp8("attn.wo_b", 4096, 8192),
        "attn.q_norm.weight": (BF16, (1024,)), "attn.kv_norm.weight": (BF16, (512,)), "attn.attn_sink": (F32, (64,)),
        "attn_norm.weight": (BF16, (4096,)), "ffn_norm.weight": (BF16, (4096,)), "ffn.gate.weight": (BF16, (experts, 4096)),
        **fp8("ffn.shared_experts.w1", 2048, 4096), **fp8("ffn.shared_experts.w2", 4096, 2048),
        **fp8("ffn.shared_experts.w3", 2048, 4096),
    }  # fmt: skip
    found |= {"ffn.gate.tid2eid": (I32, (VOCAB, 6))} if hashed else {"ffn.gate.bias": (F32, (experts,))}
    for expert in (f"ffn.experts.{i}" for i in range(experts)):
        found |= fp4(f"{expert}.w1", 2048, 4096) | fp4(f"{expert}.w2", 4096, 2048) | fp4(f"{expert}.w3", 2048, 4096)
    for part in ("attn", "ffn"):
        found |= {f"hc_{part}_fn": (F32, (24, 16384)), f"hc_{part}_base": (F32, (24,)), f"hc_{part}_scale": (F32, (3,))}
    if ratio:
        found |= compressor("attn.compressor", ratio, 512)
    if ratio == 4:
        found |= fp8("attn.indexer.wq_b", 8192, 1024) | compressor("attn.indexer.compressor", 4, 128)
        found |= {"attn.indexer.weights_proj.weight": (BF16, (64, 4096))}
    return found


def whole(layers: tuple[int, ...], experts: int) -> Layout:
    top: Layout = {
        "embed.weight": (BF16, (VOCAB, 4096)),
        "head.weight": (BF16, (VOCAB, 4096)),
        "norm.weight": (BF16, (4096,)),
    }
    head: Layout = {"hc_head_fn": (F32, (4, 16384)), "hc_head_base": (F32, (4,)), "hc_head_scale": (F32, (1,))}
    mtp = block(0, hashed=False, experts=experts) | fp8("e_proj", 4096, 4096) | fp8("h_proj", 4096, 4096) | head
    mtp |= {f"{part}norm.weight": (BF16, (4096,)) for part in ("", "e", "h")}
    found = top | head | {f"mtp.0.{name}": value for name, value in mtp.items()}
    for index, ratio in enumerate(layers):
        found |= {f"layers.{index}.{n}": v for n, v in block(ratio, hashed=index < 3, experts=experts).items()}
    return found


@pytest.mark.slow
def test_flash_has_the_released_names_dtypes_and_shapes() -> None:
    """The generator itself at full size, on tensors without memory."""
    config = random_checkpoint.shape("flash", VOCAB, 6, 8)
    with FakeTensorMode():
        found = {
            name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in random_checkpoint.tensors(config, 1, "cpu")
        }
    assert found == whole((0, 0, 4, 128, 4, 128), 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    random_checkpoint.write(SMALL, random_checkpoint.tensors(SMALL, 7, "cpu"), path, 300_000)
    return path


def test_the_index_names_the_file_of_every_tensor(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert [file.name for file in files] == sorted(set(index["weight_map"].values()))
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 4
    total = 0
    for file in files:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            sizes = [opened.get_tensor(name).nbytes for name in names]
        assert len(names) == 1 or sum(sizes) <= 300_000
        assert all(index["weight_map"][name] == file.name for name in names)
        total += sum(sizes)
    assert total == index["metadata"]["total_size"]


def test_what_is_read_back_is_what_the_serve_of_random_weights_makes(folder: Path) -> None:
    config = stored.read_config(folder)
    assert config == SMALL
    read, made = StoredWeights(stored.read(folder), torch.device("cpu")), RandomWeights(SMALL, 7, "cpu")
    for name in ("layers.1.attn.indexer.wq_b.weight", "layers.0.ffn.shared_experts.w2.weight", "mtp.0.h_proj.weight"):
        one, two = read.fp8(name), made.fp8(name)
        assert torch.equal(one.values.view(torch.uint8), two.values.view(torch.uint8))
        assert torch.equal(one.scale, two.scale)
    for prefix in ("layers.2.ffn.experts", "mtp.0.ffn.experts"):
        for parts in (("w1", "w3"), ("w2",)):
            some, others = read.experts(prefix, 4, *parts), made.experts(prefix, 4, *parts)
            assert torch.equal(some.packed, others.packed)
            assert torch.equal(some.scale, others.scale)
    for name in ("layers.0.ffn.gate.tid2eid", "layers.1.ffn.gate.bias", "layers.2.attn.compressor.ape", "embed.weight"):
        assert torch.equal(read.tensor(name), made.tensor(name))
    norm = "layers.1.attn.compressor.norm.weight"
    assert torch.equal(read.tensor(norm), made.tensor(norm).bfloat16().float())


def test_weights_are_alive_and_of_one_size(folder: Path) -> None:
    """Every matrix keeps the size of its input about: what dummy weights of engines do not."""
    checkpoint = stored.read(folder)
    weights = Weights(checkpoint, torch.float32)
    matrices = [name for name in checkpoint if name.endswith(".weight") and checkpoint[name].dim() == 2]
    assert len(matrices) > 60
    for name in matrices:
        value = weights.matrix(name)
        gain = float(value.square().mean().sqrt()) * value.shape[1] ** 0.5
        most = 17 if name == "embed.weight" else 3.3
        assert 0.6 < gain < most, name
        assert float((value == 0).float().mean()) < 0.15, name  # of 16 codes two are zero
    for name in ("layers.1.attn.attn_sink", "layers.1.attn.compressor.ape", "layers.0.hc_attn_fn", "hc_head_base"):
        assert float(checkpoint[name].std()) > 0


@pytest.mark.parametrize("backend", ["fused", "ops"])
def test_a_model_on_it_gives_finite_logits_that_depend_on_the_prompt(folder: Path, backend: str) -> None:
    engine = EngineConfig(block_size=128, num_blocks=8, backend=backend, num_threads=1)  # type: ignore[arg-type]
    runner = ModelRunner(stored.read_config(folder), engine, stored.read(folder))
    prompt = [10 + i % 100 for i in range(140)]
    logits = [runner.step([StepInput([5, 6, last, *prompt], 0, [0, 1], True)]) for last in (7, 8)]
    assert logits[0].isfinite().all()
    assert 0.1 < float(logits[0].std()) < 30
    assert not torch.equal(*logits)


def test_two_seeds_make_two_models() -> None:
    def first(seed: int) -> Iterator[torch.Tensor]:
        return (tensor for _, tensor in random_checkpoint.tensors(SMALL, seed, "cpu"))

    assert torch.equal(next(first(1)), next(first(1)))
    assert not torch.equal(next(first(1)), next(first(2)))


def test_the_gain_of_blocks_is_in_the_scales_of_their_last_linears_and_nowhere_else() -> None:
    plain = dict(random_checkpoint.tensors(SMALL, 7, "cpu"))
    calm = dict(random_checkpoint.changed(plain.items(), random_checkpoint.halvings_of(1 / 16), None))
    assert list(calm) == list(plain)
    moved = {name for name, tensor in plain.items() if not same(tensor, calm[name])}
    assert moved == {name for name in plain if name.endswith((".wo_b.scale", ".w2.scale"))}
    assert len(moved) == 4 * (1 + 1 + SMALL.num_experts)
    for name in moved:
        assert torch.equal(plain[name].float(), 16 * calm[name].float())


def test_rounding_stays_small_in_a_model_of_calm_blocks(tmp_path: Path) -> None:
    def logits(halvings: int, nudge: int | None) -> torch.Tensor:
        folder = tmp_path / f"{halvings} {nudge}"
        made = random_checkpoint.changed(random_checkpoint.tensors(SMALL, 7, "cpu"), halvings, nudge)
        random_checkpoint.write(SMALL, made, folder, 1 << 30)
        runner = ModelRunner(SMALL, EngineConfig(block_size=128, num_blocks=8, num_threads=1), stored.read(folder))
        return runner.step([StepInput([*range(10, 210)], 0, [0, 1], True)])

    wild, calm = (float((logits(gain, None) - logits(gain, 1)).abs().mean()) for gain in (0, 5))
    assert 0 < calm < 0.25 * wild


def test_the_control_moves_every_embedding_by_one_bf16_step() -> None:
    was = torch.tensor([[1.0, -2.5, 3e-3], [0.0, 1e2, -1.0]]).to(torch.bfloat16)
    moved = random_checkpoint.nudged(was, 1)
    assert moved.dtype == was.dtype
    relative = ((moved.double() - was.double()) / was.double())[was != 0].abs()
    assert ((relative > 2.0**-9) & (relative <= 2.0**-7)).all()
    assert moved[1, 0] == 0


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))


def test_the_configuration_is_the_released_one() -> None:
    """Values of DeepSeek-V4-Flash's config.json (kernels.md 1.1) and the fields that vLLM's model code reads."""
    values = released.to_values(flash(43, 129_280), bos_id=0, eos_id=1, random=True)
    expected = {
        "vocab_size": 129280, "hidden_size": 4096, "num_hidden_layers": 43, "num_nextn_predict_layers": 1,
        "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64, "q_lora_rank": 1024,
        "o_groups": 8, "o_lora_rank": 1024, "sliding_window": 128, "index_n_heads": 64, "index_head_dim": 128,
        "index_topk": 512, "n_routed_experts": 256, "num_experts_per_tok": 6, "n_shared_experts": 1,
        "moe_intermediate_size": 2048, "num_hash_layers": 3, "scoring_func": "sqrtsoftplus", "routed_scaling_factor": 1.5,
        "topk_method": "noaux_tc", "norm_topk_prob": True, "swiglu_limit": 10.0, "hc_mult": 4, "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "compress_rope_theta": 160000.0, "expert_dtype": "fp4",
        "hidden_act": "silu", "model_type": "deepseek_v4", "architectures": ["DeepseekV4ForCausalLM"],
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected
    assert values["compress_ratios"] == [0, 0, *[4, 128] * 20, 4, 0]
    assert values["quantization_config"]["weight_block_size"] == [128, 128]
    assert (values["rope_scaling"]["rope_type"], values["rope_scaling"]["factor"]) == ("yarn", 16)
    assert released.from_values(json.loads(json.dumps(values))) == flash(43, 129_280)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "no field 'hidden_size'"),
        ({"n_shared_experts": 2}, "n_shared_experts is 2; the engine computes 1 only"),
        ({"compress_ratios": [0, 4]}, "compress_ratios has 2 entries for 3 layers"),
        ({"compress_ratios": [0, 4, 8, 0]}, "compress_ratios has [8]; allowed: 0, 4, 128"),
        ({"rope_scaling": {}}, "no field 'factor'"),
    ],
)
def test_a_configuration_that_the_engine_cannot_compute_is_named(
    folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    values = json.loads((folder / "config.json").read_text()) | change
    kept = {name: value for name, value in values.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    with pytest.raises(stored.StoredError) as caught:
        stored.read_config(tmp_path)
    assert f"{tmp_path / 'config.json'} is not the configuration of a checkpoint: {message}" == str(caught.value)


def test_the_tokenizer_has_as_many_tokens_as_the_model(folder: Path, tmp_path: Path) -> None:
    again = Tokenizer(folder / "tokenizer.json")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    assert again.vocab_size == config["vocab_size"]
    assert again.special_id(settings["bos_token"]) == config["bos_token_id"]
    assert again.special_id(settings["eos_token"]) == config["eos_token_id"]
    with pytest.raises(ValueError, match="the model has 128 tokens, the tokenizer 2048"):
        random_checkpoint.write(replace(SMALL, vocab_size=128), [], tmp_path / "new", 1 << 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "44"], "layers must be 1 to 43, not 44"),
        (["--dims", "tiny", "--layers", "3"], "--layers needs --dims flash"),
        (["--experts", "5"], "--experts must be 6 (those of a token) to 256, not 5"),
        (["--block-gain", "0.3"], "--block-gain must be 1 or a power of two down to 0.00390625, not 0.3"),
        (["--block-gain", "2"], "--block-gain must be 1 or a power of two down to 0.00390625, not 2.0"),
        (["--max-shard-mb", "0"], "--max-shard-mb must be at least 1, not 0"),
        (["--dims", "tiny"], "is not empty; name a new folder"),
    ],
)
def test_bad_settings_end_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("kept")
    assert random_checkpoint.main(["--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.integration
def test_the_engine_serves_what_the_command_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "checkpoint"
    assert random_checkpoint.main(["--dims", "tiny", "--experts", "4", "--out", str(checkpoint)]) == 0
    assert "ds4-tiny-4e" in capsys.readouterr().out
    arguments = ["--weights", str(checkpoint), "--num-blocks", "8", "--threads", "1", "--num-speculative-tokens", "1"]
    with launched(tmp_path, *arguments) as url, httpx.Client(base_url=url, timeout=60) as client:
        body = {"prompt": "The baker counted", "max_tokens": 4, "ignore_eos": True}
        assert client.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 4
        version = client.get("/version").json()
    assert (version["model"], version["weights"]) == ("ds4-tiny-4e", "random")
