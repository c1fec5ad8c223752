"""Checkpoints in folders."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from ds4bench.embedded import stored
from ds4bench.embedded.__main__ import main
from ds4bench.embedded.config import NANO
from ds4bench.embedded.training.export import write_shards


def test_tensors_of_all_shards_come_back(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b.scale": torch.arange(4, dtype=torch.uint8)}
    write_shards(tensors, tmp_path)
    again = stored.read(tmp_path)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        stored.StoredError, match=r"holds no model-\*\.safetensors; python -m ds4bench\.embedded\.training"
    ):
        stored.read(tmp_path)


def test_the_configuration_comes_back(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(asdict(NANO)))
    assert stored.read_config(tmp_path) == NANO


@pytest.mark.parametrize("text", ["{", "{}", '{"compress_ratios": [], "yarn": {}, "colour": 1}'])
def test_a_bad_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(stored.StoredError, match=r"config\.json is not the configuration of a checkpoint"):
        stored.read_config(tmp_path)


def test_a_serve_of_a_missing_checkpoint_exits_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--port", "0", "--weights", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.json is not the configuration of a checkpoint" in error
