"""Adapters of the SGLang plugin: SGLang's shapes and layouts in, plain loops from the definitions on the other side."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels import layouts
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.sglang_ops import attention, indexer, mhc
from torch import Tensor

pytestmark = pytest.mark.usefixtures("each_backend")

PAGE = 64


def unused(*args: object, **kwargs: object) -> object:
    raise AssertionError("the engine's op must not run")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- attention --


def engine_pages(generator: torch.Generator, pages: int, page: int) -> tuple[Tensor, Tensor]:
    """(SGLang's view ``[pages, page, 1, 584]`` of planar pages padded to 576 bytes, values FP64 ``[tokens, 512]``)."""
    stride = math.ceil(page * 584 / 576) * 576
    storage = torch.zeros(pages * stride, dtype=torch.uint8)
    values = torch.zeros(pages * page, 512, dtype=torch.float64)
    for token in range(pages * page):
        base, offset = token // page * stride, token % page
        nope = torch.randn(448, generator=generator).to(torch.float8_e4m3fn)
        rope = torch.randn(64, generator=generator).to(torch.bfloat16)
        exponent = torch.randint(-2, 3, (7,), generator=generator)
        storage[base + offset * 576 :][:448] = nope.view(torch.uint8)
        storage[base + offset * 576 + 448 :][:128] = rope.view(torch.uint8)
        storage[base + page * 576 + offset * 8 :][:7] = (exponent + 127).to(torch.uint8)
        values[token, :448] = nope.double() * torch.exp2(exponent.double()).repeat_interleave(64)
        values[token, 448:] = rope.double()
    return storage.as_strided((pages, page, 1, 584), (stride, 584, 584, 1)), values


def attended(q: Tensor, keys: list[Tensor], sink: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax attention of q ``[T, H, 512]`` to each row's keys, one head at a time: (out, lse)."""
    out, lse = torch.zeros(q.shape, dtype=torch.float64), torch.full(q.shape[:2], -math.inf, dtype=torch.float64)
    for row, candidates in enumerate(keys):
        for head in range(q.shape[1]):
            if len(candidates) == 0:
                continue
            scores = candidates @ q[row, head].double() * scale
            weights = scores.exp()
            extra = 0.0 if sink is None else float(sink[head].double().exp())
            out[row, head] = (weights[:, None] * candidates).sum(0) / (weights.sum() + extra)
            lse[row, head] = weights.sum().log()
    return out, lse


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("compressed", [False, True])
def test_attention_to_the_window_and_the_compressed_entries(dtype: torch.dtype, compressed: bool) -> None:
    generator = seeded(3)
    q = torch.randn(3, 1, 8, 512, generator=generator).to(torch.bfloat16)
    cache, values = engine_pages(generator, 2, PAGE)
    extra, more = engine_pages(generator, 3, 16)
    sink = torch.randn(8, generator=generator)
    slots = torch.tensor([[5, 127, 64, -1], [0, 1, 2, 3], [9, 9, -1, -1]], dtype=torch.int32)
    lens = torch.tensor([3, 4, 1], dtype=torch.int32)
    other = torch.tensor([[47, 0], [16, -1], [3, 4]], dtype=torch.int32)
    other_lens = torch.tensor([2, 2, 0], dtype=torch.int32)
    given = {
        "q": q, "k_cache": cache.view(dtype), "head_dim_v": 512, "softmax_scale": 0.03, "indices": slots.unsqueeze(1),
        "topk_length": lens, "attn_sink": sink, "extra_k_cache": extra.view(dtype) if compressed else None,
        "extra_indices_in_kvcache": other.unsqueeze(1) if compressed else None,
        "extra_topk_length": other_lens if compressed else None,
    }  # fmt: skip
    out, lse = attention.with_kvcache(unused)(**given)
    keys = []
    for row in range(3):
        found = [values[s] for s in slots[row, : lens[row]].tolist() if s >= 0]
        found += [more[s] for s in other[row, : other_lens[row]].tolist() if s >= 0] if compressed else []
        keys.append(torch.stack(found))
    expected, _ = attended(q[:, 0], keys, sink, 0.03)
    assert out.shape == (3, 1, 8, 512) and out.dtype == torch.bfloat16 and lse.shape == (3, 8, 1)
    torch.testing.assert_close(out[:, 0].double(), expected, atol=2e-2, rtol=2e-2)


def test_the_triton_kernels_own_signature_without_lens_and_scale() -> None:
    generator = seeded(4)
    q = torch.randn(2, 1, 8, 512, generator=generator).to(torch.bfloat16)
    cache, values = engine_pages(generator, 1, PAGE)
    slots = torch.tensor([[1, 2, 3], [60, 61, 62]])  # int64, as the fallback allows
    out, _ = attention.sparse_decode(unused)(q, cache, slots.unsqueeze(1), None, None, 512, None)
    expected, _ = attended(q[:, 0], [values[row] for row in slots], None, 512**-0.5)
    torch.testing.assert_close(out[:, 0].double(), expected, atol=2e-2, rtol=2e-2)


def test_a_row_without_candidates_is_zero() -> None:
    cache, _ = engine_pages(seeded(5), 1, PAGE)
    q = torch.ones(1, 1, 8, 512, dtype=torch.bfloat16)
    none = torch.full((1, 1, 2), -1, dtype=torch.int32)
    out, lse = attention.sparse_decode(unused)(q, cache, none, None, torch.zeros(8), 512, 0.1)
    assert not out.any() and bool((lse == -math.inf).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q": torch.zeros(1, 1, 8, 512)}, "q torch.float32"),
        ({"q": torch.zeros(1, 2, 8, 512, dtype=torch.bfloat16)}, "q of 4 dimensions"),
        ({"k_cache": torch.zeros(1, 64, 1, 656, dtype=torch.uint8)}, "cache slots of"),
        ({"k_cache": torch.zeros(1, 64, 1, 584, dtype=torch.bfloat16)}, "cache torch.bfloat16"),
        ({"k_cache": torch.zeros(80000, dtype=torch.uint8).as_strided((2, 64, 1, 584), (37384, 584, 584, 1))}, "aligned"),
    ],
)  # fmt: skip
def test_what_our_kernel_does_not_take_goes_back_to_the_engine(change: dict[str, Tensor], words: str) -> None:
    given = {
        "q": torch.zeros(1, 1, 8, 512, dtype=torch.bfloat16), "k_cache": engine_pages(seeded(6), 1, PAGE)[0],
        "indices": torch.zeros(1, 1, 1, dtype=torch.int32), "head_dim_v": 512,
    }  # fmt: skip
    result = attention.with_kvcache(unused)(**{**given, **change})
    assert isinstance(result, Declined) and words in result.reason


# -- indexer --


@pytest.mark.parametrize("lens_of_two_dimensions", [False, True])
def test_paged_logits_of_every_row(lens_of_two_dimensions: bool) -> None:
    generator = seeded(7)
    heads, pages = 4, 3
    q = torch.randn(2, 1, heads, 128, generator=generator).to(torch.float8_e4m3fn)
    weight = torch.randn(2, heads, generator=generator)
    keys = torch.randn(pages * PAGE, 128, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.exp2(torch.randint(-3, 3, (pages * PAGE,), generator=generator).float())
    storage = torch.zeros(pages, PAGE * 132, dtype=torch.uint8)
    for page in range(pages):
        storage[page, : PAGE * 128] = keys[page * PAGE :][:PAGE].view(torch.uint8).flatten()
        storage[page, PAGE * 128 :] = scales[page * PAGE :][:PAGE].clone().view(torch.uint8)
    table = torch.tensor([[2, 0], [1, -1]], dtype=torch.int32)
    lens = torch.tensor([70, 5], dtype=torch.int32)
    given = lens.unsqueeze(1) if lens_of_two_dimensions else lens
    logits = indexer.paged(unused)(
        q, storage.view(pages, PAGE, 1, 132), weight, given, table, None, 100, clean_logits=False
    )
    assert logits.shape == (2, 100) and logits.dtype == torch.float32
    for row in range(2):
        for position in range(int(lens[row])):
            slot = int(table[row, position // PAGE]) * PAGE + position % PAGE
            dots = (q[row, 0].double() @ keys[slot].double()).clamp_min(0)
            expected = float((dots * weight[row].double()).sum() * scales[slot].double())
            assert float(logits[row, position]) == pytest.approx(expected, rel=1e-4, abs=1e-3)
        assert bool((logits[row, int(lens[row]) :] == -math.inf).all())


def test_logits_that_must_be_clean_and_odd_heads_go_back_to_the_engine() -> None:
    cache, lens = torch.zeros(1, PAGE, 1, 132, dtype=torch.uint8), torch.ones(1, dtype=torch.int32)
    table = torch.zeros(1, 1, dtype=torch.int32)

    def call(heads: int, clean: bool) -> object:
        q = torch.zeros(1, 1, heads, 128).to(torch.float8_e4m3fn)
        return indexer.paged(unused)(q, cache, torch.zeros(1, heads), lens, table, None, 8, clean_logits=clean)

    for result, words in ((call(4, True), "clean_logits"), (call(6, False), "6 heads")):
        assert isinstance(result, Declined) and words in result.reason


# -- hyper-connections --


def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """comb ``[4, 4]``: row softmax plus eps, then columns and rows in turn."""
    comb = logits.softmax(dim=-1) + eps
    comb = comb / (comb.sum(dim=0, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(dim=1, keepdim=True) + eps)
        comb = comb / (comb.sum(dim=0, keepdim=True) + eps)
    return comb


def mixed(m: Tensor, scale: Tensor, base: Tensor, iterations: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(pre ``[4]``, post ``[4]``, comb ``[4, 4]``) of one row's 24 mixes, FP64."""
    m, scale, base = m.double(), scale.double(), base.double()
    pre = torch.sigmoid(m[:4] * scale[0] + base[:4]) + eps
    post = 2 * torch.sigmoid(m[4:8] * scale[1] + base[4:8])
    return pre, post, sinkhorn((m[8:] * scale[2] + base[8:]).view(4, 4), iterations, eps)


def test_split_sinkhorn_of_every_row() -> None:
    generator = seeded(8)
    mixes = torch.randn(3, 1, 24, generator=generator)
    scale, base = torch.rand(3, generator=generator), torch.randn(24, generator=generator)
    pre, post, comb = mhc.split_sinkhorn(unused)(mixes, scale, base, 4, 20, 1e-6)
    assert pre.shape == (3, 1, 4) and post.shape == (3, 1, 4) and comb.shape == (3, 1, 4, 4)
    for row in range(3):
        expected = mixed(mixes[row, 0], scale, base, 20, 1e-6)
        for found, wanted in zip((pre[row, 0], post[row, 0], comb[row, 0]), expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-4)


def test_pre_with_and_without_the_norm_behind_it() -> None:
    generator = seeded(9)
    streams = torch.randn(2, 4, 256, generator=generator).to(torch.bfloat16)
    fn = torch.randn(24, 1024, generator=generator) / 32
    scale, base = torch.rand(3, generator=generator), torch.randn(24, generator=generator)
    weight = torch.rand(256, generator=generator).to(torch.bfloat16)
    mix = (fn, scale, base, 1e-6, 1e-6, 1e-6, 2.0, 20)
    post, comb, plain = mhc.pre(unused)(streams, *mix, n_splits=1, norm_weight=None, norm_eps=None)
    _, _, normed = mhc.pre(unused)(streams, *mix, norm_weight=weight, norm_eps=1e-6)
    for row in range(2):
        flat = streams[row].double().flatten()
        m = (fn.double() @ flat) * torch.rsqrt(flat.square().mean() + 1e-6)
        pre, wanted_post, wanted_comb = mixed(m, scale, base, 20, 1e-6)
        combined = (pre[:, None] * streams[row].double()).sum(0)
        torch.testing.assert_close(post[row, :, 0].double(), wanted_post, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(comb[row].double(), wanted_comb, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(plain[row].double(), combined, atol=3e-2, rtol=2e-2)
        after = combined * torch.rsqrt(combined.square().mean() + 1e-6) * weight.double()
        torch.testing.assert_close(normed[row].double(), after, atol=3e-2, rtol=2e-2)


def test_post_and_the_fused_boundary() -> None:
    generator = seeded(10)
    f = torch.randn(2, 256, generator=generator).to(torch.bfloat16)
    streams = torch.randn(2, 4, 256, generator=generator).to(torch.bfloat16)
    post, comb = torch.rand(2, 4, generator=generator), torch.rand(2, 4, 4, generator=generator)
    fn, scale, base = torch.randn(24, 1024, generator=generator) / 32, torch.rand(3), torch.zeros(24)
    expected = torch.stack([
        post[t].double()[:, None] * f[t].double() + comb[t].double().T @ streams[t].double() for t in range(2)
    ])  # fmt: skip
    new = mhc.mhc.post(unused)(f, streams, post, comb)  # SGLang gives post without the engine's last dimension
    torch.testing.assert_close(new.double(), expected, atol=3e-2, rtol=2e-2)
    mix = (fn, scale, base, 1e-6, 1e-6, 1e-6, 2.0, 20)
    fused, next_post, next_comb, layer_input = mhc.post_pre(unused)(f, streams, post.unsqueeze(-1), comb, *mix)
    torch.testing.assert_close(fused.double(), expected, atol=3e-2, rtol=2e-2)
    alone = mhc.pre(unused)(fused, *mix)
    for found, wanted in zip((next_post, next_comb, layer_input), alone, strict=True):
        torch.testing.assert_close(found.float(), wanted.float(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("splits", [None, 2])
def test_the_prenorm_gemm_with_and_without_splits(splits: int | None) -> None:
    generator = seeded(11)
    x = torch.randn(3, 1024, generator=generator).to(torch.bfloat16)
    fn = torch.randn(24, 1024, generator=generator)
    shape = () if splits is None else (splits,)
    out, squares = torch.empty(*shape, 3, 24), torch.empty(*shape, 3)
    assert mhc.prenorm_gemm(unused)(x, fn, out, squares, num_splits=splits) is None
    total, norm = (out, squares) if splits is None else (out.sum(0), squares.sum(0))
    torch.testing.assert_close(total.double(), x.double() @ fn.double().T, atol=5e-2, rtol=1e-3)
    torch.testing.assert_close(norm.double(), x.double().square().sum(1), atol=1e-2, rtol=1e-3)


def test_layout_constants_are_those_of_sglangs_pages() -> None:
    assert (
        layouts.FP8_DS_MLA.slot_bytes == 584
        and layouts.FP8_DS_MLA.block_stride(256) == math.ceil(256 * 584 / 576) * 576
    )
