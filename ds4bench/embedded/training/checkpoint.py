"""Between the training model's parameters and the engine's checkpoint: names, stacked experts, initial values."""

from __future__ import annotations

from dataclasses import replace

import torch
from ds4_kernels.reference import quant
from torch import Tensor

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.training.layers import Linear
from ds4bench.embedded.training.model import TrainingModel
from ds4bench.embedded.weights import Checkpoint, random_checkpoint, scale_name

_HEAD_GAIN = 3.0  # of the random checkpoint's head


def initialise(model: TrainingModel, seed: int) -> None:
    """Fill the model with the engine's random weights of this seed; predictions begin near-uniform."""
    values = random_checkpoint(replace(model.config, quantize=False), seed)
    values["head.weight"] = values["head.weight"] / (2 * _HEAD_GAIN)
    load(model, values)


def load(model: TrainingModel, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint, quantised or not, into the model. Raises KeyError for a tensor that is missing."""
    floats = {name: _widened(checkpoint, name) for name in checkpoint if not name.endswith(".scale") or _is_plain(name)}
    with torch.no_grad():
        for name, target in _tensors(model).items():
            target.copy_(_stacked(floats, name, model.config))


def unquantised(model: TrainingModel, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """The parameters under the engine's names; integers stay integers."""
    out: Checkpoint = {}
    for name, value in _tensors(model).items():
        for part, tensor in _split(name, value.detach().cpu(), model.config):
            out[part] = tensor.to(dtype).contiguous() if tensor.is_floating_point() else tensor
    return out


def quantised(model: TrainingModel) -> Checkpoint:
    """As the released checkpoint stores them: MXFP4 experts, FP8 linears, BF16 and FP32 for the rest (kernels.md 1.2)."""
    fp8 = {
        _engine_name(f"{path}.weight") for path, m in model.named_modules() if isinstance(m, Linear) and m.stored_fp8
    }
    out: Checkpoint = {}
    for name, value in unquantised(model).items():
        if ".ffn.experts." in name:
            out[name], out[scale_name(name)] = quant.mxfp4_quantize(value)
        elif name in fp8:
            out[name], out[scale_name(name)] = quant.fp8_quantize_weight(value)
        elif name.endswith(".weight"):
            out[name] = value.to(torch.bfloat16)
        else:
            out[name] = value
    return out


def _tensors(model: TrainingModel) -> dict[str, Tensor]:
    return {_engine_name(name): value for name, value in model.state_dict(keep_vars=True).items()}


def _engine_name(name: str) -> str:
    """``layers.0.hc_attn.fn`` -> ``layers.0.hc_attn_fn``; ``mtp.0.block.attn...`` -> ``mtp.0.attn...``."""
    name = name.replace("mtp.0.block.", "mtp.0.")
    for connection in ("hc_attn", "hc_ffn", "hc_head"):
        name = name.replace(f"{connection}.", f"{connection}_")
    return name


def _split(name: str, value: Tensor, config: ModelConfig) -> list[tuple[str, Tensor]]:
    """The engine's tensors of one of ours: stacked experts come apart."""
    prefix, _, kind = name.rpartition(".")
    if not prefix.endswith(".experts"):
        return [(name, value)]
    if kind == "w2":
        parts = value.chunk(config.num_experts, dim=1)
        return [(f"{prefix}.{e}.w2.weight", part) for e, part in enumerate(parts)]
    halves = value.view(config.num_experts, 2, config.expert_dim, config.dim)
    return [
        (f"{prefix}.{e}.w{which}.weight", halves[e, i]) for e in range(len(halves)) for i, which in ((0, 1), (1, 3))
    ]


def _stacked(values: Checkpoint, name: str, config: ModelConfig) -> Tensor:
    prefix, _, kind = name.rpartition(".")
    if not prefix.endswith(".experts"):
        return values[name]
    experts = range(config.num_experts)
    if kind == "w2":
        return torch.cat([values[f"{prefix}.{e}.w2.weight"] for e in experts], dim=1)
    return torch.cat([values[f"{prefix}.{e}.w{which}.weight"] for e in experts for which in (1, 3)])


def _is_plain(name: str) -> bool:
    return name.endswith("_scale")


def _widened(checkpoint: Checkpoint, name: str) -> Tensor:
    value = checkpoint[name]
    if value.dtype == torch.float8_e4m3fn:
        return quant.fp8_dequantize_weight(value, checkpoint[scale_name(name)], torch.float32)
    if value.dtype == torch.uint8:
        return quant.mxfp4_dequantize(value, checkpoint[scale_name(name)], torch.float32)
    return value
