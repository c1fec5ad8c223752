"""Names, formats and files of the exported checkpoint."""

import json

import pytest
import torch

from ds4bench.embedded import stored as files
from ds4bench.embedded.config import NANO, ModelConfig
from ds4bench.embedded.training import checkpoint, export
from ds4bench.embedded.training.model import TrainingModel
from ds4bench.embedded.weights import random_checkpoint

SMALL = ModelConfig(
    vocab_size=64,
    dim=128,
    num_heads=2,
    o_groups=1,
    compress_ratios=(0, 4, 128),
    num_hash_layers=1,
    num_experts=4,
    max_position=256,
)


def _model() -> TrainingModel:
    model = TrainingModel(SMALL)
    checkpoint.initialise(model, 1)
    return model


def test_names_and_shapes_are_the_engines() -> None:
    ours, engines = checkpoint.quantised(_model()), random_checkpoint(SMALL, 1)
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in engines.items()}
    stored = {torch.uint8, torch.float8_e4m3fn, torch.int32}
    assert {n: t.dtype for n, t in ours.items() if t.dtype in stored} == {
        n: t.dtype for n, t in engines.items() if t.dtype in stored
    }


def test_initial_parameters_are_the_engines_random_ones() -> None:
    ours = checkpoint.unquantised(_model())
    name = "layers.1.ffn.experts.3.w3.weight"
    wanted = random_checkpoint(ModelConfig(**{**SMALL.__dict__, "quantize": False}), 1)
    assert torch.equal(ours[name], wanted[name])


def test_a_loaded_checkpoint_comes_out_the_same(tmp_path) -> None:
    export.write(_model(), tmp_path, {"step": 3})
    again = TrainingModel(files.read_config(tmp_path))
    checkpoint.load(again, files.read(tmp_path))
    first = checkpoint.unquantised(again)
    checkpoint.load(again, checkpoint.quantised(again))
    assert files.read_config(tmp_path) == SMALL
    assert all(torch.equal(first[name], value) for name, value in checkpoint.unquantised(again).items())


def test_shards_are_small_and_indexed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 300_000)
    stored = checkpoint.quantised(_model())
    export.write_shards(stored, tmp_path)
    index = json.loads((tmp_path / export.INDEX).read_text())
    assert set(index["weight_map"]) == set(stored)
    assert len(set(index["weight_map"].values())) > 2
    assert set(files.read(tmp_path)) == set(stored)


def test_an_empty_folder_is_an_error(tmp_path) -> None:
    with pytest.raises(files.StoredError, match="holds no"):
        files.read(tmp_path)


def test_nano_is_small_enough() -> None:
    model = TrainingModel(NANO)
    checkpoint.initialise(model, 1)
    assert sum(t.numel() * t.element_size() for t in checkpoint.quantised(model).values()) < export.MOST_BYTES
