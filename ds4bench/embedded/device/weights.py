"""A checkpoint's tensors as they are stored, on the device: nothing is dequantised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ds4_kernels import ops
from ds4_kernels.reference import quant
from torch import Tensor

from ds4bench.embedded.weights import Checkpoint, scale_name

BLOCK = quant.WEIGHT_BLOCK


@dataclass(frozen=True)
class Fp8Activation:
    """e4m3 ``[T, K]`` with an FP32 scale per token and 128 of K."""

    values: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Fp8Matrix:
    """An FP8 linear: e4m3 ``[N, K]`` and the E8M0 bytes of its 128 x 128 blocks."""

    values: Tensor
    scale: Tensor

    def __call__(self, x: Fp8Activation) -> Tensor:
        """``x @ w.T`` as BF16 ``[T, N]``."""
        product: Tensor = ops.w8a8_gemm(x.values, x.scale, self.values, self.scale)
        return product


@dataclass(frozen=True)
class Fp4Experts:
    """One projection of all experts: packed E2M1 ``[E, N, K / 2]`` and E8M0 ``[E, N, K / 32]``."""

    packed: Tensor
    scale: Tensor


class StoredWeights:
    """Typed access to a quantised checkpoint. Each method raises KeyError for a name that is not there."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self.device = device

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return name in self._checkpoint

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor that is stored in float or as integers, in ``dtype``."""
        return self._checkpoint[name].to(self.device, dtype).contiguous()

    def fp8(self, *names: str) -> Fp8Matrix:
        """FP8 linears of one input, their rows stacked. Raises ValueError if their blocks of 128 rows do not stack."""
        values = [self._checkpoint[name] for name in names]
        for name, value in zip(names[:-1], values[:-1], strict=True):
            if value.shape[0] % BLOCK:
                raise ValueError(f"{name} has {value.shape[0]} rows: stacking needs a multiple of {BLOCK}")
        scales = [self._checkpoint[scale_name(name)] for name in names]
        return Fp8Matrix(self._stack(values), self._stack(scales))

    def experts(self, prefix: str, count: int, *parts: str) -> Fp4Experts:
        """Linears ``parts`` of experts 0 .. count - 1 in MXFP4, the rows of an expert's parts stacked."""
        names = [[f"{prefix}.{expert}.{part}.weight" for part in parts] for expert in range(count)]
        packed = [torch.cat([self._checkpoint[name] for name in expert]) for expert in names]
        scales = [torch.cat([self._checkpoint[scale_name(name)] for name in expert]) for expert in names]
        return Fp4Experts(torch.stack(packed).to(self.device), torch.stack(scales).to(self.device))

    def _stack(self, tensors: list[Tensor]) -> Tensor:
        dtype = tensors[0].dtype
        rows = torch.cat([tensor.view(torch.uint8) for tensor in tensors])  # not every backend concatenates e4m3
        return rows.view(dtype).to(self.device).contiguous()


def quantise(x: Tensor) -> Fp8Activation:
    """BF16 ``[T, K]`` as what an FP8 linear takes."""
    return Fp8Activation(*ops.quant_fp8(x, BLOCK))
