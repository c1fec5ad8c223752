"""Hopper's decode kernels, whose tiles no other CPU test reaches, under the interpreter."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels.cases import sparse_attention as cases
from ds4_kernels.cases.base import CheckCase
from ds4_kernels.compare import compare
from ds4_kernels.reference import sparse_attention as reference

CPU = torch.device("cpu")
SMALL = [
    case for case in cases.check_cases() if case.op == "sparse_attention_decode" and not case.label.endswith("large")
]


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("splits", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("case", SMALL[:5], ids=lambda case: case.label)
def test_halves_agree_with_the_reference(case: CheckCase, splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ds4_kernels.triton import sparse_attention

    monkeypatch.setattr(sparse_attention, "_decode_plan", lambda *_: sparse_attention._HOPPER_DECODE)
    inputs = case.build(torch.Generator().manual_seed(7), CPU)
    expected = reference.sparse_attention_decode(**inputs)
    actual = sparse_attention.sparse_attention_decode(**inputs, splits=splits)
    for got, wanted, tolerance in zip(actual, expected, case.tolerances, strict=True):
        comparison = compare(got, wanted, tolerance)
        assert comparison.ok, (comparison.error, comparison.note)
