"""Logits of the tiny model by an independent implementation: transformers' ``DeepseekV4ForCausalLM``.

Run ``make test-oracle`` for the live comparison; ``python tests/oracle/transformers_oracle.py`` writes the fixture
``tests/oracle/transformers_logits.safetensors`` that the plain test run compares with. Needs transformers 5.23.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.weights import random_checkpoint

FIXTURE = Path(__file__).with_name("transformers_logits.safetensors")
SEED = 11
LENGTHS = (1, 3, 4, 5, 127, 128, 129, 511, 1025)
CONFIG = ModelConfig(name="oracle", vocab_size=256, quantize=False, max_position=4096)

_LAYER_TYPES = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}


def prompt(length: int) -> list[int]:
    """The same token ids on both sides."""
    generator = torch.Generator().manual_seed(1000 + length)
    return torch.randint(2, CONFIG.vocab_size, (length,), generator=generator).tolist()


def transformers_logits(lengths: tuple[int, ...] = LENGTHS) -> dict[str, torch.Tensor]:
    """Logits ``[vocab]`` FP32 of the last position of each prompt, computed in FP64 by transformers."""
    from transformers import DeepseekV4ForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        save_file(
            {k: v.contiguous() for k, v in random_checkpoint(CONFIG, SEED).items()},
            Path(folder) / "model.safetensors",
            metadata={"format": "pt"},
        )
        (Path(folder) / "config.json").write_text(json.dumps(_transformers_config()))
        model, info = DeepseekV4ForCausalLM.from_pretrained(
            folder,
            dtype=torch.float64,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    unexpected = [info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]]
    if unexpected:
        raise RuntimeError(f"the checkpoint did not load whole: {unexpected}")
    model.eval()
    with torch.inference_mode():
        return {
            str(length): model(torch.tensor([prompt(length)])).logits[0, -1].to(torch.float32) for length in lengths
        }


def _transformers_config() -> dict[str, object]:
    c = CONFIG
    yarn = c.yarn
    return {
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "vocab_size": c.vocab_size,
        "hidden_size": c.dim,
        "moe_intermediate_size": c.expert_dim,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": 1,
        "head_dim": c.head_dim,
        "q_lora_rank": c.q_lora_rank,
        "num_experts_per_tok": c.experts_per_token,
        "n_routed_experts": c.num_experts,
        "n_shared_experts": 1,
        "routed_scaling_factor": c.route_scale,
        "max_position_embeddings": c.max_position,
        "layer_types": [_LAYER_TYPES[r] for r in c.compress_ratios],
        "mlp_layer_types": ["hash_moe" if i < c.num_hash_layers else "moe" for i in range(c.num_layers)],
        "hc_mult": c.hc_mult,
        "hc_sinkhorn_iters": c.sinkhorn_iters,
        "hc_eps": c.hc_eps,
        "swiglu_limit": c.swiglu_limit,
        "sliding_window": c.window,
        "o_groups": c.o_groups,
        "o_lora_rank": c.o_lora_rank,
        "index_n_heads": c.index_heads,
        "index_head_dim": c.index_head_dim,
        "index_topk": c.index_topk,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "compress_rope_theta": yarn.theta,
        "rope_scaling": {
            "type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
        },
        "bos_token_id": 0,
        "eos_token_id": 1,
    }


if __name__ == "__main__":
    save_file(transformers_logits(), FIXTURE)
    print(f"wrote {FIXTURE}")
