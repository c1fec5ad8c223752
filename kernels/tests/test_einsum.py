"""The grouped output projection: references against plain loops in FP64, the kernels in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.cases import einsum as cases
from ds4_kernels.reference import einsum
from torch import Tensor

CPU = torch.device("cpu")


def unroped(head: list[float], cos_sin: list[float]) -> list[float]:
    """One head in FP64, its last 64 dimensions turned back pair by pair."""
    out = list(head)
    for pair in range(32):
        even, odd = head[448 + 2 * pair], head[449 + 2 * pair]
        turned = complex(even, odd) * complex(cos_sin[pair], cos_sin[32 + pair]).conjugate()
        out[448 + 2 * pair], out[449 + 2 * pair] = turned.real, turned.imag
    return out


def small_scale(amax: float) -> float:
    return 2.0 ** math.ceil(math.log2(max(amax, 1e-10)) - math.log2(448))


def test_values_are_the_derotated_heads_group_by_group() -> None:
    tokens, heads, groups = 3, 8, 2
    generator = torch.Generator().manual_seed(1)
    o = torch.randn(tokens, heads, 512, generator=generator).to(torch.bfloat16)
    positions, table = torch.tensor([5, 0, 4000]), cases.rope_table(CPU)
    a, a_scale = einsum.inverse_rope_quant(o, positions, table, groups)
    assert a.shape == (tokens, groups, 2048) and a_scale.shape == (tokens, groups, 16)
    for t in range(tokens):
        for h in range(heads):
            head = unroped(o[t, h].double().tolist(), table[positions[t]].double().tolist())
            group, first = divmod(h, heads // groups)
            for quarter in range(4):
                values = head[quarter * 128 : quarter * 128 + 128]
                scale = a_scale[t, group, first * 4 + quarter].item()
                assert scale == small_scale(max(abs(v) for v in values))
                q = a[t, group, first * 512 + quarter * 128 :][:128].double().tolist()
                for value, code in zip(values, q, strict=True):
                    assert abs(code * scale - value) <= max(abs(value) / 16, scale * 2.0**-10) * (1 + 1e-5)


@pytest.mark.parametrize("scale_format", ["fp32", "packed"])
@pytest.mark.parametrize("tokens", [1, 4, 5, 7])
def test_storage_is_group_major_and_scales_are_padded_with_zeros(tokens: int, scale_format: str) -> None:
    o = torch.randn(tokens, 8, 512, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    a, a_scale = einsum.inverse_rope_quant(o, torch.arange(tokens), cases.rope_table(CPU), 2, scale_format)  # type: ignore[arg-type]
    check_storage(a, a_scale, tokens, 4 if scale_format == "packed" else 16)


def check_storage(a: Tensor, a_scale: Tensor, tokens: int, per_token: int) -> None:
    assert a.stride() == (2048, tokens * 2048, 1)
    padded = (tokens + 3) // 4 * 4
    assert a_scale.stride()[0] == 1 or tokens == 1
    assert a_scale.stride()[1:] == (per_token * padded, padded)
    storage = torch.as_strided(a_scale, (2, per_token, padded), (per_token * padded, padded, 1), 0)
    assert bool((storage[:, :, :tokens] != 0).all())
    assert bool((storage[:, :, tokens:] == 0).all())


def test_packed_words_hold_the_fp32_scales_lowest_byte_first() -> None:
    o = torch.randn(3, 8, 512, generator=torch.Generator().manual_seed(4)).mul(1000).to(torch.bfloat16)
    arguments = (o, torch.arange(3), cases.rope_table(CPU), 2)
    _, scale = einsum.inverse_rope_quant(*arguments)
    _, packed = einsum.inverse_rope_quant(*arguments, scale_format="packed")
    for t in range(3):
        for g in range(2):
            for block in range(16):
                byte = (int(packed[t, g, block // 4]) >> (block % 4 * 8)) & 0xFF
                assert 2.0 ** (byte - 127) == scale[t, g, block].item()


def test_the_floor_of_tiny_groups_is_1e_10() -> None:
    _, scale = einsum.inverse_rope_quant(
        torch.zeros(1, 4, 512, dtype=torch.bfloat16), torch.tensor([0]), cases.rope_table(CPU), 1
    )
    assert bool((scale == 2.0 ** math.ceil(math.log2(1e-10 / 448))).all())


@pytest.mark.parametrize("forms", [("fp32", "fp32"), ("packed", "e8m0"), ("odd", "e8m0")])
def test_the_einsum_is_the_sum_of_scaled_blocks(forms: tuple[str, str]) -> None:
    inputs = cases.einsum_build(2, 2, 130, 512, *forms)(torch.Generator().manual_seed(5), CPU)
    out = einsum.fp8_einsum(**inputs)
    a, b, a_scale, b_scale = (inputs[name] for name in ("a", "b", "a_scale", "b_scale"))
    left, right = a.double().tolist(), b.double().tolist()
    for t in range(2):
        for g in range(2):
            for n in range(0, 130, 3):
                total = 0.0
                for block in range(4):
                    part = sum(left[t][g][k] * right[g][n][k] for k in range(block * 128, block * 128 + 128))
                    word = int(a_scale[t, g, block // 4]) if forms[0] == "packed" else 0
                    token = 2.0 ** (((word >> (block % 4 * 8)) & 0xFF) - 127) if word else float(a_scale[t, g, block])
                    weight = b_scale[g, n // 128, block]
                    total += part * token * (2.0 ** (int(weight) - 127) if forms[1] == "e8m0" else float(weight))
                assert abs(float(out[t, g, n]) - total) <= abs(total) * 2.0**-8 + 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.zeros(3, 128, 512, dtype=torch.float8_e4m3fn)}, "need a"),
        ({"a_scale": torch.zeros(2, 2, 3)}, r"a_scale must be \[2, 2, 4\]"),
        ({"b_scale": torch.zeros(2, 2, 4)}, r"b_scale must be \[2, 1, 4\]"),
        ({"out": torch.zeros(2, 2, 128)}, "out must be bfloat16"),
    ],
)
def test_wrong_einsum_arguments_are_one_clear_line(change: dict[str, object], message: str) -> None:
    inputs = cases.einsum_build(2, 2, 128, 512, "fp32", "fp32")(torch.Generator().manual_seed(6), CPU)
    with pytest.raises(ValueError, match=message):
        einsum.fp8_einsum(**{**inputs, **change})


def test_wrong_quantiser_arguments_are_one_clear_line() -> None:
    o, table = torch.zeros(2, 6, 512, dtype=torch.bfloat16), cases.rope_table(CPU)
    with pytest.raises(ValueError, match="6 heads do not divide into 4 groups"):
        einsum.inverse_rope_quant(o, torch.arange(2), table, 4)
    with pytest.raises(ValueError, match="positions must be"):
        einsum.inverse_rope_quant(o, torch.arange(3), table, 2)
    with pytest.raises(ValueError, match="cos_sin must be"):
        einsum.inverse_rope_quant(o, torch.arange(2), table.double(), 2)
    with pytest.raises(ValueError, match="o must be bfloat16"):
        einsum.inverse_rope_quant(o.float(), torch.arange(2), table, 2)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("scale_format", ["fp32", "packed"])
@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_the_quantiser_kernel_lays_its_outputs_out_like_the_reference(tokens: int, scale_format: str) -> None:
    pytest.importorskip("triton")
    from ds4_kernels.triton.einsum import inverse_rope_quant

    o = torch.randn(tokens, 8, 512, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    a, a_scale = inverse_rope_quant(o, torch.arange(tokens), cases.rope_table(CPU), 2, scale_format)  # type: ignore[arg-type]
    check_storage(a, a_scale, tokens, 4 if scale_format == "packed" else 16)


@pytest.mark.triton
@pytest.mark.interpreted
def test_tiles_cover_all_token_counts_and_small_group_counts_get_more_programs() -> None:
    pytest.importorskip("triton")
    from ds4_kernels.triton.einsum import einsum_tile

    for tokens in (*range(1, 300), 512, 1000, 4096, 100_000):
        assert einsum_tile("sm12x", tokens, 1024, 8).block_m <= 128
        few = einsum_tile("sm90", tokens, 1024, 8)
        assert not few.swap or tokens <= few.block_m
    assert str(einsum_tile("sm12x", 1, 1024, 8)) == "16/128/128 g1 w4 s3"
    assert einsum_tile("sm90", 512, 1024, 8).block_m == 128
    assert einsum_tile("sm90", 512, 1024, 4).block_n == 128
    assert einsum_tile("sm90", 256, 1024, 1).block_m == 64
