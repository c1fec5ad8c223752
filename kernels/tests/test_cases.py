"""Every small check case of every area: the kernels in Triton's interpreter agree with the references."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels import check, ops
from ds4_kernels.cases import registry
from ds4_kernels.cases.base import CheckCase

SMALL = registry.check_cases(ops.names(), large=False)


def test_every_op_has_a_check_and_a_timing() -> None:
    assert {case.op for case in registry.check_cases(ops.names(), large=True)} == set(ops.TABLE)
    assert {case.op for case in SMALL} == set(ops.TABLE)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.op}-{case.label}".replace(" ", "_"))
def test_interpreted_kernel_agrees_with_the_reference(case: CheckCase) -> None:
    row = check.run_case(case, torch.device("cpu"), seed=1)
    assert row.ok, f"{row.op} {row.label}: error {row.error} ({row.limit}) {row.note}"
