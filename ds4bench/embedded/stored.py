"""A checkpoint in a folder: ``model-*.safetensors`` with DeepSeek's tensor names, and the model's ``config.json``."""

from __future__ import annotations

import json
from pathlib import Path

from ds4bench.embedded import released
from ds4bench.embedded.config import ModelConfig, YarnConfig
from ds4bench.embedded.weights import Checkpoint

CONFIG = "config.json"
NANO = Path(__file__).parent / "assets" / "ds4-nano"
"""The trained weights that the package brings; ``make train-nano`` makes them."""


class StoredError(ValueError):
    """A folder that holds no checkpoint, or one that cannot be read."""


def read(folder: Path) -> Checkpoint:
    """All tensors of a folder, on the host, packed codes and E8M0 scales as uint8. Raises StoredError when there are none."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("model-*.safetensors"))
    if not files:
        raise StoredError(
            f"{folder} holds no model-*.safetensors; python -m ds4bench.embedded.training --out DIR makes one"
        )
    return {name: released.as_bytes(tensor) for file in files for name, tensor in load_file(file).items()}


def read_config(folder: Path) -> ModelConfig:
    """The configuration beside a checkpoint: ours, or a released one's. Raises StoredError when it is missing or unfit."""
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if released.is_released(values):
            return released.from_values(values)
        values["compress_ratios"] = tuple(values["compress_ratios"])
        values["yarn"] = YarnConfig(**values["yarn"])
        return ModelConfig(**values)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise StoredError(f"{path} is not the configuration of a checkpoint: {reason}") from error


def is_random(folder: Path) -> bool:
    """Whether a checkpoint that ``read_config`` reads says that its weights are random."""
    values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return bool(values.get(released.EXTRA, {}).get("random", False))
