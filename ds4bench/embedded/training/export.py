"""Checkpoints as files: safetensors in shards, an index, and the model's configuration as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ds4bench.embedded.stored import CONFIG
from ds4bench.embedded.training.checkpoint import quantised, unquantised
from ds4bench.embedded.training.model import TrainingModel
from ds4bench.embedded.weights import Checkpoint

SHARD_BYTES = 14 * 2**20
MOST_BYTES = 20_000_000
INDEX = "model.safetensors.index.json"


class ExportError(ValueError):
    """A checkpoint that is too large."""


def write(model: TrainingModel, folder: Path, report: dict[str, Any] | None = None) -> int:
    """Write the quantised checkpoint; its bytes. Raises ExportError when it has more than ``MOST_BYTES``."""
    checkpoint = quantised(model)
    size = sum(_bytes(tensor) for tensor in checkpoint.values())
    if size > MOST_BYTES:
        raise ExportError(f"the quantised checkpoint has {size:,} bytes; at most {MOST_BYTES:,} are allowed")
    write_shards(checkpoint, folder)
    (folder / CONFIG).write_text(json.dumps(asdict(model.config), indent=1) + "\n")
    (folder / "training.json").write_text(json.dumps(report or {}, indent=1) + "\n")
    return size


def write_unquantised(model: TrainingModel, folder: Path) -> None:
    """Write the parameters in BF16, to go on with elsewhere or to compare with."""
    write_shards(unquantised(model, torch.bfloat16), folder, index=False)


def write_shards(checkpoint: Checkpoint, folder: Path, *, index: bool = True) -> None:
    """Write ``model-0000i-of-0000n.safetensors`` of at most ``SHARD_BYTES`` each, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("model-*.safetensors"):
        old.unlink()
    shards: list[Checkpoint] = [{}]
    used = 0
    for name, tensor in sorted(checkpoint.items()):
        if used + _bytes(tensor) > SHARD_BYTES and shards[-1]:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += _bytes(tensor)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name)
    if not index:
        return
    where = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(_bytes(tensor) for tensor in checkpoint.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1) + "\n")


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
