"""Experts with MXFP4 weights: the contract against plain loops in FP64, the kernels (interpreter) against the contract."""

from __future__ import annotations

import math

import pytest
import torch
from ds4_kernels.cases import mxfp4_moe as cases
from ds4_kernels.compare import compare
from ds4_kernels.reference import mxfp4_moe as reference
from ds4_kernels.reference import quant

pytest.importorskip("triton")

SLOW_CONTRACTS = [("w4a8", "one"), ("w4a16", "random"), ("w4a16", "holes"), ("w4a16", "none")]
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def weight(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """FP64 of packed E2M1 ``[N, K / 2]``, element by element from the definition."""
    rows, columns = packed.shape[0], 2 * packed.shape[1]
    out = torch.empty(rows, columns, dtype=torch.float64)
    bytes_, exponents = packed.tolist(), scale.tolist()
    for n in range(rows):
        for k in range(columns):
            code = bytes_[n][k // 2] >> (4 * (k % 2)) & 0xF
            out[n, k] = (-1.0 if code & 8 else 1.0) * E2M1[code & 7] * 2.0 ** (exponents[n][k // 32] - 127)
    return out


def fp8(values: torch.Tensor) -> torch.Tensor:
    """FP64 ``[n]`` as scaled FP8 with one power of two per 128 elements sees it."""
    parts = []
    for group in values.split(128):
        amax = max(group.abs().max().item(), 1e-4)
        scale = 2.0 ** math.ceil(math.log2(amax / 448.0))
        parts.append((group / scale).float().to(torch.float8_e4m3fn).double() * scale)
    return torch.cat(parts)


def brute_force(x, topk_ids, topk_weights, w13, s13, w2, s2, limit, mode):  # type: ignore[no-untyped-def]
    E, I = w13.shape[0], w2.shape[2] * 2  # noqa: E741
    full13 = [weight(w13[e], s13[e]) for e in range(E)]
    full2 = [weight(w2[e], s2[e]) for e in range(E)]
    out = torch.zeros(x.shape, dtype=torch.float64)
    for t, ids in enumerate(topk_ids.tolist()):
        for slot, e in enumerate(ids):
            if not 0 <= e < E:
                continue
            inputs = fp8(x[t].double()) if mode == "w4a8" else x[t].double()
            gate_up = full13[e] @ inputs
            gate, up = gate_up[:I].clamp(max=limit), gate_up[I:].clamp(-limit, limit)
            hidden = gate * torch.sigmoid(gate) * up * topk_weights[t, slot].double()
            hidden = fp8(hidden) if mode == "w4a8" else hidden.to(torch.bfloat16).double()
            out[t] += full2[e] @ hidden
    return out


def inputs_of(tokens: int, dim: int, inter: int, experts: int, topk: int, routing: str, mode: str) -> dict[str, object]:
    build = cases.moe_build(tokens, dim, inter, experts, topk, routing, mode, None)
    return build(torch.Generator().manual_seed(11), torch.device("cpu"))


@pytest.mark.parametrize(
    ("mode", "routing"),
    [
        ("w4a8", "random"), ("w4a8", "holes"), ("w4a8", "none"), ("w4a16", "one"),
        *(pytest.param(mode, routing, marks=pytest.mark.slow) for mode, routing in SLOW_CONTRACTS),
    ],
)  # fmt: skip
def test_contract_equals_a_loop_over_tokens_slots_and_elements(mode: str, routing: str) -> None:
    inputs = inputs_of(5, 256, 128, 3, 2, routing, mode)
    verdict = compare(reference.mxfp4_moe(**inputs), brute_force(**inputs).to(torch.bfloat16), cases._CLOSE[0])
    assert verdict.ok, (verdict.error, verdict.note)


def test_routing_weight_multiplies_before_the_second_quantisation() -> None:
    """A weight that is not a power of two changes which FP8 values the second projection sees."""
    inputs = inputs_of(1, 128, 128, 2, 1, "random", "w4a8")
    inputs["topk_weights"] = torch.full((1, 1), 0.7)
    before = brute_force(**inputs)
    after = 0.7 * brute_force(**inputs | {"topk_weights": torch.ones(1, 1)})
    actual = reference.mxfp4_moe(**inputs).double()
    assert (actual - before).abs().max() < 2.0**-8 * before.abs().max() < (actual - after).abs().max()


def test_the_limit_is_reached_and_matters() -> None:
    inputs = inputs_of(2, 256, 128, 2, 2, "random", "w4a16")
    inputs["x"] = inputs["x"] * 30
    verdict = compare(reference.mxfp4_moe(**inputs), brute_force(**inputs).to(torch.bfloat16), cases._CLOSE[0])
    assert verdict.ok, (verdict.error, verdict.note)
    assert not torch.equal(reference.mxfp4_moe(**inputs), reference.mxfp4_moe(**inputs | {"limit": 1e9}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "w8a8"}, "mode must be"),
        ({"x": torch.zeros(2, 256)}, "x must be torch.bfloat16"),
        ({"topk_ids": torch.zeros(2, 2, dtype=torch.int64)}, "topk_ids must be torch.int32"),
        ({"s13": torch.zeros(3, 256, 4, dtype=torch.uint8)}, "s13 must be"),
        ({"w2": torch.zeros(3, 256, 32, dtype=torch.uint8)}, "w2 must be"),
        ({"w13": torch.zeros(3, 200, 128, dtype=torch.uint8)}, "multiples of 128"),
        ({"out": torch.zeros(2, 128, dtype=torch.bfloat16)}, "out must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    inputs = inputs_of(2, 256, 128, 3, 2, "random", "w4a8")
    with pytest.raises(ValueError, match=message):
        reference.mxfp4_moe(**inputs | change)


def test_moving_e2m1_bits_gives_e4m3_of_the_value_times_two_to_the_minus_six() -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    moved = (((codes & 8) << 4) | ((codes & 7) << 2)).view(torch.float8_e4m3fn).double() * 64
    assert moved.tolist() == [*E2M1, *(-value for value in E2M1)]


@pytest.mark.parametrize("words", [0x0123_4567, 0x89AB_CDEF, 0xF0F0_0F0F, 0x7777_8888, 0x1248_8421])
def test_the_bit_moves_of_the_four_nibbles_put_sign_and_value_where_bf16_wants_them(words: int) -> None:
    """What the inline PTX of ``mxfp4_values`` does to two 16-bit words, in Python's integers."""
    keep = 0x81C0_81C0
    moved = [
        ((words & 0x000F_000F) * 0x1040) & keep,
        ((words & 0x00F0_00F0) * 0x104) & keep,
        (((words >> 2) & 0x03C0_03C0) * 0x41) & keep,
        ((words >> 6) & 0x01C0_01C0) | (words & 0x8000_8000),
    ]
    for nibble, pair in enumerate(moved):
        assert pair < 2**32
        for half in (0, 16):
            code = words >> (half + 4 * nibble) & 0xF
            bits = torch.tensor([pair >> half & 0xFFFF], dtype=torch.int32).to(torch.int16)
            value = bits.view(torch.bfloat16).double().item() * 2.0**126
            assert value == (-1.0 if code & 8 else 1.0) * E2M1[code & 7]


@pytest.mark.triton
@pytest.mark.interpreted
def test_every_code_and_a_wide_range_of_scales_unpack_exactly() -> None:
    """Rows of one repeated code and identity-like x: each output is a single weight, which BF16 holds exactly."""
    from ds4_kernels.triton import mxfp4_moe

    D, I, E = 128, 128, 2  # noqa: E741
    generator = torch.Generator().manual_seed(5)
    x = torch.ones(2, D, dtype=torch.bfloat16)
    w13 = torch.zeros(E, 2 * I, D // 2, dtype=torch.uint8)
    w13[:, :, 0] = 0x06  # gate = up = 4 * 2^-1 from k = 0 alone
    s13 = torch.full((E, 2 * I, D // 32), 126, dtype=torch.uint8)
    w2 = torch.zeros(E, D, I // 2, dtype=torch.uint8)
    column = torch.arange(D) % 64
    code = (torch.arange(D) % 16).to(torch.uint8)
    w2[:, torch.arange(D), column] = code << 4 | 0
    s2 = torch.randint(40, 150, (E, D, I // 32), generator=generator).to(torch.uint8)
    arguments = (x, torch.tensor([[0], [1]], dtype=torch.int32), torch.ones(2, 1), w13, s13, w2, s2, 10.0)
    assert torch.equal(mxfp4_moe.mxfp4_moe(*arguments), reference.mxfp4_moe(*arguments))


def decoded(inputs: dict[str, object], config: object) -> torch.Tensor:
    """The decode path with a configuration of its own; what it does not write stays NaN."""
    from ds4_kernels.triton import mxfp4_decode

    x, ids, routing, w13, s13, w2, s2 = (
        inputs[name] for name in ("x", "topk_ids", "topk_weights", "w13", "s13", "w2", "s2")
    )
    out = torch.full_like(x, float("nan"))  # type: ignore[call-overload]
    scales = s13.view(torch.int32), s2.view(torch.int32)  # type: ignore[attr-defined]
    words = w13.view(torch.int16), w2.view(torch.int16)  # type: ignore[attr-defined]
    fp8 = inputs["mode"] == "w4a8"
    mxfp4_decode.experts(x, ids, routing, words[0], scales[0], words[1], scales[1], 10.0, fp8, out, config)
    return out


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("mode", ["w4a8", pytest.param("w4a16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("merge", "fused", "tokens", "routing"),
    [
        (False, True, 2, "holes"),
        (False, False, 2, "holes"),
        (True, False, 2, "random"),
        pytest.param(True, False, 10, "one", marks=pytest.mark.slow),
        (False, True, 2, "none"),
        (True, False, 9, "none"),
    ],
)
@pytest.mark.parametrize("tile", [pytest.param((32, 1, True), marks=pytest.mark.slow), (32, 2, False), (16, 2, True)])
def test_every_way_to_decode_equals_the_contract(
    tile: tuple[int, int, bool], merge: bool, fused: bool, tokens: int, routing: str, mode: str
) -> None:
    """Four units of k for w13, in two parts of two; one unit for w2. Ten tokens of one expert are two blocks of pairs."""
    from ds4_kernels.triton.mxfp4_decode import Config, Tile

    inputs = inputs_of(tokens, 512, 128, 3, 1, routing, mode)
    config = Config(Tile(*tile), Tile(*tile), merge, fused)
    verdict = compare(decoded(inputs, config), reference.mxfp4_moe(**inputs), cases._CLOSE[0])
    assert verdict.ok, (verdict.error, verdict.note)


@pytest.mark.triton
@pytest.mark.interpreted
def test_a_token_may_name_an_expert_twice() -> None:
    from ds4_kernels.triton import mxfp4_moe

    inputs = inputs_of(1, 256, 128, 3, 2, "random", "w4a8")
    inputs["topk_ids"] = torch.tensor([[1, 1]], dtype=torch.int32)
    verdict = compare(mxfp4_moe.mxfp4_moe(**inputs), reference.mxfp4_moe(**inputs), cases._CLOSE[0])
    assert verdict.ok, (verdict.error, verdict.note)


@pytest.mark.triton
@pytest.mark.interpreted
@pytest.mark.parametrize("scan", [16, 64])
def test_the_plan_gives_every_pair_one_block_of_at_most_eight_of_its_expert(scan: int) -> None:
    from ds4_kernels.triton import mxfp4_decode

    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(-1, 5, (13, 3), generator=generator).to(torch.int32)  # 4 is no expert
    ids[:, 0] = 2
    pairs, x = ids.numel(), torch.zeros(13, 128, dtype=torch.bfloat16)
    plan = torch.full((pairs, 16), -7, dtype=torch.int32)
    mxfp4_decode._input_kernel[(13 + pairs,)](
        x, ids, torch.empty_like(x), plan, plan, 13, pairs, plan.numel(),
        D=128, EXPERTS=4, FP8=True, MERGE=True, BLOCK_GROUPS=1, SCAN=scan, ZERO_BLOCK=1024, PDL=False,
    )  # fmt: skip
    flat, seen = ids.flatten().tolist(), []
    for pair, (count, *_, members) in enumerate((row[0], row[8:]) for row in plan.tolist()):
        assert 0 <= count <= 8
        if count:
            assert members[0] == pair
            assert members[count:] == [pair] * (8 - count)  # whose activations a column without a pair reads
            assert all(flat[member] == flat[pair] for member in members)
            seen += members[:count]
    assert sorted(seen) == [pair for pair, expert in enumerate(flat) if 0 <= expert < 4]
    blocks = [row[0] for row, expert in zip(plan.tolist(), flat, strict=True) if expert == 2 and row[0]]
    assert blocks[:-1] == [8] * (len(blocks) - 1)


@pytest.mark.triton
@pytest.mark.interpreted
def test_activations_are_stored_so_that_a_lane_finds_its_own_32() -> None:
    """Position 32 t + 8 p + 2 i + h of a unit holds k = 32 t + 8 i + 4 h + p: lane, nibble, pair of words, word."""
    from ds4_kernels.triton import mxfp4_decode

    x = torch.arange(128, dtype=torch.float32).to(torch.bfloat16)[None]
    planes, counters = torch.empty_like(x), torch.ones(5, dtype=torch.int32)
    mxfp4_decode._input_kernel[(2,)](
        x, counters, planes, counters, counters, 1, 1, 5,
        D=128, EXPERTS=1, FP8=False, MERGE=False, BLOCK_GROUPS=1, SCAN=16, ZERO_BLOCK=1024, PDL=False,
    )  # fmt: skip
    expected = [32 * t + 8 * i + 4 * h + p for t in range(4) for p in range(4) for i in range(4) for h in range(2)]
    assert planes[0].tolist() == expected
    assert counters.tolist() == [0] * 5


@pytest.mark.triton
@pytest.mark.interpreted
def test_results_do_not_depend_on_the_set_of_kernels() -> None:
    """The first tokens of a batch that is grouped equal the same tokens decoded alone, up to the order of sums."""
    from ds4_kernels.triton import mxfp4_decode, mxfp4_moe

    many = inputs_of(mxfp4_decode.MAX_TOKENS + 2, 128, 128, 3, 2, "random", "w4a16")
    few = many | {name: many[name][:2] for name in ("x", "topk_ids", "topk_weights")}
    verdict = compare(mxfp4_moe.mxfp4_moe(**few), mxfp4_moe.mxfp4_moe(**many)[:2], cases._CLOSE[0])
    assert verdict.ok, (verdict.error, verdict.note)


@pytest.mark.triton
@pytest.mark.interpreted
def test_grouping_gives_every_pair_one_place_in_blocks_of_its_expert() -> None:
    from ds4_kernels.triton import mxfp4_grouped

    experts, block = 5, 16
    ids = torch.randint(-1, experts + 1, (80, 3), generator=torch.Generator().manual_seed(1)).to(torch.int32)
    ids[:40, 0] = 2
    weights = torch.rand(80, 3, generator=torch.Generator().manual_seed(2))
    order, sorted_weights, plan = mxfp4_grouped.group(ids, weights, experts, block)
    assert plan.shape[1] == mxfp4_grouped.most_blocks(240, experts, block)
    flat, seen = ids.flatten().tolist(), []
    for expert, place, size in plan.T.tolist():
        if expert < 0:
            assert size == 0
            continue
        assert 1 <= size <= block
        pairs = order[place : place + size].tolist()
        assert all(flat[pair] == expert for pair in pairs)
        assert torch.equal(sorted_weights[place : place + size], weights.flatten()[pairs])
        seen += pairs
    assert sorted(seen) == [pair for pair, expert in enumerate(flat) if 0 <= expert < experts]


@pytest.mark.parametrize("experts", [1, 4, 256])
@pytest.mark.parametrize("block", [16, 64])
def test_no_routing_needs_more_blocks_than_the_grid_has(experts: int, block: int) -> None:
    from ds4_kernels.triton.mxfp4_grouped import most_blocks

    generator = torch.Generator().manual_seed(9)
    for pairs in (1, 5, 100, 3072):
        limit = most_blocks(pairs, experts, block)
        for spread in (1, 2, experts):
            ids = torch.randint(0, min(spread, experts), (pairs,), generator=generator)
            counts = torch.bincount(ids, minlength=experts)
            assert int(((counts + block - 1) // block).sum()) <= limit


@pytest.mark.triton
@pytest.mark.interpreted
def test_native_is_refused_with_bf16_activations_and_strided_weights_always() -> None:
    from ds4_kernels.triton import mxfp4_moe

    inputs = inputs_of(1, 128, 128, 2, 1, "random", "w4a16")
    with pytest.raises(ValueError, match="native needs mode"):
        mxfp4_moe.mxfp4_moe(**inputs, native=True)
    wide = torch.zeros(2, 256, 128, dtype=torch.uint8)
    with pytest.raises(ValueError, match="w13 must be contiguous"):
        mxfp4_moe.mxfp4_moe(**inputs | {"w13": wide[:, :, ::2]})


def test_weights_of_the_quantiser_are_what_the_op_multiplies() -> None:
    """End to end from FP32 weights: the op equals a dense SwiGLU expert within the error of FP4."""
    generator = torch.Generator().manual_seed(4)
    dense13, dense2 = torch.randn(1, 256, 128, generator=generator), torch.randn(1, 128, 128, generator=generator)
    (w13, s13), (w2, s2) = quant.mxfp4_quantize(dense13), quant.mxfp4_quantize(dense2)
    x = torch.randn(3, 128, generator=generator).to(torch.bfloat16)
    ids, weights = torch.zeros(3, 1, dtype=torch.int32), torch.ones(3, 1)
    actual = reference.mxfp4_moe(x, ids, weights, w13, s13, w2, s2, 1e9, "w4a16").double()
    gate, up = (x.double() @ dense13[0].double().T).chunk(2, dim=1)
    expected = (torch.nn.functional.silu(gate) * up) @ dense2[0].double().T
    assert (actual - expected).norm() < 0.3 * expected.norm()
