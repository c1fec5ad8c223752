"""Adapters of the block-FP8 linears and the tile tables for the engine's Triton GEMM."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.vllm_ops import w8a8
from ds4_kernels.tuning import tables
from torch import Tensor

pytestmark = pytest.mark.usefixtures("each_backend")

M, N, K = 5, 256, 512
KERNEL = SimpleNamespace(config=SimpleNamespace(out_dtype=torch.bfloat16))


def unused(*args: object, **kwargs: object) -> object:
    raise AssertionError("the engine's op must not run")


@pytest.fixture
def operands() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(a ``[M, K]``, its scales ``[M, K/128]``, b ``[N, K]``, its scales ``[N/128, K/128]``), scales powers of two."""
    generator = torch.Generator().manual_seed(31)

    def scales(rows: int) -> Tensor:
        return torch.exp2(torch.randint(-6, -2, (rows, K // 128), generator=generator).float())

    a, b = (torch.randn(rows, K, generator=generator).to(torch.float8_e4m3fn) for rows in (M, N))
    return a, scales(M), b, scales(N // 128)


def product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    left = a.double() * a_scale.double().repeat_interleave(128, 1)
    return left @ (b.double() * b_scale.double().repeat_interleave(128, 1).repeat_interleave(128, 0)).T


def packed(scale: Tensor) -> Tensor:
    """Four exponents an int32, rows innermost and padded to a multiple of four, as DeepGEMM wants them."""
    words = (torch.log2(scale) + 127).to(torch.uint8).view(torch.int32)
    rows = -(-words.shape[0] // 4) * 4
    storage = torch.zeros(words.shape[1], rows, dtype=torch.int32)
    storage[:, : words.shape[0]] = words.T
    return storage.T[: words.shape[0]]


@pytest.mark.parametrize("form", ["fp32 rows", "fp32 columns", "packed", "e8m0 weight"])
def test_linear_of_every_scale_form(operands: tuple[Tensor, Tensor, Tensor, Tensor], form: str) -> None:
    a, a_scale, b, b_scale = operands
    given_a, given_b = a_scale, b_scale
    if form == "fp32 columns":
        given_a = a_scale.T.contiguous().T
    elif form == "e8m0 weight":
        given_b = (torch.log2(b_scale) + 127).to(torch.uint8).view(torch.float8_e8m0fnu)
    elif form == "packed":
        given_a, given_b = packed(a_scale), packed(b_scale.repeat_interleave(128, 0))
    weight = torch.nn.Parameter(b, requires_grad=False)
    out = w8a8.quantised(unused)(KERNEL, A=a, B=weight, As=given_a, Bs=given_b)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), product(*operands), rtol=0.01, atol=0.02)


def test_linear_that_quantises_itself(operands: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    _, _, b, b_scale = operands
    x = torch.randn(M, K, generator=torch.Generator().manual_seed(32)).bfloat16()
    out = w8a8.unquantised(unused)(KERNEL, x, b, torch.empty(1), b_scale)
    exact = x.double() @ (b.double() * b_scale.double().repeat_interleave(128, 1).repeat_interleave(128, 0)).T
    assert (out.double() - exact).norm() < 0.04 * exact.norm()  # e4m3 has three bits of mantissa


def test_what_the_linear_leaves_to_the_engine(operands: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    a, a_scale, b, b_scale = operands
    call = w8a8.quantised(unused)
    half = SimpleNamespace(config=SimpleNamespace(out_dtype=torch.float16))
    assert isinstance(call(half, a, b, a_scale, b_scale), Declined)
    assert isinstance(call(KERNEL, a.bfloat16(), b, a_scale, b_scale), Declined)
    assert isinstance(call(KERNEL, a, b.T.contiguous().T, a_scale, b_scale), Declined)
    assert isinstance(call(KERNEL, a, b.view(2, N // 2, K), a_scale, b_scale), Declined)
    assert isinstance(w8a8.unquantised(unused)(KERNEL, a, b, a_scale, b_scale), Declined)


def test_tables_in_the_form_of_the_engines_kernel() -> None:
    name = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
    found = w8a8.table_configs(name, 4096, 4096)
    rows = tables.load_table(tables.WORKSTATION)[(4096, 4096)]
    assert set(found) == set(rows)
    for m, config in found.items():
        tile = rows[m]
        assert config["BLOCK_SIZE_K"] == tile.block_k <= 128
        assert (config["BLOCK_SIZE_M"], config["GROUP_SIZE_M"], config["num_warps"], config["num_stages"]) == (
            tile.block_m, tile.group_m, tile.num_warps, tile.num_stages,
        )  # fmt: skip
    assert w8a8.table_configs(name, 4096, 77) == {}
    assert w8a8.table_configs("NVIDIA A100", 4096, 4096) == {}


def test_entries_that_the_engines_kernel_cannot_run_are_left_out() -> None:
    """Its loop has one scale block of K a step and the tokens on the row side."""
    left_out = 0
    for shape, rows in tables.load_table(tables.H200).items():
        found = w8a8.table_configs("NVIDIA H200", *shape)
        assert set(found) == {m for m, tile in rows.items() if not tile.swap and tile.block_k <= 128}
        left_out += len(rows) - len(found)
    assert left_out


def test_tables_are_consulted_only_for_blocks_of_128_on_a_gpu() -> None:
    call = w8a8.configs(unused)
    assert isinstance(call(4096, 4096, 64, 128), Declined)
    if not torch.cuda.is_initialized():
        assert isinstance(call(4096, 4096, 128, 128), Declined)
