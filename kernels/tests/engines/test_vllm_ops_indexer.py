"""Adapters of the indexer: engine layouts in, plain loops from the definition on the other side."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.vllm_ops import indexer
from torch import Tensor

pytestmark = pytest.mark.usefixtures("each_backend")

H, D = 4, 128


def unused(*args: object, **kwargs: object) -> object:
    raise AssertionError("the engine's op must not run")


def queries(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    q = torch.randn(*shape, H, D, generator=generator).mul(4).to(torch.float8_e4m3fn)
    return q, torch.randn(math.prod(shape), H, generator=generator)


def score(q: Tensor, weights: Tensor, key: Tensor, scale: float) -> float:
    """Sum over heads of ``w relu(q . k)``, times the key's scale, in FP64."""
    dots = (q.double() @ key.double()).clamp_min(0)
    return float((dots * weights.double()).sum()) * scale


@pytest.mark.parametrize("compressed", [False, True], ids=["0.25.0", "0.33.0"])
def test_ragged_logits_of_every_row_within_its_window(compressed: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    q, weights = queries(generator, 5)
    workspace = torch.randn(12, D, generator=generator).mul(4).to(torch.float8_e4m3fn)
    scale_bytes = torch.exp2(torch.randint(-3, 3, (12, 1), generator=generator).float()).view(torch.uint8)
    keys, scales = workspace[:9], scale_bytes[:9].view(torch.float32).squeeze(-1)  # what vLLM hands over
    starts, ends = (torch.tensor(x, dtype=torch.int32) for x in ([0, 2, 5, 4, 0], [9, 6, 5, 9, 1]))
    if compressed:
        logits = indexer.ragged_033(unused)((q, None), (keys, scales), weights, starts, ends, 9)
    else:
        logits = indexer.ragged_025(unused)((q, None), (keys, scales), weights, starts, ends, clean_logits=False)
    assert logits.shape == (5, 9) and logits.dtype == torch.float32
    for row in range(5):
        for key in range(int(starts[row]), int(ends[row])):
            column = key - int(starts[row]) if compressed else key
            expected = score(q[row], weights[row], keys[key], float(scales[key]))
            assert float(logits[row, column]) == pytest.approx(expected, rel=1e-5, abs=1e-3)


def engine_cache(generator: torch.Generator, blocks: int, size: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """(the engine's 4-D view with padded blocks, keys ``[blocks, size, 128]``, scales ``[blocks, size]``)."""
    stride = size * 132 + padding
    storage = torch.full((blocks * stride,), 0x7F, dtype=torch.uint8)  # NaN wherever nobody wrote
    keys = torch.randn(blocks, size, D, generator=generator).mul(4).to(torch.float8_e4m3fn)
    scales = torch.exp2(torch.randint(-3, 3, (blocks, size), generator=generator).float())
    for block in range(blocks):
        page = storage[block * stride :]
        page[: size * D] = keys[block].flatten().view(torch.uint8)
        page[size * D : size * 132] = scales[block].view(torch.uint8)
    view = storage.as_strided((blocks, size, 132), (stride, 132, 1)).unsqueeze(-2)
    return view, keys, scales


@pytest.mark.parametrize("padding", [0, 256])
@pytest.mark.parametrize("own_lengths", [True, False], ids=["lengths [B, next_n]", "lengths [B]"])
def test_paged_logits_from_the_planar_cache(padding: int, own_lengths: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    cache, keys, scales = engine_cache(generator, blocks=5, size=64, padding=padding)
    q, weights = queries(generator, 2, 2)
    table = torch.tensor([[3, 1, 0], [4, 0, 0]], dtype=torch.int32)
    rows = torch.tensor([[129, 130], [6, 7]], dtype=torch.int32)
    lens = rows if own_lengths else rows[:, 1].contiguous()
    arguments = ((q, None), cache, weights, lens, table, torch.zeros(1), 192)
    logits = indexer.paged_025(unused)(*arguments, clean_logits=False)
    assert torch.equal(logits, indexer.paged_033(unused)(*arguments))
    assert logits.shape == (4, 192)
    for request in range(2):
        for j in range(2):
            length = int(rows[request, j])
            row = logits[2 * request + j]
            assert bool((row[length:] == -torch.inf).all())
            for position in (0, 3, length - 1):
                block, slot = int(table[request, position // 64]), position % 64
                expected = score(q[request, j], weights[2 * request + j], keys[block, slot], float(scales[block, slot]))
                assert float(row[position]) == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_what_the_logits_leave_to_the_engine() -> None:
    generator = torch.Generator().manual_seed(3)
    q, weights = queries(generator, 2)
    keys, ones = q[:, 0].contiguous(), torch.ones(2)
    window = (torch.zeros(2, dtype=torch.int32), torch.ones(2, dtype=torch.int32))
    ragged = indexer.ragged_025(unused)
    for bad_q, bad_kv, bad_weights in (
        ((q, ones), (keys, ones), weights),
        ((q.view(torch.int8), None), (keys, ones), weights),
        ((q[:, :3], None), (keys, ones), weights[:, :3]),
        ((q, None), (keys.view(torch.uint8), ones), weights),
        ((q, None), (keys, ones), weights.bfloat16()),
    ):
        assert isinstance(ragged(bad_q, bad_kv, bad_weights, *window, False), Declined)
    cache, _, _ = engine_cache(generator, 1, 64, 0)
    lens, table = torch.ones(2, 1, dtype=torch.int32), torch.zeros(2, 1, dtype=torch.int32)
    paged = indexer.paged_033(unused)
    arguments = (weights, lens, table, torch.zeros(1), 64)
    assert isinstance(paged((q.unsqueeze(1), None), cache[..., :68], *arguments), Declined)
    assert isinstance(paged((q.unsqueeze(1), None), cache, *arguments, torch.zeros(2)), Declined)
    assert isinstance(paged((q.unsqueeze(0), None), cache, *arguments), Declined)  # next_n 2, one length a row


def test_comparison_ignores_what_the_engine_leaves_undefined() -> None:
    starts, ends = torch.tensor([1, 0], dtype=torch.int32), torch.tensor([3, 4], dtype=torch.int32)
    ours, engine = torch.full((2, 4), -torch.inf), torch.full((2, 4), torch.nan)
    for logits in (ours, engine):
        logits[0, 1:3], logits[1] = 5.0, 7.0
    arguments = {"cu_seqlen_ks": starts, "cu_seqlen_ke": ends}
    left, right = (indexer._inside_ragged(arguments, (x,))[0] for x in (ours, engine))
    assert torch.equal(left, right) and left[0].tolist() == [0, 5, 5, 0]
    moved = indexer._inside_ragged(arguments | {"max_seqlen_k": 4}, (torch.ones(2, 4),))[0]
    assert moved.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    paged = {"context_lens": torch.tensor([3]), "q": (torch.zeros(1, 2, H, D), None)}
    assert indexer._inside_paged(paged, (torch.ones(2, 4),))[0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


def test_prefill_topk_writes_into_the_engines_buffer_relative_to_the_row() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 40, generator=generator)
    starts, ends = torch.tensor([0, 7, 30], dtype=torch.int32), torch.tensor([40, 39, 33], dtype=torch.int32)
    buffer = torch.full((3, 12), -7, dtype=torch.int32)
    out = buffer[:, :8]  # rows of a wider buffer
    assert indexer.topk_prefill(unused)(logits, starts, ends, out, 3, 40, 1, 8) is None
    for row in range(3):
        window = logits[row, int(starts[row]) : int(ends[row])].tolist()
        best = sorted(range(len(window)), key=lambda i: -window[i])[:8]
        assert sorted(index for index in out[row].tolist() if index >= 0) == sorted(best)
    assert out[2].tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    assert bool((buffer[:, 8:] == -7).all())


def test_decode_topk_of_both_forms_of_lengths() -> None:
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(5))
    rows = torch.tensor([[9, 10], [19, 20]], dtype=torch.int32)
    outs = [torch.zeros(4, 3, dtype=torch.int32) for _ in range(2)]
    for out, lens in zip(outs, (rows, rows[:, 1].contiguous()), strict=True):
        assert indexer.topk_decode(unused)(logits, 2, lens, out, 4, 20, 1, 3) is None
    for row in range(4):
        values = logits[row, : int(rows.flatten()[row])].tolist()
        best = sorted(sorted(range(len(values)), key=lambda i: -values[i])[:3])
        assert sorted(outs[0][row].tolist()) == best and sorted(outs[1][row].tolist()) == best
    flat = torch.full((4,), 5, dtype=torch.int32)
    assert isinstance(indexer.topk_decode(unused)(logits, 2, flat, outs[0], 4, 20, 1, 3), Declined)
    assert isinstance(indexer.topk_prefill(unused)(logits.half(), flat, flat, outs[0], 4, 20, 1, 3), Declined)


def test_query_is_roped_quantised_and_its_scale_folded() -> None:
    generator = torch.Generator().manual_seed(6)
    tokens, heads = 3, 4
    q = torch.randn(tokens, heads, D, generator=generator).bfloat16()
    weights = torch.randn(tokens, heads, generator=generator).bfloat16()
    table = torch.randn(16, 64, generator=generator)
    positions = torch.tensor([0, 9, 15])
    call = indexer.query(unused)
    values, folded = call(positions, q, table, weights, D**-0.5, heads**-0.5)
    for t in range(tokens):
        cos, sin = table[positions[t], :32].double(), table[positions[t], 32:].double()
        for h in range(heads):
            x = q[t, h].double()
            even, odd = x[64::2].clone(), x[65::2].clone()
            x[64::2], x[65::2] = even * cos - odd * sin, even * sin + odd * cos
            x = x.bfloat16().double()
            scale = 2.0 ** math.ceil(math.log2(max(float(x.abs().max()), 1e-4) / 448))
            assert torch.allclose(values[t, h].double() * scale, x, rtol=0.07, atol=scale * 2**-9)
            expected = float(weights[t, h].double()) * scale * D**-0.5 * heads**-0.5
            assert float(folded[t, h]) == pytest.approx(expected, rel=1e-6)
    assert isinstance(call(positions, q, table, weights, D**-0.5, heads**-0.5, use_fp4=True), Declined)
    assert isinstance(call(positions, q, table, weights, 1.0, 1.0), Declined)
    assert isinstance(call(positions, q.float(), table, weights, D**-0.5, heads**-0.5), Declined)
