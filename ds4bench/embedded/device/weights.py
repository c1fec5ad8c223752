"""A checkpoint's tensors as they are stored, on the device: nothing is dequantised."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import torch
from ds4_kernels import ops
from ds4_kernels.reference import quant
from torch import Tensor

from ds4bench.embedded.device.measured import measured
from ds4bench.embedded.weights import MTP_PREFIX, Checkpoint, revision, scale_name

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


class Fp32Matrix:
    """A linear that is computed in FP32, ``[N, K]``, for BF16 inputs.

    Weights that are BF16 numbers (the released checkpoint's are) stay BF16 on a GPU: a product of two BF16 numbers is
    exact in FP32, so tensor cores that add in FP32 lose nothing, at ten times the speed and half the bytes.
    """

    def __init__(self, weight: Tensor) -> None:
        narrow = weight.to(torch.bfloat16)
        fits = weight.is_cuda and bool((narrow.float() == weight).all()) and _widens(weight.device)
        self.weight = narrow if fits else weight

    def __call__(self, x: Tensor) -> Tensor:
        """``x @ w.T`` of x BF16 ``[T, K]``, FP32 ``[T, N]``."""
        product: Tensor = measured("fp32 linear (torch)", self._product, x)
        return product

    def _product(self, x: Tensor) -> Tensor:
        if self.weight.dtype == torch.bfloat16:
            return torch.mm(x, self.weight.t(), out_dtype=torch.float32)
        return torch.nn.functional.linear(x.float(), self.weight)


@functools.cache
def _widens(device: torch.device) -> bool:
    """Whether torch multiplies BF16 matrices to FP32 results there (since 2.8)."""
    one = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    try:
        torch.mm(one, one, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True


class ModelWeights(Protocol):
    """Where a model's tensors come from. Names are those of a checkpoint; KeyError for one that is not there."""

    device: torch.device

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        ...

    def has_mtp(self) -> bool:
        """Whether there is an MTP block."""
        ...

    def revision(self) -> str:
        """Twelve hex digits that identify the weights."""
        ...

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor that is stored in float or as integers, in ``dtype``."""
        ...

    def fp8(self, *names: str) -> Fp8Matrix:
        """FP8 linears of one input, their rows stacked. Raises ValueError if their blocks of 128 rows do not stack."""
        ...

    def experts(self, prefix: str, count: int, *parts: str) -> Fp4Experts:
        """Linears ``parts`` of experts 0 .. count - 1 in MXFP4, the rows of an expert's parts stacked."""
        ...


class StoredWeights:
    """A quantised checkpoint, brought to the device tensor by tensor: see ``ModelWeights``."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self.device = device

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return name in self._checkpoint

    def has_mtp(self) -> bool:
        """Whether the checkpoint holds an MTP block."""
        return any(name.startswith(MTP_PREFIX) for name in self._checkpoint)

    def revision(self) -> str:
        """A hash of the tensors: see ``weights.revision``."""
        return revision(self._checkpoint)

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
