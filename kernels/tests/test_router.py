"""Router and clamped SwiGLU: the contract against plain loops in FP64, the kernels (interpreter) against the contract."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.reference import router as reference
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")


def score(logit: float) -> float:
    return math.sqrt(math.log1p(math.exp(-abs(logit))) + max(logit, 0.0))


def rand(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.booleans())
def test_chosen_experts_are_the_highest_and_weights_are_normalised_scores(seed: int, topk: int, biased: bool) -> None:
    logits, bias = rand(4, 9, seed=seed) * 4, rand(9, seed=seed + 1)
    ids, weights = reference.route(logits, topk, 1.5, bias=bias if biased else None)
    assert ids.dtype == torch.int32
    for row, chosen, given_weights in zip(logits.tolist(), ids.tolist(), weights.tolist(), strict=True):
        value = {e: score(x) + (bias[e].item() if biased else 0.0) for e, x in enumerate(row)}
        assert chosen == sorted(value, key=lambda e: -value[e])[:topk]
        total = sum(score(row[e]) for e in chosen)
        for e, weight in zip(chosen, given_weights, strict=True):
            assert weight == pytest.approx(1.5 * score(row[e]) / total, rel=1e-6)


def test_given_experts_keep_their_order_and_absent_ones_weigh_nothing() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]], dtype=torch.float64)
    ids, weights = reference.route(logits, 2, 2.0, expert_ids=torch.tensor([[2, -1], [1, 0]]))
    assert ids.tolist() == [[2, -1], [1, 0]]
    assert weights[0].tolist() == pytest.approx([2.0, 0.0])
    total = score(-1.0) + score(3.0)
    assert weights[1].tolist() == pytest.approx([2 * score(-1.0) / total, 2 * score(3.0) / total], rel=1e-6)


def test_a_row_without_any_expert_has_zero_weights() -> None:
    _, weights = reference.route(torch.zeros(1, 4), 3, 1.5, expert_ids=torch.full((1, 3), -1))
    assert weights.tolist() == [[0.0, 0.0, 0.0]]


def test_swiglu_clamps_the_gate_from_above_and_up_on_both_sides() -> None:
    gate, up = [-30.0, -1.0, 5.0, 12.0], [0.5, -11.0, 20.0, 3.0]
    result = reference.swiglu_clamped(torch.tensor([gate + up], dtype=torch.float64), 10.0)
    for got, raw_gate, raw_up in zip(result[0].tolist(), gate, up, strict=True):
        g, u = min(raw_gate, 10.0), max(-10.0, min(10.0, raw_up))
        assert got == pytest.approx(g / (1 + math.exp(-g)) * u, rel=1e-6)


def test_swiglu_of_bf16_is_rounded_once() -> None:
    gate_up = rand(3, 64, seed=5).to(torch.bfloat16)
    expected = reference.swiglu_clamped(gate_up.double(), 10.0)
    assert (reference.swiglu_clamped(gate_up, 10.0).double() - expected).abs().max() <= 2.0**-8 * expected.abs().max()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="bias must be"):
        reference.route(torch.zeros(2, 4), 2, 1.0, bias=torch.zeros(3))
    with pytest.raises(ValueError, match="expert_ids must be"):
        reference.route(torch.zeros(2, 4), 2, 1.0, expert_ids=torch.zeros(2, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="logits must be"):
        reference.route(torch.zeros(2, 4), 5, 1.0)
    with pytest.raises(ValueError, match="gate_up must be"):
        reference.swiglu_clamped(torch.zeros(2, 5), 1.0)


@pytest.mark.triton
@pytest.mark.interpreted
def test_equal_scores_take_the_lowest_ids() -> None:
    from ds4_kernels.triton import router

    ids, weights = router.route(torch.zeros(2, 12), 3, 1.5)
    assert ids.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert torch.allclose(weights, torch.full((2, 3), 0.5))


@pytest.mark.triton
@pytest.mark.interpreted
def test_scores_of_very_negative_logits_keep_their_ratio() -> None:
    """softplus(-40) is exp(-40): a logarithm of 1 + x would lose it."""
    from ds4_kernels.triton import router

    logits = torch.tensor([[-40.0, -41.0, -60.0, -60.0]])
    ids, weights = router.route(logits, 2, 1.0)
    expected = [math.exp(-20.0), math.exp(-20.5)]
    assert ids.tolist() == [[0, 1]]
    assert weights[0].tolist() == pytest.approx([value / sum(expected) for value in expected], rel=1e-5)


@pytest.mark.triton
@pytest.mark.interpreted
def test_kernels_refuse_other_dtypes_and_take_empty_batches() -> None:
    from ds4_kernels.triton import router

    with pytest.raises(ValueError, match="must be float32"):
        router.route(torch.zeros(1, 4, dtype=torch.bfloat16), 2, 1.0)
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        router.swiglu_clamped(torch.zeros(1, 4, dtype=torch.float64), 1.0)
    ids, weights = router.route(torch.zeros(0, 4), 2, 1.0)
    assert ids.shape == weights.shape == (0, 2)
    out = torch.full((0, 3), 1.0)
    assert router.swiglu_clamped(torch.zeros(0, 6), 1.0, out=out) is out
