"""Random weights made on the device, in the formats that the ops read: gigabytes a second, and no copy on the host.

Floats and FP8 linears are those of ``weights.Initialiser``, quantised as checkpoints are. The routed experts, nearly all of
the bytes, are random MXFP4 codes with random scales of the right size instead of quantised numbers.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from functools import cached_property

import torch
from ds4_kernels.reference import quant
from torch import Tensor

from ds4bench.embedded.config import ModelConfig
from ds4bench.embedded.device.weights import BLOCK, Fp4Experts, Fp8Matrix
from ds4bench.embedded.weights import MTP_PREFIX, Initialiser, Make

CODE_RMS = math.sqrt(sum(v * v for v in (0, 0.5, 1, 1.5, 2, 3, 4, 6)) / 8)
"""Root mean square of E2M1 values whose sixteen codes are equally likely."""

SCALE_RMS = math.sqrt((1 + 4) / 2)
"""Of scales that are 1 or 2, equally likely."""

EXPERTS_AT_ONCE = 32

BF16_NAMES = ("wkv.weight", "wgate.weight", "weights_proj.weight", "gate.weight", "embed.weight", "head.weight")
"""What the released checkpoint stores in BF16 (kernels.md 1.2); these are rounded to it."""


class RandomWeights:
    """See ``device.weights.ModelWeights``. Every tensor depends on the seed and its name alone, and on the kind of device."""

    def __init__(self, config: ModelConfig, seed: int, device: torch.device | str) -> None:
        self.config = config
        self.device = torch.device(device)
        self._seed = seed

    @cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator(device=self.device)

    @cached_property
    def _makers(self) -> dict[str, Make]:
        return dict(Initialiser(self.config, self._generator).model())

    def has(self, name: str) -> bool:
        """Whether the model has this tensor."""
        return name in self._makers

    def has_mtp(self) -> bool:
        """Whether there is an MTP block: always."""
        return any(name.startswith(MTP_PREFIX) for name in self._makers)

    def revision(self) -> str:
        """A hash of what the weights are made from, as there may be too many to read."""
        recipe = f"random on {self.device.type}, seed {self._seed}, {self.config}"
        return hashlib.sha256(recipe.encode()).hexdigest()[:12]

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor in ``dtype``; those that checkpoints store in BF16 have such values."""
        value = self._make(name)
        if name.endswith(BF16_NAMES):
            value = value.to(torch.bfloat16)
        return value.to(dtype).contiguous()

    def fp8(self, *names: str) -> Fp8Matrix:
        """FP8 linears of one input, their rows stacked. Raises ValueError if their blocks of 128 rows do not stack."""
        parts = [quant.fp8_quantize_weight(self._make(name)) for name in names]
        for name, (values, _) in zip(names[:-1], parts[:-1], strict=True):
            if values.shape[0] % BLOCK:
                raise ValueError(f"{name} has {values.shape[0]} rows: stacking needs a multiple of {BLOCK}")
        rows = torch.cat([values.view(torch.uint8) for values, _ in parts])
        return Fp8Matrix(rows.view(torch.float8_e4m3fn), torch.cat([scale for _, scale in parts]))

    def experts(self, prefix: str, count: int, *parts: str) -> Fp4Experts:
        """Codes and scales of ``parts`` of all experts, as ``rows x cols`` linears with a gain of about one."""
        config = self.config
        down = parts == ("w2",)
        rows, cols = (config.dim, config.expert_dim) if down else (config.expert_dim * len(parts), config.dim)
        lowest = quant.E8M0_BIAS + round(math.log2(1 / (math.sqrt(cols) * CODE_RMS * SCALE_RMS)))
        self._reseed(f"{prefix} {parts}")
        packed = torch.empty(count, rows, cols // 2, dtype=torch.uint8, device=self.device)
        scale = torch.empty(count, rows, cols // quant.FP4_GROUP, dtype=torch.uint8, device=self.device)
        for begin in range(0, count, EXPERTS_AT_ONCE):
            some = slice(begin, begin + EXPERTS_AT_ONCE)
            packed[some].random_(0, 256, generator=self._generator)
            scale[some].random_(lowest, lowest + 2, generator=self._generator)
        return Fp4Experts(packed, scale)

    def _make(self, name: str) -> Tensor:
        make = self._makers[name]
        self._reseed(name)
        return make()

    def _reseed(self, name: str) -> None:
        self._generator.manual_seed(zlib.crc32(f"{self._seed} {name}".encode()))
