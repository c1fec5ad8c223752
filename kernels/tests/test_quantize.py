"""Activation quantisation: the reference against plain loops in FP64, the kernel in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.cases import quantize as cases
from ds4_kernels.reference import quantize
from hypothesis import given, settings
from hypothesis import strategies as st


def e4m3_values() -> list[float]:
    codes = torch.arange(0x7F, dtype=torch.uint8)
    return codes.view(torch.float8_e4m3fn).double().tolist()


def nearest_e4m3(value: float, table: list[float]) -> float:
    """To nearest, ties to the even code, saturating: a search through all magnitudes."""
    magnitude = min(abs(value), 448.0)
    best = min(range(len(table)), key=lambda code: (abs(table[code] - magnitude), code % 2))
    return math.copysign(table[best], value)


def scale_of(group: list[float]) -> float:
    amax, scale = max(1e-4, *map(abs, group)), 1.0
    while amax / scale > 448:
        scale *= 2
    while amax / (scale / 2) <= 448:
        scale /= 2
    return scale


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([32, 64, 128]))
def test_every_value_is_the_nearest_code_at_the_smallest_scale(seed: int, group: int) -> None:
    generator, table = torch.Generator().manual_seed(seed), e4m3_values()
    x = cases.varied(generator, torch.device("cpu"), 2, 2, group).view(2, 2 * group)
    q, scale = quantize.quant_fp8(x, group)
    _, byte = quantize.quant_fp8(x, group, "ue8m0")
    for row in range(2):
        for part in range(2):
            values = x[row, part * group : (part + 1) * group].double().tolist()
            expected = scale_of(values)
            assert scale[row, part].item() == expected
            assert byte[row, part].item() == 127 + math.log2(expected)
            got = q[row, part * group : (part + 1) * group].double().tolist()
            assert got == [nearest_e4m3(value / expected, table) for value in values]


def test_a_group_at_exactly_448_keeps_scale_one_and_the_next_number_doubles_it() -> None:
    x = torch.zeros(2, 128, dtype=torch.bfloat16)
    x[0, 5], x[1, 7] = 448.0, 450.0
    q, scale = quantize.quant_fp8(x)
    assert scale.flatten().tolist() == [1.0, 2.0]
    assert q[0, 5].item() == 448.0 and q[1, 7].item() == 224.0


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.zeros(2, 100, dtype=torch.bfloat16), {}, "not a multiple of the group 128"),
        (torch.zeros(2, 128), {}, "x must be bfloat16"),
        (torch.zeros(128, dtype=torch.bfloat16), {}, r"x must be bfloat16 \[T, K\]"),
        (torch.zeros(2, 128, dtype=torch.bfloat16), {"scale_format": "e5m2"}, "scale_format"),
    ],
)
def test_wrong_arguments_are_one_clear_line(x: torch.Tensor, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize.quant_fp8(x, **arguments)  # type: ignore[arg-type]


@pytest.mark.triton
@pytest.mark.interpreted
def test_the_kernel_refuses_what_it_has_no_variant_for() -> None:
    pytest.importorskip("triton")
    from ds4_kernels.triton.quantize import quant_fp8

    with pytest.raises(ValueError, match="group must be 64 or 128"):
        quant_fp8(torch.zeros(2, 64, dtype=torch.bfloat16), 32)
    with pytest.raises(ValueError, match="K innermost"):
        quant_fp8(torch.zeros(128, 128, dtype=torch.bfloat16).T)
