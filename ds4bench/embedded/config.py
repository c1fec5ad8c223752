"""Shapes of the model and limits of the engine.

The model is DeepSeek-V4's architecture with small dimensions. What the byte layouts fix stays as it is in the
released model: head_dim 512 (448 + 64 rope), index_head_dim 128, window 128, ratios {0, 4, 128}, hc_mult 4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

SWA_ONLY = 0
C4A = 4
C128A = 128

MAX_SPECULATIVE_TOKENS = 3

GPU_BATCHED_TOKENS = 8192
"""Prefill chunk on a GPU: below it the routed experts read their weights for too few tokens each (8,192 x 6 / 256 = 192)."""

GPU_BLOCKS = 2304
"""KV blocks on a GPU: four sequences of 124,080 tokens and their answers, and some room for cached prefixes."""


@dataclass(frozen=True)
class YarnConfig:
    """YaRN of the compressed layers: theta, factor, original length and the two correction bounds."""

    theta: float = 160_000.0
    factor: float = 16.0
    original_max_position: int = 65_536
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a DeepSeek-V4 model. Defaults are ``ds4-tiny``: seven layers that a CPU can serve."""

    name: str = "ds4-tiny"
    vocab_size: int = 2048
    dim: int = 256
    num_heads: int = 8
    head_dim: int = 512
    rope_dim: int = 64
    q_lora_rank: int = 128
    o_groups: int = 2
    o_lora_rank: int = 128
    window: int = 128
    compress_ratios: tuple[int, ...] = (0, 0, 4, 128, 4, 128, 4)
    index_heads: int = 8
    index_head_dim: int = 128
    index_topk: int = 64
    num_experts: int = 8
    experts_per_token: int = 2
    expert_dim: int = 128
    num_hash_layers: int = 3
    route_scale: float = 1.5
    swiglu_limit: float = 10.0
    hc_mult: int = 4
    sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    yarn: YarnConfig = field(default_factory=YarnConfig)
    max_position: int = 131_072
    quantize: bool = True  # False: no FP8/FP4 simulation anywhere; only for the comparison with an unquantised oracle

    def __post_init__(self) -> None:
        bad = set(self.compress_ratios) - {SWA_ONLY, C4A, C128A}
        if bad:
            raise ValueError(f"compress_ratios has {sorted(bad)}; allowed: 0, 4, 128")
        if self.num_heads % self.o_groups:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of o_groups {self.o_groups}")

    @property
    def num_layers(self) -> int:
        """Number of decoder layers, without MTP blocks."""
        return len(self.compress_ratios)


NANO = ModelConfig(
    name="ds4-nano",
    num_heads=4,
    compress_ratios=(0, 0, 4, 128, 4, 128),
    index_heads=4,
    num_experts=12,
    experts_per_token=3,
)
"""The trained model: 18 M parameters with the MTP block, 9 M of them at work on a token."""

FLASH_LAYERS = 43


def flash(num_layers: int, vocab_size: int) -> ModelConfig:
    """DeepSeek-V4-Flash's layer dimensions (kernels.md 1.1) in ``num_layers`` layers, 1 to 43.

    Everything that a layer computes has its real size. The vocabulary is the caller's: the engine's tokenizer can decode
    its own 2,048 tokens only, and a random head over 129,280 would almost never name one of them. That leaves
    out 0.25 ms of a decode step (calculated: the head's 1.06 GB in BF16 at 4.3 TB/s) and next to nothing of a prefill. The
    rope tables end at 262,144 positions instead of 1,048,576.
    """
    if not 1 <= num_layers <= FLASH_LAYERS:
        raise ValueError(f"layers must be 1 to {FLASH_LAYERS}, not {num_layers}")
    return ModelConfig(
        name="ds4-flash" if num_layers == FLASH_LAYERS else f"ds4-flash-{num_layers}l",
        vocab_size=vocab_size,
        dim=4096,
        num_heads=64,
        q_lora_rank=1024,
        o_groups=8,
        o_lora_rank=1024,
        compress_ratios=tuple(SWA_ONLY if i < 2 else (C4A, C128A)[i % 2] for i in range(num_layers)),
        index_heads=64,
        index_topk=512,
        num_experts=256,
        experts_per_token=6,
        expert_dim=2048,
        max_position=262_144,
    )


@dataclass(frozen=True)
class EngineConfig:
    """Limits of the serve. ``block_size`` is positions per block; one block id stands for them in every cache.

    ``backend`` is what computes: ``fused``, the model made for CPUs, or ``ops``, the one on the ops of ``ds4_kernels``;
    ``auto`` is ``fused`` on a CPU and ``ops`` on a GPU. ``num_speculative_tokens`` are drafted by the model's MTP block in
    each step, 0 to 3. ``enforce_eager``: no CUDA graphs.
    """

    block_size: int = 256
    num_blocks: int = 640
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    max_model_len: int = 131_072
    enable_prefix_caching: bool = True
    device: str = "cpu"
    backend: Literal["auto", "fused", "ops"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 20_260_501
    num_threads: int | None = None
    num_speculative_tokens: int = 0
    enforce_eager: bool = False

    def __post_init__(self) -> None:
        if self.block_size % C128A:
            raise ValueError(f"block_size {self.block_size} must be a multiple of {C128A}")
        if self.num_blocks < 1 or self.max_num_batched_tokens < 1 or self.max_num_seqs < 1:
            raise ValueError("num_blocks, max_num_batched_tokens and max_num_seqs must be at least 1")
        if not 0 <= self.num_speculative_tokens <= MAX_SPECULATIVE_TOKENS:
            raise ValueError(
                f"num_speculative_tokens {self.num_speculative_tokens} must be 0 to {MAX_SPECULATIVE_TOKENS}"
            )
        if self.device != "cpu" and self.device.partition(":")[0] != "cuda":
            raise ValueError(f"device {self.device!r}: allowed are cpu, cuda and cuda:<index>")
        if self.backend == "fused" and self.device != "cpu":
            raise ValueError(f"the fused backend runs on cpu only, not on {self.device}; use backend ops")
        if self.uses_ops and self.dtype != "float32":
            raise ValueError(f"the ops backend computes in its ops' own types: dtype must be float32, not {self.dtype}")

    @property
    def uses_ops(self) -> bool:
        """Whether the model runs on the ops of ``ds4_kernels``."""
        return self.backend == "ops" or self.device != "cpu"
