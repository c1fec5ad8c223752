"""The compressor's cache ops: the reference against plain loops in FP64, the kernels in Triton's interpreter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from ds4_kernels import layouts
from ds4_kernels.cases import compressor_store as cases
from ds4_kernels.cases.base import Inputs
from ds4_kernels.layouts import FP8_DS_MLA, INDEXER_FP8
from ds4_kernels.reference import compressor, compressor_store
from ds4_kernels.reference.compressor_store import Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

CPU = torch.device("cpu")


def inputs_of(build, seed: int = 1) -> Inputs:  # type: ignore[no-untyped-def]
    return build(torch.Generator().manual_seed(seed), CPU)


def entry_of(inputs: Inputs, token: int, dim: int) -> list[float]:
    """The normed and roped entry that ends at a token, without any rounding: section 1.6 of kernels.md in loops."""
    ratio, state = inputs["ratio"], inputs["state"]
    position, block_size = int(inputs["positions"][token]), inputs["state"].shape[1]
    table = inputs["state_block_table"][int(inputs["token_to_req"][token])]
    coff = 2 if ratio == 4 else 1
    rows = []  # (kv, score) of each pooled item
    for item in range(coff * ratio):
        at = position - coff * ratio + 1 + item
        if at < 0:
            continue
        row = state[int(table[at // block_size]), at % block_size].double()
        first = dim if coff == 2 and item >= ratio else 0
        rows.append((row[first : first + dim], row[coff * dim + first : coff * dim + first + dim]))
    pooled = []
    for d in range(dim):
        weights = [math.exp(float(score[d])) for _, score in rows]
        pooled.append(sum(w * float(kv[d]) for w, (kv, _) in zip(weights, rows, strict=True)) / sum(weights))
    factor = 1 / math.sqrt(sum(v * v for v in pooled) / dim + inputs["eps"])
    x = [v * factor * float(w) for v, w in zip(pooled, inputs["norm_weight"], strict=True)]
    angle = inputs["cos_sin"][position // ratio * ratio].tolist()
    out = list(x)
    for i in range(32):
        a, b = dim - 64 + 2 * i, dim - 63 + 2 * i
        out[a] = x[a] * angle[i] - x[b] * angle[32 + i]
        out[b] = x[b] * angle[i] + x[a] * angle[32 + i]
    return out


def stored(inputs: Inputs, slot: int, kind: Kind) -> Tensor:
    layout = FP8_DS_MLA if kind == "mla" else INDEXER_FP8
    data, scales = layout.read(inputs["cache"], inputs["block_size"], torch.tensor([slot]))
    if kind == "mla":
        return layouts.unpack_fp8_ds_mla(data, scales, torch.float64)[0]
    values, scale = layouts.unpack_indexer_fp8(data, scales, torch.float64)
    return values[0] * scale


@pytest.mark.parametrize(
    "kind, ratio, requests",
    [
        ("mla", 4, [(0, 6), (9, 3)]),
        ("indexer", 4, [(0, 4), (2, 6)]),
        ("mla", 128, [(127, 1), (200, 57)]),
        ("indexer", 128, [(250, 6)]),
    ],
)
def test_entries_are_pooled_normed_roped_and_quantised(
    kind: Kind, ratio: int, requests: Sequence[tuple[int, int]]
) -> None:
    inputs = inputs_of(cases.compress_build(kind, ratio, list(requests), skipped=False))
    before = inputs["cache"].clone()
    compressor_store.compress_store(**inputs)
    ended = [t for t, p in enumerate(inputs["positions"].tolist()) if (p + 1) % ratio == 0]
    assert ended
    for token in ended:
        dim = 512 if kind == "mla" else 128
        expected = torch.tensor(entry_of(inputs, token, dim), dtype=torch.float64)
        actual = stored(inputs, int(inputs["slot_mapping"][token]), kind)
        largest = float(expected.abs().max())
        # BF16 roundings of the pooled and the normed vector, then half an e4m3 step (1/16) or a subnormal one.
        assert bool(((actual - expected).abs() <= expected.abs() * (1 / 16 + 0.01) + largest * 2e-3).all())
        if kind == "mla":
            assert float((actual[448:] - expected[448:]).abs().max()) <= largest * 0.012
    slot_bytes = FP8_DS_MLA.slot_bytes if kind == "mla" else INDEXER_FP8.slot_bytes
    assert int((before != inputs["cache"]).sum()) <= len(ended) * slot_bytes


def test_tokens_inside_a_window_and_slots_of_minus_one_store_nothing() -> None:
    inputs = inputs_of(cases.compress_build("mla", 4, [(0, 8)], skipped=False))
    inputs["slot_mapping"] = torch.arange(8)
    inputs["slot_mapping"][7] = -1
    before = inputs["cache"].clone()
    compressor_store.compress_store(**inputs)
    assert torch.equal(
        *(FP8_DS_MLA.read(c, 64, torch.tensor([0, 1, 2, 4, 5, 6, 7]))[0] for c in (before, inputs["cache"]))
    )
    assert not torch.equal(*(FP8_DS_MLA.read(c, 64, torch.tensor([3]))[0] for c in (before, inputs["cache"])))


def test_a_prefill_in_chunks_stores_what_one_prefill_stores() -> None:
    generator = torch.Generator().manual_seed(3)
    kv, score = torch.randn(2, 21, 1024, generator=generator)
    ape = torch.randn(4, 1024, generator=generator)
    table = torch.tensor([[4, 1, 3, 0, 5, 2]], dtype=torch.int32)
    caches = []
    for cuts in ([0, 21], [0, 1, 6, 7, 8, 20, 21], list(range(22))):
        state, store = torch.full((6, 4, 2048), torch.nan), FP8_DS_MLA.allocate(1, 64)
        for begin, end in pairwise(cuts):
            positions = torch.arange(begin, end)
            slots = table[0].long()[positions // 4] * 4 + positions % 4
            compressor_store.state_save(kv[begin:end], score[begin:end], ape, positions, slots, state)
            entry = torch.where((positions + 1) % 4 == 0, positions // 4, -1)
            compressor_store.compress_store(
                state, table, torch.zeros_like(positions), positions, entry, torch.ones(512), 1e-6,
                cases.rope_table(CPU), 4, store, 64, "mla",
            )  # fmt: skip
        caches.append(store)
    assert torch.equal(caches[0], caches[1])
    assert torch.equal(caches[0], caches[2])
    assert bool(caches[0][0, : 5 * 576].any())


@pytest.mark.parametrize("ratio, width", [(4, 256), (128, 512)])
def test_the_state_gets_kv_and_the_biased_score(ratio: int, width: int) -> None:
    inputs = inputs_of(cases.state_build(6, width, ratio))
    expected = inputs["state"].clone()
    block_size = expected.shape[1]
    for token, slot in enumerate(inputs["slots"].tolist()):
        if slot >= 0:
            row = expected[slot // block_size, slot % block_size]
            row[:width] = inputs["kv"][token]
            row[width:] = inputs["score"][token] + inputs["ape"][int(inputs["positions"][token]) % ratio]
    compressor_store.state_save(**inputs)
    assert torch.equal(inputs["state"], expected)
    assert not bool(inputs["state"].isnan().any())


@given(st.floats(-87, 0, width=32))
@settings(max_examples=300, deadline=None)
def test_exp_is_within_two_units_of_the_last_place(x: float) -> None:
    value = float(compressor_store.exp_fp32(torch.tensor([x]))[0])
    expected = math.exp(x)
    assert abs(value - expected) <= 2 * 2.0 ** (math.floor(math.log2(expected)) - 23)


def test_exp_of_nothing_is_nothing_and_of_zero_is_one() -> None:
    x = torch.tensor([-torch.inf, -1e30, -88.0, 0.0])
    assert compressor_store.exp_fp32(x).tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("ratio", [4, 128])
def test_the_fixed_order_pools_like_the_plain_formula(ratio: int) -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (5, compressor.overlap(ratio) * ratio, compressor.overlap(ratio) * 64)
    kv, score = torch.randn(shape, generator=generator), 5 * torch.randn(shape, generator=generator)
    score[0, : ratio // 2] = -torch.inf
    expected = compressor.pool(kv.double(), score.double(), ratio)
    actual = compressor_store.pool_fixed_order(kv, score, ratio)
    assert float((actual - expected).abs().max()) < 2e-6


def test_wrong_arguments_are_refused() -> None:
    inputs = inputs_of(cases.compress_build("mla", 4, [(0, 4)]))
    for change in (
        {"kind": "fp4"}, {"ratio": 8}, {"kind": "indexer"}, {"ratio": 128}, {"norm_weight": torch.ones(128)},
        {"slot_mapping": torch.zeros(3, dtype=torch.int64)}, {"state": inputs["state"].double()},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            compressor_store.compress_store(**{**inputs, **change})
    inputs = inputs_of(cases.state_build(3, 256, 4))
    for change in ({"kv": inputs["kv"].double()}, {"ape": torch.zeros(4, 128)}, {"state": torch.zeros(9, 4, 511)}):
        with pytest.raises(ValueError):
            compressor_store.state_save(**{**inputs, **change})
