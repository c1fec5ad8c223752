"""MQA logits: the reference against plain loops in FP64, the kernels in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from ds4_kernels import layouts
from ds4_kernels.reference import mqa
from torch import Tensor


def e4m3(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator).mul(8).to(torch.float8_e4m3fn)


def score(q: Tensor, k: Tensor, k_scale: float, weights: Tensor) -> float:
    total = 0.0
    for head in range(q.shape[0]):
        dot = sum(float(a) * float(b) for a, b in zip(q[head], k, strict=True))
        total += float(weights[head]) * max(dot, 0.0)
    return total * k_scale


@pytest.fixture
def operands() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "q": e4m3(generator, 4, 4, 128),
        "k": e4m3(generator, 9, 128),
        "k_scale": torch.exp2(torch.randint(-3, 3, (9,), generator=generator).float()),
        "weights": torch.randn(4, 4, generator=generator),
    }


def test_ragged_scores_and_window(operands: dict[str, Tensor]) -> None:
    starts, ends = torch.tensor([0, 2, 5, 4], dtype=torch.int32), torch.tensor([9, 6, 5, 9], dtype=torch.int32)
    logits = mqa.mqa_logits_ragged(**operands, starts=starts, ends=ends, dtype=torch.float64)
    for row in range(4):
        for key in range(9):
            if starts[row] <= key < ends[row]:
                expected = score(
                    operands["q"][row], operands["k"][key], float(operands["k_scale"][key]), operands["weights"][row]
                )
                assert float(logits[row, key]) == pytest.approx(expected, rel=1e-12, abs=1e-12)
            else:
                assert float(logits[row, key]) == -torch.inf


def test_compressed_rows_begin_at_their_own_start(operands: dict[str, Tensor]) -> None:
    starts, ends = torch.tensor([0, 2, 5, 8], dtype=torch.int32), torch.tensor([5, 6, 5, 9], dtype=torch.int32)
    full = mqa.mqa_logits_ragged(**operands, starts=starts, ends=ends)
    compressed = mqa.mqa_logits_ragged(**operands, starts=starts, ends=ends, compressed_width=6)
    for row in range(4):
        length = int(ends[row] - starts[row])
        assert torch.equal(compressed[row, :length], full[row, int(starts[row]) : int(ends[row])])
        assert bool((compressed[row, length:] == -torch.inf).all())


@pytest.mark.parametrize("flat", [True, False])
def test_paged_equals_ragged_over_the_same_keys(flat: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    batch, next_n, pages, block = 2, 3, 3, 4
    cache = layouts.INDEXER_FP8.allocate(batch * pages, block)
    keys = torch.randn(batch * pages * block, 128, generator=generator)
    layouts.INDEXER_FP8.write(cache, block, torch.arange(len(keys)), *layouts.pack_indexer_fp8(keys))
    table = torch.randperm(batch * pages, generator=generator).view(batch, pages).to(torch.int32)
    q = e4m3(generator, batch, next_n, 4, 128)
    weights = torch.randn(batch * next_n, 4, generator=generator)
    lens = torch.tensor([11, 5]) if flat else torch.tensor([[3, 0, 12], [7, 5, 9]])
    got = mqa.mqa_logits_paged(q, cache, block, weights, lens.to(torch.int32), table, 14)
    for request in range(batch):
        slots = (table[request].long()[:, None] * block + torch.arange(block)).flatten()
        k, scale = layouts.unpack_indexer_fp8(*layouts.INDEXER_FP8.read(cache, block, slots), torch.float32)
        for row in range(next_n):
            length = int(lens[request]) - (next_n - 1 - row) if flat else int(lens[request, row])
            expected = mqa.mqa_logits_ragged(
                q[request, row : row + 1], k, scale, weights[request * next_n + row][None],
                torch.tensor([0]), torch.tensor([length]),
            )  # fmt: skip
            torch.testing.assert_close(got[request * next_n + row, : len(k)], expected[0])
            assert bool((got[request * next_n + row, max(length, 0) :] == -torch.inf).all())


def test_wq_is_not_the_score_and_refuses_a_relu(operands: dict[str, Tensor]) -> None:
    plain = mqa.mqa_logits_wq(**operands, relu=False)
    starts, ends = torch.zeros(4, dtype=torch.int32), torch.full((4,), 9, dtype=torch.int32)
    real = mqa.mqa_logits_ragged(**operands, starts=starts, ends=ends)
    assert not torch.allclose(plain, real, rtol=0.05)
    with pytest.raises(ValueError, match="leaves out the ReLU"):
        mqa.mqa_logits_wq(**operands, relu=True)


def test_wq_equals_the_score_where_every_product_is_positive(operands: dict[str, Tensor]) -> None:
    positive = {
        name: value.float().abs().to(value.dtype) if name in "qk" else value for name, value in operands.items()
    }
    starts, ends = torch.zeros(4, dtype=torch.int32), torch.full((4,), 9, dtype=torch.int32)
    real = mqa.mqa_logits_ragged(**positive, starts=starts, ends=ends)
    torch.testing.assert_close(mqa.mqa_logits_wq(**positive, relu=False), real, rtol=1e-4, atol=1e-2)


def test_lengths_of_both_forms() -> None:
    assert mqa.row_lengths(torch.tensor([5, 1]), 3).tolist() == [[3, 4, 5], [0, 0, 1]]
    with pytest.raises(ValueError, match="2 columns for next_n 3"):
        mqa.row_lengths(torch.zeros(4, 2), 3)


@pytest.mark.triton
def test_rows_per_program_follow_next_n() -> None:
    kernels = pytest.importorskip("ds4_kernels.triton.mqa")
    assert [kernels.rows_per_program(n) for n in (1, 2, 3, 4, 5, 9)] == [1, 2, 4, 4, 8, 8]


@pytest.mark.triton
def test_kernels_refuse_what_they_cannot_do() -> None:
    kernels = pytest.importorskip("ds4_kernels.triton.mqa")
    q = torch.zeros(1, 8, 64).to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="128 dimensions"):
        kernels.mqa_logits_wq(q, q[0], torch.ones(8), torch.ones(1, 8), relu=False)
    packed = torch.zeros(1, 1, 8, 128, dtype=torch.uint8)
    with pytest.raises(ValueError, match="FP4 indexer cache is not supported"):
        kernels.mqa_logits_paged(packed, packed, 64, torch.ones(1, 8), torch.ones(1), torch.zeros(1, 1), 64)
