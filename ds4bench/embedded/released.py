"""The layout of the released DeepSeek-V4 checkpoints, which engines read: ``config.json``, names of dtypes, tokenizer files.

The embedded engine keeps every packed or E8M0 byte as uint8 and describes a model by ``ModelConfig``. The released files
type those bytes (int8 for two E2M1 codes, float8_e8m0fnu for a scale: an engine that copies by value needs that) and have
the configuration of a ``transformers`` model. Fields and dtypes: DeepSeek's reference inference code and vLLM's loader.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ds4bench.embedded.chat.special_tokens import BOS, EOS
from ds4bench.embedded.config import SWA_ONLY, ModelConfig, YarnConfig
from ds4bench.embedded.tokenizer import ASSET, Tokenizer

MODEL_TYPE = "deepseek_v4"
EXTRA = "ds4bench"
"""A field of our own: the model's name, and whether its weights are random. Engines ignore it."""

EXPERT_CODES = torch.int8
SCALES = torch.float8_e8m0fnu
FP32_NAMES = ("attn_sink", "ape", "gate.bias", "_fn", "_base", "_scale")
"""Ends of the names of what is FP32; the other tensors that are not quantised are BF16."""

_SAME_NAME = ("vocab_size", "head_dim", "q_lora_rank", "o_groups", "o_lora_rank", "index_head_dim", "index_topk",
              "num_hash_layers", "swiglu_limit", "hc_mult", "hc_eps", "rope_theta")  # fmt: skip
_RENAMED = {
    "dim": "hidden_size", "num_heads": "num_attention_heads", "rope_dim": "qk_rope_head_dim", "window": "sliding_window",
    "index_heads": "index_n_heads", "num_experts": "n_routed_experts", "experts_per_token": "num_experts_per_tok",
    "expert_dim": "moe_intermediate_size", "route_scale": "routed_scaling_factor", "sinkhorn_iters": "hc_sinkhorn_iters",
    "norm_eps": "rms_norm_eps", "max_position": "max_position_embeddings",
}  # fmt: skip
_FIELDS = {**dict(zip(_SAME_NAME, _SAME_NAME, strict=True)), **_RENAMED}
_FIXED = {
    "n_shared_experts": 1, "num_key_value_heads": 1, "hidden_act": "silu", "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True, "expert_dtype": "fp4",
}  # fmt: skip
_QUANTISATION = {
    "quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128],
    "activation_scheme": "dynamic",
}  # fmt: skip


def to_values(config: ModelConfig, *, bos_id: int, eos_id: int, random: bool) -> dict[str, Any]:
    """``config.json`` of a model with one MTP block. Raises ValueError for one that is not quantised."""
    if not config.quantize:
        raise ValueError("the released layout is quantised: config.quantize must be True")
    yarn = config.yarn
    return {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": MODEL_TYPE, "torch_dtype": "bfloat16",
        "num_hidden_layers": config.num_layers, "num_nextn_predict_layers": 1,
        "compress_ratios": [*config.compress_ratios, SWA_ONLY],  # the last is the MTP block's
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
        **_FIXED,
        "compress_rope_theta": yarn.theta,
        "rope_scaling": {
            "type": "yarn", "rope_type": "yarn", "factor": yarn.factor, "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow, "original_max_position_embeddings": yarn.original_max_position,
        },
        "topk_method": "noaux_tc", "attention_bias": False, "tie_word_embeddings": False, "initializer_range": 0.02,
        "use_cache": True, "bos_token_id": bos_id, "eos_token_id": eos_id, "quantization_config": _QUANTISATION,
        EXTRA: {"name": config.name, "random": random},
    }  # fmt: skip


def from_values(values: dict[str, Any]) -> ModelConfig:
    """What ``config.json`` describes. Raises KeyError for a missing field, ValueError for what the engine cannot compute."""
    for name, only in _FIXED.items():
        if values[name] != only:
            raise ValueError(f"{name} is {values[name]!r}; the engine computes {only!r} only")
    layers, scaling = values["num_hidden_layers"], values["rope_scaling"]
    ratios = tuple(values["compress_ratios"][:layers])
    if len(ratios) < layers:
        raise ValueError(f"compress_ratios has {len(ratios)} entries for {layers} layers")
    yarn = YarnConfig(
        theta=values["compress_rope_theta"],
        factor=scaling["factor"],
        original_max_position=scaling["original_max_position_embeddings"],
        beta_fast=scaling["beta_fast"],
        beta_slow=scaling["beta_slow"],
    )
    name = values.get(EXTRA, {}).get("name", MODEL_TYPE)
    shape = {ours: values[theirs] for ours, theirs in _FIELDS.items()}
    return ModelConfig(name=name, compress_ratios=ratios, yarn=yarn, **shape)


def is_released(values: dict[str, Any]) -> bool:
    """Whether this is the ``config.json`` of a released checkpoint, and not one of ours."""
    return values.get("model_type") == MODEL_TYPE


def float_dtype(name: str) -> torch.dtype:
    """How a tensor that is neither quantised nor a table of ids is stored."""
    return torch.float32 if name.endswith(FP32_NAMES) else torch.bfloat16


def as_bytes(tensor: Tensor) -> Tensor:
    """Expert codes and E8M0 scales as uint8, as the engine keeps them; anything else as it is."""
    return tensor.view(torch.uint8) if tensor.dtype in (EXPERT_CODES, SCALES) else tensor


def write_tokenizer(folder: Path, max_position: int) -> None:
    """The engine's tokenizer, as ``transformers`` and an engine's ``--tokenizer-mode deepseek_v4`` read it."""
    shutil.copyfile(ASSET, folder / "tokenizer.json")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": EOS,
        "model_max_length": max_position, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_config(config: ModelConfig, folder: Path, tokenizer: Tokenizer, *, random: bool) -> None:
    """``config.json``. Raises ValueError when the vocabularies of model and tokenizer differ."""
    if config.vocab_size != tokenizer.vocab_size:
        raise ValueError(f"the model has {config.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}")
    values = to_values(config, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, random=random)
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
