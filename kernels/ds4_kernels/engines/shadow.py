"""Shadow mode: clone what an op writes, compare what the engine and we made of the same inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ds4_kernels.engines.report import Difference

CHUNK = 1 << 24
"""Elements compared at once: 64 MiB in FP32."""
MAX_GAPS = 2
"""A paged cache that shares its blocks with other layers would cost the whole pool at each call."""


def clone(value: Any) -> Any:
    """A copy of a tensor, with the same strides unless most of the span is gaps; tuples and lists of tensors likewise."""
    if isinstance(value, Tensor):
        span = 1 + sum((size - 1) * stride for size, stride in zip(value.size(), value.stride(), strict=True))
        if span > MAX_GAPS * value.numel():
            return value.clone(memory_format=torch.contiguous_format)
        copy = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device)
        return copy.copy_(value)
    if isinstance(value, (tuple, list)):
        return tuple(clone(item) for item in value)
    return value


def compare(ours: Tensor, theirs: Tensor, worst: Difference) -> None:
    """Keep the worst of ``worst`` and this pair. Shapes must agree (else mismatch 1).

    Floats: absolute error, error relative to the largest finite value of the engine's tensor, and cosine, over what is
    finite in both; where one is finite and the other is not counts as mismatch. Integers and FP8 bytes: share of
    elements that differ (FP8 as values too).
    """
    worst.calls += 1
    worst.shape = f"{list(theirs.shape)} {str(theirs.dtype).removeprefix('torch.')}"
    if ours.shape != theirs.shape:
        worst.mismatch, worst.shape = 1.0, f"{worst.shape} against {list(ours.shape)}"
        return
    if not theirs.numel():
        return
    if not theirs.dtype.is_floating_point:
        worst.mismatch = max(worst.mismatch, (ours != theirs).double().mean().item())
        return
    _compare_floats(ours, theirs, worst)


def _compare_floats(ours: Tensor, theirs: Tensor, worst: Difference) -> None:
    sums = torch.zeros(3, dtype=torch.float64, device=theirs.device)
    largest = torch.zeros(2, dtype=torch.float64, device=theirs.device)
    differ = torch.zeros((), dtype=torch.float64, device=theirs.device)
    for x, y in zip(torch.split(ours.reshape(-1), CHUNK), torch.split(theirs.reshape(-1), CHUNK), strict=True):
        a, b = x.to(theirs.device).float(), y.float()
        finite = a.isfinite() & b.isfinite()
        same = finite | (a == b) | (a.isnan() & b.isnan())
        differ += (~same).sum()
        a, b = torch.where(finite, a, 0.0), torch.where(finite, b, 0.0)
        largest = torch.maximum(largest, torch.stack([(a - b).abs().max(), b.abs().max()]).double())
        a, b = a.double(), b.double()
        sums += torch.stack([a @ b, a @ a, b @ b])
    error, size = largest.tolist()
    dot, square_a, square_b = sums.tolist()
    worst.mismatch = max(worst.mismatch, differ.item() / theirs.numel())
    worst.max_abs = max(worst.max_abs, error)
    worst.max_rel = max(worst.max_rel, error / size if size else float(error > 0))
    if square_a and square_b:
        worst.min_cosine = min(worst.min_cosine, dot / (square_a * square_b) ** 0.5)
    elif square_a or square_b:
        worst.min_cosine = min(worst.min_cosine, 0.0)


def line(name: str, difference: Difference) -> str:
    """One output's comparison for the log."""
    return (
        f"{name} {difference.shape}: max abs {difference.max_abs:.3g}, max rel {difference.max_rel:.3g}, "
        f"cosine {difference.min_cosine:.7f}, mismatch {difference.mismatch:.3g}"
    )
