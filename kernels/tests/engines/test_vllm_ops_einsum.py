"""Adapters of the output projection, both scale forms, against the definition in FP64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.vllm_ops import einsum, views
from torch import Tensor

pytestmark = pytest.mark.usefixtures("each_backend")

GROUPS, HEADS, T, N, MAX_POSITION = 2, 2, 5, 256, 11
K = HEADS * 512


def power_of_two(amax: float, floor: float) -> float:
    return 2.0 ** math.ceil(math.log2(max(amax, floor) / 448.0))


def engine_quantise(o: Tensor, positions: Tensor, table: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    """The engine's quantiser from its description: scales FP32, or four exponents an int32, tokens innermost."""
    x = o.double().clone()
    cos, sin = table[positions, :32].double().unsqueeze(1), table[positions, 32:].double().unsqueeze(1)
    even, odd = x[..., 448::2].clone(), x[..., 449::2].clone()
    x[..., 448::2], x[..., 449::2] = even * cos + odd * sin, odd * cos - even * sin
    blocks = x.view(o.shape[0], GROUPS, K // 128, 128)
    scale = torch.tensor([power_of_two(float(b.abs().max()), 1e-10) for b in blocks.flatten(0, 2)]).view(T, GROUPS, -1)
    values = (blocks / scale.unsqueeze(-1)).float().to(torch.float8_e4m3fn)
    grouped = values.view(torch.uint8).flatten(2).transpose(0, 1).contiguous().transpose(0, 1).view(torch.float8_e4m3fn)
    if options["tma_aligned_scales"]:
        exponents = (torch.log2(scale) + 127).to(torch.uint8)
        scale = exponents.contiguous().view(torch.int32)
    padded = torch.zeros(GROUPS, scale.shape[2], 8, dtype=scale.dtype)
    padded[:, :, :T] = scale.permute(1, 2, 0)
    return grouped, padded[:, :, :T].permute(2, 0, 1)


def original(o, positions, cos_sin_cache, wo_a, wo_b, **options):  # type: ignore[no-untyped-def]
    raise AssertionError("the engine's op must not run")


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(7)
    monkeypatch.setitem(original.__globals__, "fused_inv_rope_fp8_quant", engine_quantise)
    angle = torch.rand(MAX_POSITION, 32, generator=generator) * 6.28
    weight = torch.randn(GROUPS, N, K, generator=generator).to(torch.float8_e4m3fn)
    scale = torch.exp2(torch.randint(-6, -2, (GROUPS, N // 128, K // 128), generator=generator).float())
    return SimpleNamespace(
        o=torch.randn(T, GROUPS * HEADS, 512, generator=generator).bfloat16(),
        positions=torch.tensor([0, 3, 10, 5, 1]),
        table=torch.cat((angle.cos(), angle.sin()), dim=1),
        weight=weight,
        scale=scale,
        sizes={"n_groups": GROUPS, "heads_per_group": HEADS, "nope_dim": 448, "rope_dim": 64},
    )


def expected_output(case: SimpleNamespace, packed: bool) -> Tensor:
    values, scale = engine_quantise(case.o, case.positions, case.table, tma_aligned_scales=False)
    a = values.double().view(T, GROUPS, -1, 128) * scale.double().unsqueeze(-1)
    w = case.weight.double() * case.scale.double().repeat_interleave(128, 1).repeat_interleave(128, 2)
    return torch.stack([a.view(T, GROUPS, K)[:, g] @ w[g].T for g in range(GROUPS)], dim=1)


@pytest.mark.parametrize("flat", [False, True], ids=["weight [G, N, K]", "weight [G N, K]"])
@pytest.mark.parametrize("packed", [False, True], ids=["sm_90", "SM100 and later"])
def test_projection_of_both_scale_forms(case: SimpleNamespace, packed: bool, flat: bool) -> None:
    scale = case.scale
    if packed:  # repeated for every row, four exponents an int32
        rows = (torch.log2(scale) + 127).to(torch.uint8).repeat_interleave(128, 1).contiguous()
        scale = rows.view(torch.int32).transpose(1, 2).contiguous().transpose(1, 2)
    weight = torch.nn.Parameter(case.weight.view(-1, K) if flat else case.weight, requires_grad=False)
    if flat and not packed:
        scale = scale.view(-1, K // 128)
    wo_a = SimpleNamespace(weight=weight, weight_scale_inv=scale)
    result = einsum.o_proj(original)(
        case.o, case.positions, case.table, wo_a, lambda z: z + 1, **case.sizes, o_lora_rank=N,
        einsum_recipe=(1, 1, 128) if packed else (1, 128, 128), tma_aligned_scales=packed,
    )  # fmt: skip
    expected = expected_output(case, packed).flatten(1) + 1
    assert result.dtype == torch.bfloat16 and result.shape == (T, GROUPS * N)
    torch.testing.assert_close(result.double(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sliced", [False, True], ids=["dense", "slice of padded heads"])
def test_quantiser_gives_the_engines_values_and_scales(case: SimpleNamespace, packed: bool, sliced: bool) -> None:
    o = torch.cat((case.o, case.o), dim=1)[:, : GROUPS * HEADS] if sliced else case.o
    quantise = einsum.rope_quant(original)
    values, scale = quantise(o, case.positions, case.table, GROUPS, HEADS, tma_aligned_scales=packed)
    expected_values, expected_scale = engine_quantise(case.o, case.positions, case.table, tma_aligned_scales=packed)
    assert torch.equal(scale, expected_scale) and scale.stride(0) == 1
    assert values.shape == expected_values.shape and values.stride() == expected_values.stride()
    differ = values.view(torch.uint8) != expected_values.view(torch.uint8)
    assert differ.double().mean() < 1e-3  # FP32 against FP64 before rounding


def test_what_the_projection_leaves_to_the_engine(case: SimpleNamespace) -> None:
    project = einsum.o_proj(original)
    options = {**case.sizes, "o_lora_rank": N, "einsum_recipe": (1, 128, 128), "tma_aligned_scales": False}
    wo_a = SimpleNamespace(weight=case.weight, weight_scale_inv=case.scale)

    def run(o: object = case.o, module: object = wo_a, **changed: object) -> object:
        return project(o, case.positions, case.table, module, lambda z: z, **{**options, **changed})

    assert not isinstance(run(), Declined)
    assert isinstance(run(o=SimpleNamespace(data=case.o)), Declined)
    assert isinstance(run(o=case.o.float()), Declined)
    assert isinstance(run(nope_dim=384, rope_dim=128), Declined)
    assert isinstance(run(einsum_recipe=(1, 1, 64)), Declined)
    assert isinstance(run(module=SimpleNamespace(weight=case.weight.bfloat16(), weight_scale=case.scale)), Declined)
    quantise = einsum.rope_quant(original)
    assert isinstance(quantise(case.o, case.positions, case.table, GROUPS, HEADS, quantize=False), Declined)
    assert isinstance(quantise(case.o, case.positions, case.table.half(), GROUPS, HEADS), Declined)


def test_packed_scales_of_another_weight_are_refused() -> None:
    with pytest.raises(ValueError, match="256 weight rows"):
        views.block_scales(torch.zeros(2, 128, 2, dtype=torch.int32), 256, 1024)


def test_a_cache_view_never_leaves_the_storage() -> None:
    storage = torch.arange(64, dtype=torch.uint8)
    padded = storage.as_strided((3, 2, 8), (24, 8, 1))  # the last block has no padding behind it
    view = views.planar(padded)
    assert view.shape == (3, 16) and view[2].tolist() == list(range(48, 64))
    assert views.planar(storage[:48].view(2, 3, 1, 8)).shape == (2, 24)
    with pytest.raises(ValueError, match="uint8"):
        views.planar(storage.view(torch.int8).view(2, 32))
