"""Query side: the reference against plain loops in FP64, the kernels in Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.cases import query as cases
from ds4_kernels.cases.base import Inputs
from ds4_kernels.layouts import FP8_DS_MLA
from ds4_kernels.reference import query
from torch import Tensor

CPU = torch.device("cpu")


def inputs_of(build, seed: int = 1) -> Inputs:  # type: ignore[no-untyped-def]
    return build(torch.Generator().manual_seed(seed), CPU)


def roped(x: list[float], table: list[float]) -> list[float]:
    """The last 64 values rotated in pairs (2i, 2i + 1) by angle i of the position's row."""
    out = list(x)
    for i in range(32):
        a, b = len(x) - 64 + 2 * i, len(x) - 63 + 2 * i
        out[a] = x[a] * table[i] - x[b] * table[32 + i]
        out[b] = x[b] * table[i] + x[a] * table[32 + i]
    return out


def bf16_steps(actual: Tensor, expected: Tensor) -> Tensor:
    """Distance in units of BF16's last place at ``expected`` (of 2^-14 at the smallest)."""
    step = torch.exp2(torch.floor(torch.log2(expected.abs().clamp_min(2.0**-14))) - 7)
    return (actual.double() - expected).abs() / step


@pytest.mark.parametrize("heads, out_heads", [(4, 4), (2, 8)])
def test_queries_are_normed_roped_and_padded(heads: int, out_heads: int) -> None:
    inputs = inputs_of(cases.query_build(2, heads, out_heads))
    expected = torch.zeros(2, out_heads, 512, dtype=torch.float64)
    for token in range(2):
        table = inputs["cos_sin"][inputs["positions"][token]].tolist()
        for head in range(heads):
            x = inputs["q"][token, head].tolist()
            factor = 1 / math.sqrt(sum(v * v for v in x) / 512 + 1e-6)
            expected[token, head] = torch.tensor(roped([v * factor for v in x], table), dtype=torch.float64)
    query.query_norm_rope(**inputs)
    assert float(bf16_steps(inputs["out"], expected).max()) <= 0.51
    assert not inputs["out"][:, heads:].any()


def test_the_norm_may_write_over_its_input() -> None:
    inputs = inputs_of(cases.query_build(3, 4, 4))
    q = inputs["q"].clone()
    query.query_norm_rope(**inputs)
    query.query_norm_rope(q, inputs["positions"], inputs["cos_sin"], 1e-6, q)
    assert torch.equal(q, inputs["out"])


def test_the_inverse_rms_does_not_depend_on_the_order_of_its_row() -> None:
    x = torch.randn(200, 512, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16).float()
    x *= torch.exp2(torch.randint(-10, 10, (200, 512), generator=torch.Generator().manual_seed(3)).float())
    order = torch.randperm(512, generator=torch.Generator().manual_seed(4))
    expected = torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-6)
    assert torch.equal(query.inverse_rms(x, 1e-6), query.inverse_rms(x[:, order], 1e-6))
    assert torch.allclose(query.inverse_rms(x, 1e-6).double(), expected, rtol=2e-7, atol=0)


def test_inserted_keys_are_roped_first_and_skipped_tokens_are_not_read() -> None:
    inputs = inputs_of(cases.kv_build(9, 4))
    before = inputs["cache"].clone()
    query.kv_rope_insert(**inputs)
    slots = inputs["slot_mapping"].tolist()
    assert min(slots) < 0
    for token, slot in enumerate(slots):
        if slot < 0:
            continue
        table = inputs["cos_sin"][inputs["positions"][token]].tolist()
        key = torch.tensor(roped(inputs["kv"][token].tolist(), table), dtype=torch.float64)
        data, scales = FP8_DS_MLA.read(inputs["cache"], 4, torch.tensor([slot]))
        values = data[0, :448].view(torch.float8_e4m3fn).double().view(7, 64)
        values *= torch.exp2(scales[0, :7].double() - 127).unsqueeze(-1)
        assert bool(((values.flatten() - key[:448]).abs() <= key[:448].abs() / 16 + 2.0**-9).all())
        assert float(bf16_steps(data[0, 448:].view(torch.bfloat16), key[448:]).max()) <= 0.51
        assert int(scales[0, 7]) == 0
    written = torch.zeros(before.numel() // 576, dtype=torch.bool)
    written[[slot // 4 * (before.shape[1] // 576) + slot % 4 for slot in slots if slot >= 0]] = True
    data_rows = torch.zeros(before.shape[1] // 576, dtype=torch.bool)
    data_rows[:4] = True
    untouched = ~written & data_rows.repeat(before.shape[0])
    assert torch.equal(inputs["cache"].view(-1, 576)[untouched], before.view(-1, 576)[untouched])


@pytest.mark.parametrize("heads", [64, 6])
def test_indexer_queries_carry_their_scale_in_the_weights(heads: int) -> None:
    inputs = inputs_of(cases.indexer_query_build(2, heads))
    q, weights = query.indexer_query(**inputs)
    for token in range(2):
        table = inputs["cos_sin"][inputs["positions"][token]].tolist()
        for head in range(heads):
            x = torch.tensor(roped(inputs["index_q"][token, head].tolist(), table), dtype=torch.float64)
            amax = max(1e-4, float(x.abs().max()))
            scale = 2.0 ** math.ceil(math.log2(amax / 448))
            factor = scale * 128**-0.5 * heads**-0.5
            assert float(weights[token, head]) == pytest.approx(
                float(inputs["weights"][token, head]) * factor, rel=3e-7
            )
            back = q[token, head].double() * scale
            assert bool(((back - x).abs() <= x.abs() * (1 / 16 + 2.0**-8) + scale * 2.0**-10).all())


def test_indexer_queries_are_rounded_to_bf16_before_their_maximum() -> None:
    """448 * (1 + 2^-10) rounds down to 448 in BF16, so the scale is 1; without the rounding it would be 2."""
    index_q = torch.zeros(1, 1, 128, dtype=torch.bfloat16)
    index_q[0, 0, 126] = 448.0
    cos_sin = torch.zeros(1, 64)
    cos_sin[0, 31], cos_sin[0, 63] = 1 + 2.0**-10, 0.0
    q, weights = query.indexer_query(index_q, torch.ones(1, 1), torch.zeros(1, dtype=torch.int64), cos_sin)
    assert float(q[0, 0, 126]) == 448.0
    assert float(weights[0, 0]) == pytest.approx(128**-0.5)


def test_wrong_arguments_are_refused() -> None:
    inputs = inputs_of(cases.query_build(2, 4, 4))
    for change in (
        {"out": inputs["out"][:, :3]}, {"q": inputs["q"].float()}, {"positions": torch.zeros(3)},
        {"cos_sin": inputs["cos_sin"][:, :32]},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            query.query_norm_rope(**{**inputs, **change})
    inputs = inputs_of(cases.indexer_query_build(2, 4))
    for change in ({"weights": inputs["weights"].double()}, {"index_q": inputs["index_q"][..., :64]}):
        with pytest.raises(ValueError):
            query.indexer_query(**{**inputs, **change})
    inputs = inputs_of(cases.kv_build(2, 64))
    with pytest.raises(ValueError):
        query.kv_rope_insert(**{**inputs, "kv": inputs["kv"].float()})
