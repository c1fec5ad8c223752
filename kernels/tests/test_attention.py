"""Sparse attention states against a brute-force softmax in FP64."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels.reference import attention
from hypothesis import given, settings
from hypothesis import strategies as st

HEADS, DIM = 2, 16
SCALE = DIM**-0.5


def brute(q: torch.Tensor, keys: list[torch.Tensor], sink: torch.Tensor | None) -> torch.Tensor:
    """Loop over tokens and heads: softmax over each token's keys with the sink in the denominator only."""
    out = torch.zeros_like(q)
    for t, rows in enumerate(keys):
        for h in range(q.shape[1]):
            if len(rows) == 0:
                continue
            scores = rows @ q[t, h] * SCALE
            weights = scores.exp()
            total = weights.sum() + (0 if sink is None else sink[h].exp())
            out[t, h] = (weights @ rows) / total
    return out


def rand(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(0, 40), st.integers(1, 33), st.integers(0, 1000))
def test_window_attention_equals_brute_force(tokens: int, history: int, window: int, seed: int) -> None:
    q, kv, sink = (
        rand(tokens, HEADS, DIM, seed=seed),
        rand(history + tokens, DIM, seed=seed + 1),
        rand(HEADS, seed=seed + 2),
    )
    state = attention.accumulate_window(q, kv, window, history, SCALE)
    out, _ = attention.finish([state], sink)
    keys = [kv[max(0, history + t - window + 1) : history + t + 1] for t in range(tokens)]
    assert torch.allclose(out, brute(q, keys, sink), atol=1e-12)


@settings(deadline=None)
@given(st.integers(1, 140), st.integers(0, 1000))
def test_three_subsets_merge_to_one_softmax(tokens: int, seed: int) -> None:
    q, entries, sink = rand(tokens, HEADS, DIM, seed=seed), rand(30, DIM, seed=seed + 1), rand(HEADS, seed=seed + 2)
    generator = torch.Generator().manual_seed(seed)
    lens = torch.randint(0, 31, (tokens,), generator=generator)
    indices = torch.randint(-1, 30, (tokens, 7), generator=generator)  # -1 = none; duplicates count twice
    gathered, valid = rand(tokens, 5, DIM, seed=seed + 3), torch.rand(tokens, 5, generator=generator) > 0.4
    states = [
        attention.accumulate_dense(q, entries, lens, SCALE),
        attention.accumulate_indexed(q, entries, indices, SCALE),
        attention.accumulate_gathered(q, gathered, valid, SCALE),
    ]
    out, lse = attention.finish(states, sink)
    keys = [
        torch.cat((entries[: lens[t]], entries[indices[t][indices[t] >= 0]], gathered[t][valid[t]]))
        for t in range(tokens)
    ]
    assert torch.allclose(out, brute(q, keys, sink), atol=1e-12)
    for t, rows in enumerate(keys):
        expected = torch.logsumexp(q[t] @ rows.T * SCALE, -1)
        assert torch.allclose(lse[t], expected, atol=1e-12)


def test_a_row_without_candidates_gives_zero_and_minus_infinity() -> None:
    q, entries = rand(3, HEADS, DIM, seed=1), rand(4, DIM, seed=2)
    empty = attention.accumulate_dense(q, entries, torch.zeros(3, dtype=torch.int64), SCALE)
    none = attention.accumulate_dense(q, entries[:0], torch.zeros(3, dtype=torch.int64), SCALE)
    for states in ([empty], [none], [empty, none]):
        for sink in (None, torch.zeros(HEADS, dtype=torch.float64)):
            out, lse = attention.finish(states, sink)
            assert (out == 0).all()
            assert (lse == -torch.inf).all()


@pytest.mark.parametrize("value", [-torch.inf, torch.inf])
def test_infinite_sinks(value: float) -> None:
    q, entries, lens = rand(3, HEADS, DIM, seed=3), rand(4, DIM, seed=4), torch.tensor([1, 2, 4])
    sink = torch.full((HEADS,), value, dtype=torch.float64)
    out, lse = attention.finish([attention.accumulate_dense(q, entries, lens, SCALE)], sink)
    plain, plain_lse = attention.finish([attention.accumulate_dense(q, entries, lens, SCALE)], None)
    assert torch.equal(out, plain if value < 0 else torch.zeros_like(plain))
    assert torch.equal(lse, plain_lse)


def test_garbage_behind_an_invalid_candidate_never_enters() -> None:
    q, kv = rand(2, HEADS, DIM, seed=5), rand(2, 4, DIM, seed=6)
    valid = torch.tensor([[True, True, False, True], [True, False, False, True]])
    clean, _ = attention.finish([attention.accumulate_gathered(q, kv, valid, SCALE)], None)
    poisoned = torch.where(valid.unsqueeze(-1), kv, torch.nan)
    out, lse = attention.finish([attention.accumulate_gathered(q, poisoned, valid, SCALE)], None)
    assert torch.allclose(out, clean, atol=1e-14)
    assert not lse.isnan().any()
