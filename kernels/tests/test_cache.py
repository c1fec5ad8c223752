"""Cache writers and readers: the reference against plain loops in FP64, the kernels in Triton's interpreter."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from ds4_kernels.cases import cache as cases
from ds4_kernels.cases.base import CheckCase, Inputs
from ds4_kernels.layouts import FP8_DS_MLA, INDEXER_FP8
from ds4_kernels.reference import cache
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

SMALL = [case for case in cases.check_cases() if "large" not in case.label]
CPU = torch.device("cpu")

E4M3 = [
    (-1 if code & 0x80 else 1)
    * (math.ldexp(8 + (code & 7), (code >> 3 & 15) - 10) if code & 0x78 else (code & 7) / 512)
    for code in range(256)
]


def nearest_e4m3(x: float) -> int:
    """The code of the nearest of the 254 finite numbers, ties to the even code."""
    magnitude = min(abs(x), 448.0)
    best = min(range(0x7F), key=lambda code: (abs(E4M3[code] - magnitude), code & 1))
    return best | (0x80 if math.copysign(1, x) < 0 else 0)


def group_exponent(values: list[float]) -> int:
    """Exponent of the smallest power of two that brings the largest value to 448 or below."""
    amax = max(1e-4, *(abs(v) for v in values))
    exponent = -200
    while amax / 2.0**exponent > 448:
        exponent += 1
    return exponent


def build(case: CheckCase, seed: int = 5) -> Inputs:
    return case.build(torch.Generator().manual_seed(seed), CPU)


@pytest.mark.parametrize("tokens, block_size, dtype", [(4, 2, torch.bfloat16), (3, 64, torch.float32)])
def test_inserted_bytes_are_those_of_a_plain_loop(tokens: int, block_size: int, dtype: torch.dtype) -> None:
    inputs = cases.insert_build(FP8_DS_MLA, 512, tokens, block_size, dtype)(torch.Generator().manual_seed(1), CPU)
    raw = [bytearray(block.tolist()) for block in inputs["cache"]]
    for token, slot in enumerate(inputs["slot_mapping"].tolist()):
        if slot < 0:
            continue
        block, offset = raw[slot // block_size], slot % block_size
        key = inputs["k"][token].float().tolist()
        for group in range(7):
            values = key[64 * group : 64 * group + 64]
            exponent = group_exponent(values)
            block[block_size * 576 + offset * 8 + group] = exponent + 127
            for column, value in enumerate(values):
                block[offset * 576 + 64 * group + column] = nearest_e4m3(value / 2.0**exponent)
        block[block_size * 576 + offset * 8 + 7] = 0
        rope = inputs["k"][token, 448:].to(torch.bfloat16).view(torch.int16).tolist()
        block[offset * 576 + 448 : offset * 576 + 576] = struct.pack("<64h", *rope)
    cache.cache_insert(**inputs)
    assert [list(block) for block in raw] == inputs["cache"].tolist()


def test_indexer_bytes_are_those_of_a_plain_loop() -> None:
    inputs = cases.insert_build(INDEXER_FP8, 128, 5, 64, torch.bfloat16)(torch.Generator().manual_seed(2), CPU)
    raw = [bytearray(block.tolist()) for block in inputs["cache"]]
    for token, slot in enumerate(inputs["slot_mapping"].tolist()):
        if slot < 0:
            continue
        block, offset = raw[slot // 64], slot % 64
        key = inputs["k"][token].float().tolist()
        exponent = group_exponent(key)
        block[offset * 128 : offset * 128 + 128] = bytes(nearest_e4m3(value / 2.0**exponent) for value in key)
        at = 64 * 128 + 4 * offset
        block[at : at + 4] = struct.pack("<f", 2.0**exponent)
    cache.indexer_insert(**inputs)
    assert [list(block) for block in raw] == inputs["cache"].tolist()


def dequantised(store: Tensor, block: int, offset: int, block_size: int) -> Tensor:
    """One ``fp8_ds_mla`` slot as FP64 ``[512]``, byte by byte."""
    raw = bytes(store[block].tolist())
    out = torch.empty(512, dtype=torch.float64)
    for column in range(448):
        scale = 2.0 ** (raw[block_size * 576 + offset * 8 + column // 64] - 127)
        out[column] = E4M3[raw[offset * 576 + column]] * scale
    rope = bytearray(raw[offset * 576 + 448 : offset * 576 + 576])
    out[448:] = torch.frombuffer(rope, dtype=torch.bfloat16).double()
    return out


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
    st.sampled_from([2, 4]),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_gathered_rows_are_the_last_positions_and_nothing_else_changes(
    pairs: list[tuple[int, int]], block_size: int, offset: int, whole: bool
) -> None:
    lens = [length for length, _ in pairs]
    gather = None if whole else [min(wanted, length) for length, wanted in pairs]
    inputs = cases.gather_build(lens, gather, block_size, offset)(torch.Generator().manual_seed(3), CPU)
    expected = inputs["out"].double()
    for request, length in enumerate(lens):
        count = length if gather is None else gather[request]
        for i in range(count):
            position = length - count + i
            block = int(inputs["block_table"][request, position // block_size])
            row = dequantised(inputs["cache"], block, position % block_size, block_size)
            expected[request, offset + i] = row
    cache.cache_gather(**inputs)
    assert torch.equal(inputs["out"].double(), expected)


def test_a_gather_never_writes_past_the_workspace_and_skips_missing_blocks() -> None:
    inputs = cases.gather_build([9, 6], None, 2, 1)(torch.Generator().manual_seed(4), CPU)
    complete = {**inputs, "out": inputs["out"].clone()}
    cache.cache_gather(**complete)
    wider = torch.full((2, 8, 512), 7.0, dtype=torch.bfloat16)
    inputs["out"] = wider[:, :5]  # rows 0 .. 4: four of the nine positions fit
    inputs["block_table"][1, 1] = -1  # positions 2 and 3
    cache.cache_gather(**inputs)
    assert torch.equal(wider[0, 1:5], complete["out"][0, 1:5])
    assert torch.equal(wider[1, 1:3], complete["out"][1, 1:3])
    assert bool((wider[1, 3:] == 7).all())
    assert bool((wider[0, 5:] == 7).all())


@pytest.mark.parametrize("lens, whole", [([3, 0, 9], True), ([2, 5], False), ([0, 0, 4, 0], True)])
def test_indexer_rows_go_where_the_starts_say(lens: list[int], whole: bool) -> None:
    inputs = cases.indexer_gather_build(lens, 2, whole=whole)(torch.Generator().manual_seed(6), CPU)
    codes, scales = inputs["k_out"].view(torch.uint8).clone(), inputs["scale_out"].clone()
    for request, length in enumerate(lens):
        for entry in range(length):
            row = int(inputs["starts"][request]) + entry
            raw = bytes(inputs["cache"][int(inputs["block_table"][request, entry // 2])].tolist())
            codes[row] = torch.tensor(list(raw[entry % 2 * 128 : entry % 2 * 128 + 128]), dtype=torch.uint8)
            at = 2 * 128 + entry % 2 * 4
            scales[row] = struct.unpack("<f", raw[at : at + 4])[0]
    cache.indexer_gather(**inputs)
    assert torch.equal(inputs["k_out"].view(torch.uint8), codes)
    assert torch.equal(inputs["scale_out"], scales)


def test_what_is_inserted_is_gathered() -> None:
    store = FP8_DS_MLA.allocate(4, 4)
    keys = torch.randn(10, 512, generator=torch.Generator().manual_seed(7)).to(torch.bfloat16)
    table = torch.tensor([[3, 0, 2]], dtype=torch.int32)
    slots = torch.tensor([12, 13, 14, 15, 0, 1, 2, 3, 8, 9])
    cache.cache_insert(keys, store, slots, 4)
    out = torch.zeros(1, 10, 512, dtype=torch.bfloat16)
    cache.cache_gather(store, 4, torch.tensor([10]), None, table, 0, out)
    assert torch.equal(out[0, :, 448:], keys[:, 448:])
    assert bool(((out[0] - keys).abs() <= keys.abs() / 16 + 0.02).all())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": torch.zeros(7, 511, dtype=torch.bfloat16)}, r"rows \[T, 512\]"),
        ({"k": torch.zeros(7, 512, dtype=torch.float16)}, "bfloat16 or float32"),
        ({"slot_mapping": torch.zeros(3, dtype=torch.int32)}, "int64"),
        ({"slot_mapping": torch.zeros(8, dtype=torch.int64)}, "N <= 7"),
        ({"cache": torch.zeros(4, 583 * 2, dtype=torch.uint8)}, "1168"),
        ({"cache": torch.zeros(4, 1728, dtype=torch.int8)}, "uint8"),
    ],
)
def test_wrong_inserts_are_refused(change: Inputs, message: str) -> None:
    inputs = {**build(SMALL[2]), **change}
    with pytest.raises(ValueError, match=message):
        cache.cache_insert(**inputs)


def test_wrong_gathers_are_refused() -> None:
    inputs = cases.gather_build([3], None, 2, 0)(torch.Generator().manual_seed(8), CPU)
    for change in ({"offset": 99}, {"out": inputs["out"].float()}, {"seq_lens": torch.zeros(2, dtype=torch.int32)}):
        with pytest.raises(ValueError):
            cache.cache_gather(**{**inputs, **change})
    inputs = cases.indexer_gather_build([3], 2, whole=True)(torch.Generator().manual_seed(8), CPU)
    for change in ({"scale_out": torch.zeros(9)}, {"k_out": torch.zeros(3, 128)}, {"starts": torch.zeros(5)}):
        with pytest.raises(ValueError):
            cache.indexer_gather(**{**inputs, **change})


@pytest.mark.triton
@pytest.mark.interpreted
def test_the_kernel_gather_never_writes_past_the_workspace() -> None:
    kernels = pytest.importorskip("ds4_kernels.triton.cache")
    for module in (cache, kernels):
        inputs = cases.gather_build([9, 6], None, 2, 1)(torch.Generator().manual_seed(4), CPU)
        wider = torch.full((2, 8, 512), 7.0, dtype=torch.bfloat16)
        inputs["out"] = wider[:, :5]
        inputs["block_table"][1, 1] = -1
        module.cache_gather(**inputs)
        assert bool((wider[0, 5:] == 7).all())
        assert bool((wider[1, 3:] == 7).all())
        assert bool((wider[0, 1:5, :448].abs().amax(-1) > 0).all())


@pytest.mark.triton
@pytest.mark.interpreted
def test_scales_turn_at_448_times_a_power_of_two() -> None:
    from ds4_kernels.triton import cache as kernels

    edge = 448.0 * torch.exp2(torch.arange(-20, 20, dtype=torch.float32))
    others = torch.tensor([0.0, 1e-5, 1e30, 3e38])
    amax = torch.cat((edge, edge.nextafter(edge * 2), edge.nextafter(edge * 0), others))
    keys = torch.zeros(len(amax), 512)
    keys[:, 64] = amax
    keys[:, 447] = -amax / 3
    slots = torch.arange(len(amax))
    written, expected = (FP8_DS_MLA.allocate(3, 64, "cpu").zero_() for _ in range(2))
    kernels.cache_insert(keys, written, slots, 64)
    cache.cache_insert(keys, expected, slots, 64)
    assert torch.equal(written, expected)
