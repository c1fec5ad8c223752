"""Hyper-connections: the contracts against loops in FP64, the kernels under the interpreter against the contracts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ds4_kernels.reference import hyper_connections as reference
from ds4_kernels.reference import norms
from hypothesis import given, settings
from hypothesis import strategies as st

EPS = 1e-6


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def problem(tokens: int, dim: int, seed: int, dtype: torch.dtype) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        "x": draw(tokens, 4, dim).to(dtype), "fn": (draw(24, 4 * dim) / math.sqrt(4 * dim)).to(wide),
        "scale": draw(3).abs().to(wide) + 0.3, "base": draw(24).to(wide),
    }  # fmt: skip


def loop_mixes(x: torch.Tensor, fn: torch.Tensor) -> list[list[float]]:
    rows = []
    for token in x.flatten(1).tolist():
        r = 1 / math.sqrt(sum(v * v for v in token) / len(token) + EPS)
        rows.append([sum(w * v for w, v in zip(weights, token, strict=True)) * r for weights in fn.tolist()])
    return rows


def loop_sinkhorn(mix: list[float], scale: list[float], base: list[float], iterations: int) -> tuple[Any, Any, Any]:
    pre = [sigmoid(mix[j] * scale[0] + base[j]) + EPS for j in range(4)]
    post = [2 * sigmoid(mix[4 + j] * scale[1] + base[4 + j]) for j in range(4)]
    comb = [[mix[8 + 4 * j + k] * scale[2] + base[8 + 4 * j + k] for k in range(4)] for j in range(4)]
    for j in range(4):
        total = sum(math.exp(v) for v in comb[j])
        comb[j] = [math.exp(v) / total + EPS for v in comb[j]]
    for iteration in range(iterations):
        if iteration:
            comb = [[v / (sum(row) + EPS) for v in row] for row in comb]
        columns = [sum(comb[j][k] for j in range(4)) + EPS for k in range(4)]
        comb = [[comb[j][k] / columns[k] for k in range(4)] for j in range(4)]
    return pre, post, comb


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(1, 21), st.integers(0, 1000))
def test_pre_follows_the_formulas(tokens: int, iterations: int, seed: int) -> None:
    p = problem(tokens, 32, seed, torch.float64)
    weight = torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y, post, comb = reference.mhc_pre(**p, iterations=iterations, norm_eps=EPS, hc_eps=EPS)
    normed, _, _ = reference.mhc_pre(**p, iterations=iterations, norm_eps=EPS, hc_eps=EPS, norm_weight=weight)
    for t, mix in enumerate(loop_mixes(p["x"], p["fn"])):
        pre, expected_post, expected_comb = loop_sinkhorn(mix, p["scale"].tolist(), p["base"].tolist(), iterations)
        assert post[t].tolist() == pytest.approx(expected_post, abs=1e-12)
        for j in range(4):
            assert comb[t, j].tolist() == pytest.approx(expected_comb[j], abs=1e-12)
        row = [sum(pre[j] * float(p["x"][t, j, d]) for j in range(4)) for d in range(32)]
        assert y[t].tolist() == pytest.approx(row, abs=1e-12)
        rms = math.sqrt(sum(v * v for v in row) / 32 + EPS)
        assert normed[t].tolist() == pytest.approx([v / rms * float(weight[d]) for d, v in enumerate(row)], abs=1e-11)


def test_comb_is_doubly_stochastic_after_twenty_rounds() -> None:
    p = problem(50, 32, 3, torch.float64)
    _, _, comb = reference.mhc_pre(**p, iterations=20, norm_eps=EPS, hc_eps=EPS)
    assert torch.allclose(comb.sum(1), torch.ones(50, 4, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(comb.sum(2), torch.ones(50, 4, dtype=torch.float64), atol=1e-2)


def test_post_sums_over_the_first_index() -> None:
    p = problem(3, 32, 4, torch.float64)
    generator = torch.Generator().manual_seed(8)
    f, post, comb = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((3, 32), (3, 4), (3, 4, 4)))
    out = reference.mhc_post(f, p["x"], post, comb)
    for t in range(3):
        for k in range(4):
            for d in range(32):
                expected = float(post[t, k] * f[t, d] + sum(comb[t, j, k] * p["x"][t, j, d] for j in range(4)))
                assert out[t, k, d].item() == pytest.approx(expected, abs=1e-12)


def test_head_has_one_scale_and_no_sinkhorn() -> None:
    p = problem(3, 32, 5, torch.float64)
    fn, scale, base = p["fn"][:4], p["scale"][:1], p["base"][:4]
    out = reference.mhc_head(p["x"], fn, scale, base, EPS, EPS)
    for t, mix in enumerate(loop_mixes(p["x"], fn)):
        pre = [sigmoid(mix[j] * float(scale) + float(base[j])) + EPS for j in range(4)]
        row = [sum(pre[j] * float(p["x"][t, j, d]) for j in range(4)) for d in range(32)]
        assert out[t].tolist() == pytest.approx(row, abs=1e-12)


@pytest.mark.parametrize("splits", [1, 3, 8, 11])
def test_splits_cover_the_depth_once(splits: int) -> None:
    x = torch.randn(3, 1024, generator=torch.Generator().manual_seed(1)).bfloat16()
    fn = torch.randn(24, 1024, generator=torch.Generator().manual_seed(2))
    out, squares = reference.mhc_prenorm_gemm(x, fn, splits)
    width = reference.split_width(1024, splits)
    for s in range(splits):
        part = slice(s * width, (s + 1) * width)
        for t in range(3):
            row = x[t, part].tolist()
            assert squares[s, t].item() == pytest.approx(sum(v * v for v in row), rel=1e-6)
            expected = [sum(v * w for v, w in zip(row, fn[n, part].tolist(), strict=True)) for n in range(24)]
            assert out[s, t].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert torch.allclose(out.sum(0), x.float() @ fn.T, atol=1e-3)


def calc_diff(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.double(), y.double()
    return float(1 - 2 * (x * y).sum() / (x.square() + y.square()).sum())


@given(st.floats(2.0**-99, 2.0**99, width=32), st.booleans())
def test_three_terms_are_the_weight_and_two_are_16_bits_of_it(size: float, negative: bool) -> None:
    weight = torch.tensor([[-size if negative else size]])
    three, two = reference.mhc_split_weights(weight), reference.mhc_split_weights(weight, exact=False)
    assert three.shape == (3, 1, 1) and two.shape == (2, 1, 1)
    assert three.dtype == two.dtype == torch.bfloat16
    assert torch.equal(three.double().sum(0).float(), weight)
    assert float((two.double().sum(0) - weight.double()).abs()) <= abs(float(weight.double())) * 2**-16


def test_ops_take_weights_that_were_split_before() -> None:
    p = problem(5, 64, 3, torch.bfloat16)
    split, options = reference.mhc_split_weights(p["fn"]), {"iterations": 20, "norm_eps": EPS, "hc_eps": EPS}
    plain = reference.mhc_pre(**p, **options)
    for ours, theirs in zip(reference.mhc_pre(**{**p, "fn": split}, **options), plain, strict=True):
        assert torch.equal(ours, theirs)
    head = {"x": p["x"], "scale": p["scale"][:1], "base": p["base"][:4], "norm_eps": EPS, "eps": EPS}
    assert torch.equal(reference.mhc_head(fn=split[:, :4], **head), reference.mhc_head(fn=p["fn"][:4], **head))


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(("exact", "limit"), [(True, 1e-12), (False, 1e-10)])
@pytest.mark.parametrize(("tokens", "dim", "splits", "outputs"), [(1, 256, 8, 24), (21, 256, 3, 24), (70, 128, 2, 4)])
def test_prenorm_kernel(
    tokens: int, dim: int, splits: int, outputs: int, exact: bool, limit: float, ahead: bool
) -> None:
    from ds4_kernels.triton import hyper_connections as kernels

    p = problem(tokens, dim, tokens, torch.bfloat16)
    x, fn = p["x"].flatten(1), p["fn"][:outputs].contiguous()
    weights = reference.mhc_split_weights(fn, exact) if ahead else fn
    out, squares = kernels.mhc_prenorm_gemm(x, weights, splits, exact)
    expected, expected_squares = reference.mhc_prenorm_gemm(x, fn, splits)
    assert calc_diff(out, expected) < limit and calc_diff(out.sum(0), x.double() @ fn.double().T) < limit
    assert torch.allclose(squares, expected_squares, rtol=1e-5)
    assert not torch.equal(expected, torch.zeros_like(expected))


@pytest.mark.triton
@pytest.mark.interpreted
def test_sinkhorn_kernel() -> None:
    from ds4_kernels.triton import hyper_connections as kernels

    generator = torch.Generator().manual_seed(6)
    mixes, scale, base = (torch.randn(*shape, generator=generator) * 2 for shape in ((37, 24), (3,), (24,)))
    for iterations in (1, 20):
        ours = kernels.mhc_split_sinkhorn(mixes, scale, base, iterations, EPS)
        for mine, expected in zip(ours, reference.mhc_split_sinkhorn(mixes, scale, base, iterations, EPS), strict=True):
            assert mine.shape == expected.shape and torch.allclose(mine, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize(("tokens", "dim"), [(1, 128), (5, 96), pytest.param(40, 64, marks=pytest.mark.slow)])
def test_pre_post_and_head_kernels(tokens: int, dim: int) -> None:
    from ds4_kernels.triton import hyper_connections as kernels

    p = problem(tokens, dim, dim, torch.bfloat16)
    weight = torch.randn(dim, generator=torch.Generator().manual_seed(1))
    for norm in (None, weight, weight.bfloat16()):
        ours = kernels.mhc_pre(**p, iterations=20, norm_eps=EPS, hc_eps=EPS, norm_weight=norm)
        theirs = reference.mhc_pre(**p, iterations=20, norm_eps=EPS, hc_eps=EPS, norm_weight=norm)
        assert torch.allclose(ours[0].float(), theirs[0].float(), rtol=2**-6, atol=1e-4)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours[1:], theirs[1:], strict=True))
    f = torch.randn(tokens, dim, generator=torch.Generator().manual_seed(2)).bfloat16()
    ours = kernels.mhc_post_pre(f, p["x"], *theirs[1:], p["fn"], p["scale"], p["base"], 20, EPS, EPS)
    expected = reference.mhc_post_pre(f, p["x"], *theirs[1:], p["fn"], p["scale"], p["base"], 20, EPS, EPS)
    assert torch.allclose(ours[0].float(), expected[0].float(), rtol=2**-7, atol=1e-5)
    assert torch.allclose(ours[1].float(), expected[1].float(), rtol=2**-6, atol=1e-3)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(ours[2:], expected[2:], strict=True))
    head = (p["fn"][:4].contiguous(), p["scale"][:1], p["base"][:4], EPS, EPS)
    mine, theirs_head = kernels.mhc_head(p["x"], *head), reference.mhc_head(p["x"], *head)
    assert torch.allclose(mine.float(), theirs_head.float(), rtol=2**-7, atol=1e-5)


@pytest.mark.triton
@pytest.mark.interpreted
def test_the_fused_norm_is_the_norm_of_the_rounded_input() -> None:
    from ds4_kernels.triton import hyper_connections as kernels

    p = problem(3, 128, 9, torch.bfloat16)
    weight = torch.randn(128, generator=torch.Generator().manual_seed(1)).bfloat16()
    plain, _, _ = kernels.mhc_pre(**p, iterations=20, norm_eps=EPS, hc_eps=EPS)
    fused, _, _ = kernels.mhc_pre(**p, iterations=20, norm_eps=EPS, hc_eps=EPS, norm_weight=weight)
    assert torch.allclose(fused.float(), norms.rms_norm(plain, weight, EPS).float(), rtol=2**-7, atol=1e-6)


@pytest.mark.triton
@pytest.mark.interpreted
def test_shapes_and_dtypes_are_checked() -> None:
    from ds4_kernels.triton import hyper_connections as kernels

    p = problem(2, 64, 1, torch.bfloat16)
    options = {"iterations": 20, "norm_eps": EPS, "hc_eps": EPS}
    for change in (
        {"x": p["x"].float()}, {"x": p["x"][:, :3]}, {"x": p["x"].transpose(0, 1)}, {"fn": p["fn"].double()},
        {"fn": p["fn"][:4]}, {"base": p["base"][:4]}, {"fn": p["fn"].bfloat16()}, {"fn": p["fn"][None].bfloat16()},
        {"fn": p["fn"][None].repeat(3, 1, 1)},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            kernels.mhc_pre(**{**p, **change}, **options)
    with pytest.raises(ValueError):
        kernels.mhc_prenorm_gemm(p["x"].flatten(1), p["fn"], 0)
    with pytest.raises(ValueError):
        kernels.mhc_post(p["x"][:, 0], p["x"], p["scale"], p["base"])
