"""A checkpoint in a folder: ``model-*.safetensors`` with DeepSeek's tensor names, and the model's ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path

from ds4bench.embedded.config import ModelConfig, YarnConfig
from ds4bench.embedded.weights import Checkpoint

CONFIG = "config.json"
NANO = Path(__file__).parent / "assets" / "ds4-nano"
"""The trained weights that the package brings; ``make train-nano`` makes them."""


class StoredError(ValueError):
    """A folder that holds no checkpoint, or one that cannot be read."""


def read(folder: Path) -> Checkpoint:
    """All tensors of a folder, on the host. Raises StoredError when there are none."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("model-*.safetensors"))
    if not files:
        raise StoredError(
            f"{folder} holds no model-*.safetensors; python -m ds4bench.embedded.training --out DIR makes one"
        )
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def read_config(folder: Path) -> ModelConfig:
    """The configuration beside a checkpoint. Raises StoredError when it is missing or has other fields."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values["compress_ratios"] = tuple(values["compress_ratios"])
        values["yarn"] = YarnConfig(**values["yarn"])
        return ModelConfig(**values)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise StoredError(f"{path} is not the configuration of a checkpoint: {error}") from error
