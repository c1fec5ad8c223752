"""The quantisation rule against independent formulations in FP64 and torch's own casts."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.reference import quant
from hypothesis import given
from hypothesis import strategies as st

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@given(st.floats(min_value=2.0**-120, max_value=2.0**120, allow_nan=False))
def test_pow2_ceil_is_the_smallest_power_of_two_not_below(value: float) -> None:
    x = torch.tensor([value], dtype=torch.float64)
    scale = quant.pow2_ceil(x).item()
    assert math.frexp(scale)[0] == 0.5
    assert scale / 2 < value <= scale


@pytest.mark.parametrize("exponent", range(-100, 100))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pow2_ceil_is_exact_at_and_just_above_powers_of_two(exponent: int, dtype: torch.dtype) -> None:
    power = torch.tensor(2.0**exponent, dtype=dtype)
    above = torch.nextafter(power, torch.tensor(math.inf, dtype=dtype))
    assert quant.pow2_ceil(power).item() == 2.0**exponent
    assert quant.pow2_ceil(above).item() == 2.0 ** (exponent + 1)


def test_e8m0_bytes_stand_for_the_power_they_encode() -> None:
    scale = torch.exp2(torch.arange(-126, 128, dtype=torch.float64))
    encoded = quant.e8m0_encode(scale)
    assert encoded.tolist() == list(range(1, 255))
    assert torch.equal(quant.e8m0_value(encoded, torch.float64), scale)


def test_widening_e4m3_equals_torch_for_every_code() -> None:
    codes = torch.tensor([c for c in range(256) if c & 0x7F != 0x7F], dtype=torch.uint8)
    fp8 = codes.view(torch.float8_e4m3fn)
    assert torch.equal(quant.e4m3_to_float(fp8, torch.float32), fp8.to(torch.float32))


@given(st.integers(0, 2**31), st.sampled_from([torch.float32, torch.float64]))
def test_fp8_round_trip_stays_within_half_a_step(seed: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * 10
    q, scale = quant.fp8_quantize(x, 128)
    back = quant.fp8_dequantize(q, scale, dtype)
    amax = x.view(3, 2, 128).abs().amax(-1)
    assert (amax / quant.e8m0_value(scale, dtype) <= quant.E4M3_MAX).all()
    half_step = torch.maximum(x.abs() / 16, quant.e8m0_value(scale, dtype).repeat_interleave(128, -1) * 2.0**-10)
    assert ((back - x).abs() <= half_step).all()
    assert torch.equal(quant.fp8_simulate(x, 128), back)


def test_small_groups_use_the_amax_floor() -> None:
    _, scale = quant.fp8_quantize(torch.full((1, 64), 1e-9), 64)
    expected = 2.0 ** math.ceil(math.log2(1e-4 / 448))
    assert quant.e8m0_value(scale).item() == expected


@pytest.mark.parametrize("shape", [(128, 128), (200, 130), (64, 512)])
def test_weight_blocks_round_trip(shape: tuple[int, int]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    q, scale = quant.fp8_quantize_weight(w)
    assert scale.shape == (-(-shape[0] // 128), -(-shape[1] // 128))
    back = quant.fp8_dequantize_weight(q, scale, torch.float32)
    assert ((back - w).abs() <= w.abs() / 16 + 2.0**-10).all()


def test_mxfp4_picks_the_nearest_value_and_packs_even_indices_low() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    packed, scale = quant.mxfp4_quantize(x)
    back = quant.mxfp4_dequantize(packed, scale, torch.float64)
    table = torch.tensor(sorted({s * v for v in E2M1 for s in (-1, 1)}), dtype=torch.float64)
    groups = x.view(4, 2, 32) / quant.e8m0_value(scale, torch.float64).unsqueeze(-1)
    nearest = (groups.unsqueeze(-1) - table).abs().amin(-1)
    assert torch.allclose(
        (groups - back.view(4, 2, 32) / quant.e8m0_value(scale, torch.float64).unsqueeze(-1)).abs(), nearest
    )
    low = (packed & 0x7).long()
    assert torch.equal(
        torch.tensor(E2M1, dtype=torch.float64)[low],
        (back[:, 0::2].view(4, 2, 16) / quant.e8m0_value(scale, torch.float64).unsqueeze(-1)).abs().view(4, 32),
    )


def test_mxfp4_ties_go_to_the_even_code() -> None:
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0] * 4)
    packed, scale = quant.mxfp4_quantize(ties.unsqueeze(0))
    assert quant.e8m0_value(scale).item() == 1.0
    assert quant.mxfp4_dequantize(packed, scale, torch.float32)[0, :8].tolist() == [
        0.0,
        1.0,
        1.0,
        2.0,
        2.0,
        4.0,
        4.0,
        6.0,
    ]


def test_a_group_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a multiple of the group"):
        quant.fp8_quantize(torch.zeros(2, 100), 64)
