"""Block-FP8 GEMM: the reference against plain loops, the kernels in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels.cases import w8a8 as cases
from ds4_kernels.compare import calc_diff
from ds4_kernels.reference import w8a8
from torch import Tensor

CPU = torch.device("cpu")
TILES = (
    "16/32/128 g1 w4 s3", "16/128/64 g32 w4 s2", "32/128/128 g2 w4 s3", "128/128/128 g8 w4 s3", "64/256/128 g8 w4 s3",
    "16/64/128 g1 w4 s8 swap", "64/64/128 g1 w4 s6 swap", "16/64/512 g1 w4 s3 swap", "16/32/64 g1 w4 s4",
)  # fmt: skip
"""One or two halves of N, both depths, groups of one block row and of several, both orientations."""


def value(scale: Tensor) -> float:
    return 2.0 ** (int(scale) - 127) if scale.dtype == torch.uint8 else float(scale)


def by_loops(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    """FP64, one product after the other."""
    left, right = a.double().tolist(), b.double().tolist()
    out = torch.zeros(a.shape[0], b.shape[0], dtype=torch.float64)
    for m in range(a.shape[0]):
        for n in range(b.shape[0]):
            total = 0.0
            for block in range(a.shape[1] // 128):
                part = sum(left[m][k] * right[n][k] for k in range(block * 128, block * 128 + 128))
                total += part * value(a_scale[m, block]) * value(b_scale[n // 128, block])
            out[m, n] = total
    return out


@pytest.mark.parametrize(
    "forms", [("fp32", "fp32"), ("e8m0", "fp32"), ("fp32", "e8m0"), ("e8m0", "e8m0"), ("odd", "odd")]
)
def test_the_product_is_the_sum_of_scaled_blocks(forms: tuple[str, str]) -> None:
    inputs = cases.gemm_build(3, 131, 384, *forms, torch.float32)(torch.Generator().manual_seed(1), CPU)
    out = w8a8.w8a8_gemm(**inputs)
    expected = by_loops(inputs["a"], inputs["a_scale"], inputs["b"], inputs["b_scale"])
    assert out.dtype == torch.float32
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_out_is_written_and_returned() -> None:
    inputs = cases.gemm_build(5, 64, 128, "fp32", "fp32", torch.bfloat16, given=True)(
        torch.Generator().manual_seed(2), CPU
    )
    out = w8a8.w8a8_gemm(**inputs)
    assert out is inputs["out"]
    assert torch.equal(out, w8a8.w8a8_gemm(**{**inputs, "out": None}))


def test_float8_e8m0fnu_scales_are_the_same_bytes() -> None:
    inputs = cases.gemm_build(5, 64, 256, "e8m0", "e8m0", torch.float32)(torch.Generator().manual_seed(3), CPU)
    typed = {name: inputs[name].view(torch.float8_e8m0fnu) for name in ("a_scale", "b_scale")}
    assert torch.equal(w8a8.w8a8_gemm(**{**inputs, **typed}), w8a8.w8a8_gemm(**inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(2, 100, dtype=torch.float8_e4m3fn)}, "K a multiple of 128"),
        ({"a": torch.zeros(2, 128)}, "a must be float8_e4m3fn"),
        ({"b_scale": torch.zeros(2, 1)}, r"b_scale \[1, 1\]"),
        ({"a_scale": torch.zeros(2, 1, dtype=torch.float64)}, "a_scale must be float32 or E8M0"),
        ({"out_dtype": torch.float16}, "out_dtype"),
        ({"out": torch.zeros(2, 64)}, "out must be torch.bfloat16"),
    ],
)
def test_wrong_arguments_are_one_clear_line(change: dict[str, object], message: str) -> None:
    inputs = cases.gemm_build(2, 64, 128, "fp32", "fp32", torch.bfloat16)(torch.Generator().manual_seed(4), CPU)
    with pytest.raises(ValueError, match=message):
        w8a8.w8a8_gemm(**{**inputs, **change})


def test_the_native_form_needs_e8m0_scales() -> None:
    inputs = cases.gemm_build(2, 64, 128, "fp32", "e8m0", torch.bfloat16)(torch.Generator().manual_seed(4), CPU)
    with pytest.raises(ValueError, match="E8M0"):
        w8a8.w8a8_gemm_mxfp8(**inputs)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("entry", TILES)
def test_every_kind_of_tile_agrees_with_the_reference(entry: str) -> None:
    pytest.importorskip("triton")
    from ds4_kernels.triton import fp8_gemm
    from ds4_kernels.tuning import Tile

    tile = Tile.parse(entry)
    k = max(384, 2 * tile.block_k)
    inputs = cases.gemm_build(70, 200, k, "e8m0", "fp32", torch.float32)(torch.Generator().manual_seed(6), CPU)
    out = torch.full((70, 200), torch.nan)
    operands = [inputs["a"].unsqueeze(1), inputs["a_scale"].unsqueeze(1), inputs["b"][None], inputs["b_scale"][None]]
    fp8_gemm.launch(*operands, out.unsqueeze(1), tile)
    assert calc_diff(out, w8a8.w8a8_gemm(**inputs)) <= 1e-12


@pytest.mark.triton
@pytest.mark.interpreted
def test_strides_that_a_kernel_cannot_follow_are_an_error() -> None:
    pytest.importorskip("triton")
    from ds4_kernels.triton.w8a8 import w8a8_gemm

    inputs = cases.gemm_build(8, 256, 128, "fp32", "fp32", torch.bfloat16)(torch.Generator().manual_seed(7), CPU)
    wide = torch.zeros(8, 136, dtype=torch.uint8).view(torch.float8_e4m3fn)[:, :128]
    with pytest.raises(ValueError, match="multiples of 16"):
        w8a8_gemm(**{**inputs, "a": wide})
    with pytest.raises(ValueError, match="b must be contiguous"):
        w8a8_gemm(**{**inputs, "b": torch.zeros(128, 256, dtype=torch.uint8).view(torch.float8_e4m3fn).T})
