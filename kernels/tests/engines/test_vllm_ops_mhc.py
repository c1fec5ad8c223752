"""Adapters of the hyper-connections against the formulas (kernels.md 1.4) in FP64, one token at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.vllm_ops import mhc
from torch import Tensor

pytestmark = pytest.mark.usefixtures("each_backend")

T, D, ROUNDS, EPS, RMS = 3, 128, 20, 1e-6, 1e-6
MIX: dict[str, Any] = {
    "rms_eps": RMS, "hc_pre_eps": EPS, "hc_sinkhorn_eps": EPS, "hc_post_mult_value": 2.0, "sinkhorn_repeat": ROUNDS,
}  # fmt: skip


def unused(*args: object, **kwargs: object) -> object:
    raise AssertionError("the engine's op must not run")


@pytest.fixture
def parts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {
        "streams": torch.randn(T, 4, D, generator=generator).bfloat16(),
        "f": torch.randn(T, D, generator=generator).bfloat16(),
        "fn": torch.randn(24, 4 * D, generator=generator) / 20,
        "scale": torch.tensor([0.7, 1.3, 0.9]),
        "base": torch.randn(24, generator=generator) / 4,
        "post": torch.rand(T, 4, generator=generator) * 2,
        "comb": torch.rand(T, 4, 4, generator=generator),
        "norm": torch.rand(D, generator=generator) + 0.5,
    }


def mixes(x: Tensor, fn: Tensor) -> Tensor:
    flat = x.double().flatten()
    return (fn.double() @ flat) * (flat.square().mean() + RMS) ** -0.5


def expected_pre(x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """(layer input ``[D]`` before its norm, post ``[4]``, comb ``[4, 4]``) of one token's streams."""
    m, scale, base = mixes(x, parts["fn"]), parts["scale"].double(), parts["base"].double()
    weight = torch.sigmoid(m[:4] * scale[0] + base[:4]) + EPS
    post = 2 * torch.sigmoid(m[4:8] * scale[1] + base[4:8])
    c = torch.softmax((m[8:] * scale[2] + base[8:]).view(4, 4), dim=1) + EPS
    c = c / (c.sum(0, keepdim=True) + EPS)
    for _ in range(ROUNDS - 1):
        c = c / (c.sum(1, keepdim=True) + EPS)
        c = c / (c.sum(0, keepdim=True) + EPS)
    return (weight[:, None] * x.double()).sum(0), post, c


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.bfloat16().double()
    return x * (x.square().mean() + eps) ** -0.5 * weight.double()


def expected_post(parts: dict[str, Tensor], t: int) -> Tensor:
    streams, comb = parts["streams"][t].double(), parts["comb"][t].double()
    rows = [
        parts["post"][t, k].double() * parts["f"][t].double() + sum(comb[j, k] * streams[j] for j in range(4))
        for k in range(4)
    ]
    return torch.stack(rows)


def check_pre(result: Any, streams: Tensor, parts: dict[str, Tensor], norm_eps: float | None) -> None:
    post, comb, layer_input = result
    assert post.shape == (T, 4, 1) and comb.shape == (T, 4, 4) and layer_input.shape == (T, D)
    assert post.dtype == comb.dtype == torch.float32 and layer_input.dtype == torch.bfloat16
    for t in range(T):
        x, expected_mix, expected_comb = expected_pre(streams[t], parts)
        if norm_eps is not None:
            x = normed(x, parts["norm"], norm_eps)
        torch.testing.assert_close(post[t, :, 0].double(), expected_mix, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(comb[t].double(), expected_comb, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer_input[t].double(), x, rtol=0.016, atol=0.01)


def mix_arguments(parts: dict[str, Tensor]) -> dict[str, Any]:
    return {"fn": parts["fn"], "hc_scale": parts["scale"], "hc_base": parts["base"], **MIX}


@pytest.mark.parametrize("norm_eps", [None, RMS, 0.5], ids=["no norm", "fused norm", "norm with its own epsilon"])
def test_pre_in_the_engines_order_and_shapes(parts: dict[str, Tensor], norm_eps: float | None) -> None:
    norm = {} if norm_eps is None else {"norm_weight": parts["norm"].bfloat16().float(), "norm_eps": norm_eps}
    parts["norm"] = parts["norm"].bfloat16().float()
    result = mhc.pre(unused)(parts["streams"], **mix_arguments(parts), n_splits=8, **norm)
    check_pre(result, parts["streams"], parts, norm_eps)


def test_streams_that_share_memory_are_taken(parts: dict[str, Tensor]) -> None:
    """The first layer's streams may be one embedding expanded to four."""
    shared = parts["f"].unsqueeze(1).expand(T, 4, D)
    check_pre(mhc.pre(unused)(shared, **mix_arguments(parts)), shared, parts, None)


def test_broadcast_pre_returns_the_streams_too(parts: dict[str, Tensor]) -> None:
    parts["norm"] = parts["norm"].bfloat16().float()
    streams, *rest = mhc.pre_broadcast(unused)(
        parts["f"], **mix_arguments(parts), norm_weight=parts["norm"], norm_eps=RMS, fn_broadcast=torch.zeros(24, D)
    )
    assert streams.shape == (T, 4, D) and all(torch.equal(streams[:, j], parts["f"]) for j in range(4))
    check_pre(rest, streams, parts, RMS)


def test_post_sums_over_the_first_index_of_comb(parts: dict[str, Tensor]) -> None:
    for post in (parts["post"], parts["post"].unsqueeze(-1)):
        out = mhc.post(unused)(parts["f"], parts["streams"], post, parts["comb"])
        assert out.shape == (T, 4, D) and out.dtype == torch.bfloat16
        for t in range(T):
            torch.testing.assert_close(out[t].double(), expected_post(parts, t), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("outer", [(T,), (T, 1)], ids=["[T]", "[T, 1]"])
def test_fused_post_and_next_pre(parts: dict[str, Tensor], outer: tuple[int, ...]) -> None:
    parts["norm"] = parts["norm"].bfloat16().float()
    streams, post, comb, layer_input = mhc.post_pre(unused)(
        parts["f"].view(*outer, D), parts["streams"].view(*outer, 4, D), parts["post"].view(*outer, 4, 1),
        parts["comb"].view(*outer, 4, 4), **mix_arguments(parts), n_splits=1, tile_n=1, norm_weight=parts["norm"],
        norm_eps=RMS,
    )  # fmt: skip
    assert streams.shape == (*outer, 4, D) and post.shape == (*outer, 4, 1) and layer_input.shape == (*outer, D)
    streams = streams.view(T, 4, D)
    for t in range(T):
        torch.testing.assert_close(streams[t].double(), expected_post(parts, t), rtol=0.01, atol=0.01)
    flat = post.view(T, 4, 1), comb.view(T, 4, 4), layer_input.view(T, D)
    check_pre(flat, streams, parts, RMS)


def test_head_collapses_the_streams(parts: dict[str, Tensor]) -> None:
    fn, scale, base = parts["fn"][:4].clone(), parts["scale"][:1].clone(), parts["base"][:4].clone()
    out = mhc.head(unused)(parts["streams"], fn, scale, base, RMS, EPS)
    for t in range(T):
        x = parts["streams"][t]
        weight = torch.sigmoid(mixes(x, fn) * scale.double() + base.double()) + EPS
        torch.testing.assert_close(out[t].double(), (weight[:, None] * x.double()).sum(0), rtol=0.01, atol=0.01)


def test_prenorm_gemm_fills_the_engines_buffers(parts: dict[str, Tensor]) -> None:
    out, squares = torch.full((3, T, 24), torch.nan), torch.full((3, T), torch.nan)
    x = parts["streams"].view(T, -1)
    call = mhc.prenorm_gemm(unused)
    assert call(x, parts["fn"], out, squares, 3) is None
    total, square = mhc._summed({}, (out, squares))
    torch.testing.assert_close(total.double(), x.double() @ parts["fn"].double().T, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(square.double(), x.double().square().sum(1), rtol=1e-6, atol=1e-6)
    assert isinstance(call(x, parts["fn"], out, squares, 4), Declined)
    assert isinstance(call(x.float(), parts["fn"], out, squares, 3), Declined)


def test_what_the_mixes_leave_to_the_engine(parts: dict[str, Tensor]) -> None:
    for changed in ({"hc_sinkhorn_eps": 1e-5}, {"hc_post_mult_value": 1.0}):
        assert isinstance(mhc.pre(unused)(parts["streams"], **{**mix_arguments(parts), **changed}), Declined)
    assert isinstance(mhc.pre(unused)(parts["streams"][:, :2], **mix_arguments(parts)), Declined)
    assert isinstance(mhc.pre(unused)(parts["streams"].float(), **mix_arguments(parts)), Declined)
    assert isinstance(mhc.post(unused)(parts["f"], parts["streams"].half(), parts["post"], parts["comb"]), Declined)
