"""Indexer, compressor, mHC, MoE and rope against loops that follow the formulas literally."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.reference import compressor, indexer, mhc, moe, norm_rope
from hypothesis import given, settings
from hypothesis import strategies as st


def rand(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mqa_logits_apply_the_relu_per_head() -> None:
    q, k, scale, w = rand(5, 4, 128, seed=1), rand(9, 128, seed=2), rand(9, seed=3).exp(), rand(5, 4, seed=4)
    expected = torch.zeros(5, 9, dtype=torch.float64)
    for i in range(5):
        for c in range(9):
            expected[i, c] = scale[c] * sum(w[i, h] * max(0.0, float(q[i, h] @ k[c])) for h in range(4))
    assert torch.allclose(indexer.mqa_logits(q, k, scale, w), expected, atol=1e-12)
    without_relu = torch.einsum("ih,ihd,cd,c->ic", w, q, k, scale)
    assert not torch.allclose(expected, without_relu, atol=1e-3)


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 60), st.integers(1, 40), st.integers(0, 500))
def test_topk_selects_the_best_visible_entries(rows: int, keys: int, topk: int, seed: int) -> None:
    q, k, scale, w = (
        rand(rows, 4, 128, seed=seed),
        rand(keys, 128, seed=seed + 1),
        rand(keys, seed=3).exp(),
        rand(rows, 4, seed=5),
    )
    lens = torch.sort(torch.randint(0, keys + 1, (rows,), generator=torch.Generator().manual_seed(seed))).values
    picks = indexer.topk_visible(q, k, scale, w, lens, topk)
    logits = indexer.mqa_logits(q, k, scale, w)
    for i in range(rows):
        visible = int(lens[i])
        chosen = picks[i][picks[i] >= 0].tolist()
        assert len(chosen) == len(set(chosen)) == min(visible, topk)
        if visible <= topk:
            assert picks[i].tolist() == [*range(visible), *[-1] * (topk - visible)]
        else:
            rest = [c for c in range(visible) if c not in chosen]
            assert logits[i, chosen].min() >= logits[i, rest].max()


def test_topk_ties_at_zero_do_not_depend_on_the_row_block() -> None:
    q, k = -torch.ones(40, 4, 128, dtype=torch.float64), torch.ones(50, 128, dtype=torch.float64)
    picks = indexer.topk_visible(q, k, k[:, 0], q[:, :, 0], torch.full((40,), 50), 8)
    assert all(sorted(row) == list(range(8)) for row in picks.tolist())


@pytest.mark.parametrize("ratio", [4, 128])
def test_compressed_entries_follow_the_window_formula(ratio: int) -> None:
    d, windows = 6, 3
    width = compressor.overlap(ratio) * d
    kv, score = rand(windows * ratio, width, seed=1), rand(windows * ratio, width, seed=2)
    lead = (compressor.overlap(ratio) - 1) * ratio
    padded_kv = torch.cat((torch.zeros(lead, width, dtype=torch.float64), kv))
    padded_score = torch.cat((torch.full((lead, width), -math.inf, dtype=torch.float64), score))
    pooled = compressor.pool(
        compressor.aligned_windows(padded_kv, ratio), compressor.aligned_windows(padded_score, ratio), ratio
    )
    assert pooled.shape == (windows, d)
    for i in range(windows):
        own = range(i * ratio, (i + 1) * ratio)
        for j in range(d):
            items = [(float(score[t, j + width - d]), float(kv[t, j + width - d])) for t in own]
            if ratio == 4 and i > 0:
                items += [(float(score[t, j]), float(kv[t, j])) for t in range((i - 1) * 4, i * 4)]
            total = sum(math.exp(s) for s, _ in items)
            expected = sum(math.exp(s) * v for s, v in items) / total
            assert pooled[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_sinkhorn_follows_the_published_order() -> None:
    mix, scale, base = rand(3, 24, seed=1), rand(3, seed=2), rand(24, seed=3)
    pre, post, comb = mhc.split_sinkhorn(mix, scale, base, 4, 20, 1e-6)
    for t in range(3):
        m = [[float(mix[t, 8 + 4 * j + k] * scale[2] + base[8 + 4 * j + k]) for k in range(4)] for j in range(4)]
        c = [[math.exp(v) / sum(math.exp(u) for u in row) + 1e-6 for v in row] for row in m]

        def columns(c: list[list[float]]) -> list[list[float]]:
            sums = [sum(c[j][k] for j in range(4)) + 1e-6 for k in range(4)]
            return [[c[j][k] / sums[k] for k in range(4)] for j in range(4)]

        c = columns(c)
        for _ in range(19):
            c = columns([[v / (sum(row) + 1e-6) for v in row] for row in c])
        assert torch.allclose(comb[t], torch.tensor(c, dtype=torch.float64), atol=1e-12)
        for j in range(4):
            assert pre[t, j].item() == pytest.approx(1 / (1 + math.exp(-float(mix[t, j] * scale[0] + base[j]))) + 1e-6)
            assert post[t, j].item() == pytest.approx(
                2 / (1 + math.exp(-float(mix[t, 4 + j] * scale[1] + base[4 + j])))
            )


def test_post_sums_over_the_first_index_of_comb() -> None:
    f, streams, post, comb = rand(2, 5, seed=1), rand(2, 4, 5, seed=2), rand(2, 4, seed=3), rand(2, 4, 4, seed=4)
    out = mhc.apply_post(f, streams, post, comb)
    for t in range(2):
        for k in range(4):
            expected = post[t, k] * f[t] + sum(comb[t, j, k] * streams[t, j] for j in range(4))
            assert torch.allclose(out[t, k], expected, atol=1e-12)


def test_routing_bias_selects_but_does_not_weigh() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    bias = torch.tensor([10.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    ids, weights = moe.route(logits, 2, 1.5, bias=bias)
    assert sorted(ids[0].tolist()) == [0, 3]
    score = {e: math.sqrt(math.log1p(math.exp(float(logits[0, e])))) for e in (0, 3)}
    for e, w in zip(ids[0].tolist(), weights[0].tolist(), strict=True):
        assert w == pytest.approx(1.5 * score[e] / (score[0] + score[3]))


@pytest.mark.parametrize("tokens", [1, 8, 9, 30])
def test_experts_equal_a_loop_over_tokens_and_slots(tokens: int) -> None:
    """Both paths (few tokens gathered, many tokens grouped) against the formula; -1 adds nothing."""
    dim, inter, count = 128, 128, 4
    x, w13, w2 = rand(tokens, dim, seed=1), rand(count, 2 * inter, dim, seed=2), rand(count, dim, inter, seed=3)
    ids = torch.randint(-1, count, (tokens, 2), generator=torch.Generator().manual_seed(4))
    weights = rand(tokens, 2, seed=5)
    out = moe.experts(x, ids, weights, w13, w2, 10.0, quantize=False)
    for t in range(tokens):
        expected = torch.zeros(dim, dtype=torch.float64)
        for slot in range(2):
            e = int(ids[t, slot])
            if e < 0:
                continue
            gate, up = (w13[e] @ x[t]).chunk(2)
            gate, up = gate.clamp(max=10.0), up.clamp(-10.0, 10.0)
            expected += w2[e] @ (weights[t, slot] * gate * torch.sigmoid(gate) * up)
        assert torch.allclose(out[t], expected, atol=1e-9)


@given(st.integers(0, 4000))
def test_rope_rotates_interleaved_pairs_and_inverts(position: int) -> None:
    freqs = norm_rope.rope_frequencies(64, 10_000.0)
    table = norm_rope.cos_sin_table(freqs, 4001, torch.float64)[position : position + 1]
    x = rand(1, 2, 96, seed=position)
    rotated = norm_rope.apply_rope_(x.clone(), table)
    for pair in range(32):
        angle = position * 10_000.0 ** (-2 * pair / 64)
        a, b = x[0, :, 32 + 2 * pair], x[0, :, 33 + 2 * pair]
        assert torch.allclose(rotated[0, :, 32 + 2 * pair], a * math.cos(angle) - b * math.sin(angle), atol=1e-9)
    assert torch.equal(rotated[..., :32], x[..., :32])
    assert torch.allclose(norm_rope.apply_rope_(rotated, table, inverse=True), x, atol=1e-9)


def test_yarn_keeps_fast_dimensions_and_slows_slow_ones() -> None:
    plain = norm_rope.rope_frequencies(64, 160_000.0)
    yarn = norm_rope.rope_frequencies(64, 160_000.0, yarn_factor=16.0)
    assert yarn[0] == plain[0]
    assert yarn[-1] == pytest.approx(float(plain[-1]) / 16)
    assert ((yarn <= plain) & (yarn >= plain / 16)).all()
