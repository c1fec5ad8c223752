"""Every small check case of every area: the kernels in Triton's interpreter agree with the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ds4_kernels import check, ops
from ds4_kernels.cases import registry
from ds4_kernels.cases.base import CheckCase

SMALL = registry.check_cases(ops.names(), large=False)
PLAIN_MOE_TOKENS = 1
"""With more tokens, or activations in BF16, an interpreted case of the experts takes 3 to 8 seconds: left to slow runs."""


def parameter(case: CheckCase) -> Any:
    name = f"{case.op}-{case.label}".replace(" ", "_")
    tokens = int(case.label.split()[0].removeprefix("T=")) if case.op == "mxfp4_moe" else 0
    slow = tokens > PLAIN_MOE_TOKENS or (case.op == "mxfp4_moe" and "w4a16" in case.label)
    return pytest.param(case, id=name, marks=[pytest.mark.slow] if slow else [])


def test_every_op_has_a_check_and_a_timing() -> None:
    assert {case.op for case in registry.check_cases(ops.names(), large=True)} == set(ops.TABLE)
    assert {case.op for case in SMALL} == set(ops.TABLE)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("case", map(parameter, SMALL))
def test_interpreted_kernel_agrees_with_the_reference(case: CheckCase) -> None:
    row = check.run_case(case, torch.device("cpu"), seed=1)
    assert row.ok, f"{row.op} {row.label}: error {row.error} ({row.limit}) {row.note}"
