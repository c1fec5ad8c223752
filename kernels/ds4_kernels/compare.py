"""How far an output is from the reference's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ds4_kernels.cases.base import Tolerance


@dataclass(frozen=True)
class Comparison:
    """``error`` in the tolerance's own measure; ``note`` says what is wrong where it is not a matter of degree."""

    ok: bool
    error: float
    note: str = ""


def compare(actual: Tensor, expected: Tensor, tolerance: Tolerance) -> Comparison:
    """Judge one output. Shapes and dtypes must agree (a reference may compute in more precision)."""
    if actual.shape != expected.shape:
        return Comparison(False, float("inf"), f"shape {list(actual.shape)}, expected {list(expected.shape)}")
    if actual.numel() == 0:
        return Comparison(True, 0.0)
    if tolerance.kind == "exact":
        return _exact(actual, expected)
    if tolerance.kind == "sets":
        return _exact(actual.sort(dim=-1).values, expected.sort(dim=-1).values)
    return _numeric(actual, expected, tolerance)


def calc_diff(actual: Tensor, expected: Tensor) -> float:
    """``1 - 2 sum(xy) / sum(x^2 + y^2)`` in FP64 (DeepGEMM's measure); 0 for two zero tensors."""
    x, y = actual.double(), expected.double()
    total = (x * x + y * y).sum()
    return float(1 - 2 * (x * y).sum() / total) if float(total) else 0.0


def _exact(actual: Tensor, expected: Tensor) -> Comparison:
    if actual.dtype != expected.dtype:
        return Comparison(False, float("inf"), f"dtype {actual.dtype}, expected {expected.dtype}")
    differing = _bits(actual) != _bits(expected)
    count = int(differing.sum())
    return Comparison(count == 0, count / differing.numel(), f"{count} of {differing.numel()} differ" if count else "")


def _numeric(actual: Tensor, expected: Tensor, tolerance: Tolerance) -> Comparison:
    actual, expected = actual.double(), expected.double()
    if bool(actual.isnan().any()):
        return Comparison(False, float("inf"), f"{int(actual.isnan().sum())} NaN")
    endless = expected.isinf()
    if not torch.equal(endless, actual.isinf()) or not torch.equal(actual[endless], expected[endless]):
        return Comparison(False, float("inf"), "infinities differ")
    x, y = actual.masked_fill(endless, 0), expected.masked_fill(endless, 0)
    if tolerance.kind == "diff":
        error = calc_diff(x, y)
        return Comparison(error <= tolerance.limit, error)
    excess = (x - y).abs() - tolerance.rtol * y.abs()
    error = max(0.0, float(excess.max()))
    return Comparison(error <= tolerance.limit, error)


def _bits(x: Tensor) -> Tensor:
    widths = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.contiguous().view(widths[x.element_size()])
