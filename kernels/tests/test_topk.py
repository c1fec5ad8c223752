"""Per-row top-k: the reference against loops, the kernels against what a top-k must satisfy."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels.reference import topk as reference
from hypothesis import given, settings
from hypothesis import strategies as st


def logits_like(kind: str, rows: int, columns: int, seed: int) -> torch.Tensor:
    """Kinds of rows that a selection can get wrong."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    if kind == "equal":
        return torch.full_like(x, -3.5)
    if kind == "zeros":
        return torch.where(x > 0, 0.0, -0.0)
    if kind == "many -inf":
        return x.masked_fill(torch.rand(rows, columns, generator=generator) < 0.99, -torch.inf)
    if kind == "few values":
        return x.round()
    if kind == "ascending":
        return x.sort(dim=-1).values
    if kind == "late":  # the sample of a long row sees none of the best
        x[:, columns // 2 :] += torch.where(torch.arange(columns - columns // 2) % 64 > 32, 50.0, -50.0)
        return x
    if kind == "infinite":
        return x.masked_fill(torch.rand(rows, columns, generator=generator) < 0.3, torch.inf)
    return x


KINDS = ["normal", "equal", "zeros", "many -inf", "few values", "ascending", "late", "infinite"]


def check_row(picked: list[int], visible: list[float], k: int) -> None:
    """The contract, literally."""
    assert len(picked) == k
    if len(visible) <= k:
        assert picked == [*range(len(visible)), *[-1] * (k - len(visible))]
        return
    assert len(set(picked)) == k and min(picked) >= 0 and max(picked) < len(visible)
    assert sorted((visible[i] for i in picked), reverse=True) == sorted(visible, reverse=True)[:k]


def check(picked: torch.Tensor, logits: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, k: int) -> None:
    for row in range(logits.shape[0]):
        visible = logits[row, int(starts[row]) : max(int(starts[row]), int(ends[row]))].tolist()
        check_row(picked[row].tolist(), visible, k)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 60), st.integers(1, 40), st.sampled_from(KINDS), st.integers(0, 1000))
def test_reference_selects_the_highest(rows: int, columns: int, k: int, kind: str, seed: int) -> None:
    logits = logits_like(kind, rows, columns, seed)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, columns, (rows,), generator=generator, dtype=torch.int32)
    ends = (starts + torch.randint(-2, columns + 1, (rows,), generator=generator)).clamp(0, columns).int()
    check(reference.topk_prefill(logits, starts, ends, k), logits, starts, ends, k)


def test_reference_lengths_of_draft_tokens() -> None:
    lens = torch.tensor([7, 1, 0], dtype=torch.int32)
    assert reference.decode_lengths(lens, 3).tolist() == [5, 6, 7, 0, 0, 1, 0, 0, 0]
    per_row = torch.tensor([[3, 9], [0, 2]], dtype=torch.int32)
    assert reference.decode_lengths(per_row, 2).tolist() == [3, 9, 0, 2]
    logits = torch.arange(60.0).view(6, 10)
    out = torch.empty(6, 4, dtype=torch.int32)
    assert reference.topk_decode(logits, 3, torch.tensor([7, 5], dtype=torch.int32), 4, out=out) is out
    assert [sorted(row) for row in out.tolist()[:3]] == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]
    assert out.tolist()[3:] == [[0, 1, 2, -1], [0, 1, 2, 3], [1, 4, 2, 3]] or sorted(out.tolist()[5]) == [1, 2, 3, 4]


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("kind", KINDS)
def test_whole_rows_of_every_kind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ds4_kernels.triton import topk

    monkeypatch.setattr(topk, "row_pieces", lambda rows, columns, device: 1)
    logits = logits_like(kind, 2, 9000, seed=5)
    starts = torch.tensor([0, 3], dtype=torch.int32)
    ends = torch.tensor([9000, 8001], dtype=torch.int32)
    check(topk.topk_prefill(logits, starts, ends, 512), logits, starts, ends, 512)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("k", [1, 6, 64, 512, 1024, 2048])
def test_lengths_around_k_and_the_chunk(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from ds4_kernels.triton import topk

    monkeypatch.setattr(topk, "row_pieces", lambda rows, columns, device: 1)
    lens = [0, 1, k - 1, k, k + 1, 1023, 1025, 3000]
    logits = torch.full((len(lens), 3104), torch.nan)
    starts = torch.arange(len(lens), dtype=torch.int32) * 7
    ends = starts + torch.tensor(lens, dtype=torch.int32)
    ends[0] = starts[0]
    for row in range(len(lens)):  # everything outside the bounds is NaN
        logits[row, int(starts[row]) : int(ends[row])] = logits_like("normal", 1, max(lens[row], 0), row)[0]
    view = logits[:, :3100]  # rows further apart than columns
    check(topk.topk_prefill(view, starts, ends, k), view, starts, ends, k)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("kind", ["normal", "equal", "many -inf", "late"])
@pytest.mark.parametrize("k", [6, pytest.param(512, marks=pytest.mark.slow)])
def test_split_rows(kind: str, k: int) -> None:
    from ds4_kernels.triton import topk

    logits = logits_like(kind, 3, 13_000, seed=9)
    assert topk.row_pieces(3, 13_000, logits.device) == 4
    lens = torch.tensor([13_000, 4099, k], dtype=torch.int32)
    out = torch.empty(3, k, dtype=torch.int32)
    assert topk.topk_decode(logits, 1, lens, k, out=out) is out
    check(out, logits, torch.zeros_like(lens), lens, k)


@pytest.mark.triton
@pytest.mark.interpreted
def test_draft_rows_end_one_column_earlier() -> None:
    from ds4_kernels.triton import topk

    logits = logits_like("ascending", 6, 700, seed=2)
    lens = torch.tensor([700, 1], dtype=torch.int32)
    rows = reference.decode_lengths(lens, 3)
    check(topk.topk_decode(logits, 3, lens, 64), logits, torch.zeros_like(rows), rows, 64)
    both = topk.topk_decode(logits, 3, rows.view(2, 3).contiguous(), 64)
    check(both, logits, torch.zeros_like(rows), rows, 64)


@pytest.mark.triton
@pytest.mark.interpreted
def test_shapes_and_dtypes_are_checked() -> None:
    from ds4_kernels.triton import topk

    logits, bound = torch.zeros(2, 8), torch.zeros(2, dtype=torch.int32)
    for bad in (
        lambda: topk.topk_prefill(logits.half(), bound, bound, 4),
        lambda: topk.topk_prefill(logits, bound[:1], bound, 4),
        lambda: topk.topk_prefill(logits, bound.long(), bound, 4),
        lambda: topk.topk_prefill(logits, bound, bound, 5000),
        lambda: topk.topk_decode(logits, 3, bound, 4),
        lambda: topk.topk_prefill(logits, bound, bound, 4, out=torch.zeros(2, 5, dtype=torch.int32)),
    ):
        with pytest.raises(ValueError):
            bad()
