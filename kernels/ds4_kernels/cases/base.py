"""A case builds fresh random inputs for one op; the op is called as ``op(**inputs)`` on either backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Inputs = dict[str, Any]
Build = Callable[[torch.Generator, torch.device], Inputs]


@dataclass(frozen=True)
class Tolerance:
    """How an output may differ from the reference's.

    ``exact``: byte for byte. ``diff``: ``1 - 2 sum(xy) / sum(x^2 + y^2)`` in FP64 at most ``limit`` (kernels.md 5.1).
    ``close``: ``|x - y| <= limit + rtol |y|`` everywhere. ``sets``: rows hold the same numbers in any order.
    Infinities must agree and NaN is never accepted.
    """

    kind: Literal["exact", "diff", "close", "sets"]
    limit: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True)
class CheckCase:
    """One comparison of a backend with the reference.

    ``outputs`` names what is compared, in order: the returned tensors, then, for names that are also inputs, the
    tensors changed in place. ``tolerances`` has one entry per output.
    """

    op: str
    label: str
    build: Build
    outputs: tuple[str, ...]
    tolerances: tuple[Tolerance, ...]


@dataclass(frozen=True)
class BenchCase:
    """One timing. ``moved`` are the fewest bytes that must cross device memory, ``flops`` the fewest operations."""

    op: str
    label: str
    build: Build
    moved: int
    flops: int = 0


def randn(generator: torch.Generator, device: torch.device, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Normal numbers drawn on the CPU, so that every device sees the same ones."""
    return torch.randn(*shape, generator=generator, dtype=torch.float32).to(dtype).to(device)


def randint(
    generator: torch.Generator, device: torch.device, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32
) -> Tensor:
    """Integers in [low, high) drawn on the CPU."""
    return torch.randint(low, high, shape, generator=generator).to(dtype).to(device)
