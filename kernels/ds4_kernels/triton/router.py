"""Router and clamped SwiGLU.

``route``: score = sqrt(softplus(logit)); the ``topk`` highest ``score + bias`` by repeated maximum (equal ones: lowest id
first), or the ids that are given; weight = score / (sum of scores + 1e-20) * route_scale. One program holds a few rows
of logits whole.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from ds4_kernels.reference.router import check_route, check_swiglu
from ds4_kernels.triton.common import INTERPRETED, to_bf16
from ds4_kernels.triton.compile_case import CompileCase

ROWS = 4
SWIGLU_BLOCK = 1024


@triton.jit
def _log1p(y):
    """log(1 + y) for y in [0, 1], accurate where 1 + y rounds to 1."""
    if INTERPRETED:
        u = 1.0 + y
        return tl.where(u == 1.0, y, tl.log(u) * (y / tl.where(u == 1.0, 1.0, u - 1.0)))
    else:
        return libdevice.log1p(y)


@triton.jit
def _scores(logits):
    softplus = tl.maximum(logits, 0.0) + _log1p(tl.exp(-tl.abs(logits)))
    return tl.sqrt_rn(softplus)


@triton.jit(do_not_specialize=["rows"])
def _route_kernel(
    logits, bias, given, ids, weights, route_scale, rows,
    EXPERTS: tl.constexpr, EXPERTS_PAD: tl.constexpr, TOPK: tl.constexpr, TOPK_PAD: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    HAS_BIAS: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    live = row < rows
    safe = tl.where(live, row, 0).to(tl.int64)
    expert = tl.arange(0, EXPERTS_PAD)
    real = expert < EXPERTS
    slot = tl.arange(0, TOPK_PAD)
    at = safe[:, None] * TOPK + slot[None, :]
    kept = live[:, None] & (slot < TOPK)[None, :]
    if GIVEN:
        chosen = tl.load(given + at, mask=kept, other=-1).to(tl.int32)
        held = chosen >= 0
        near = safe[:, None] * EXPERTS + tl.where(held, chosen, 0)
        picked = tl.where(held, _scores(tl.load(logits + near, mask=held, other=0.0)), 0.0)
    else:
        score = _scores(tl.load(logits + safe[:, None] * EXPERTS + expert[None, :], mask=real[None, :], other=0.0))
        value = score
        if HAS_BIAS:
            value += tl.load(bias + expert, mask=real, other=0.0)[None, :]
        value = tl.where(real[None, :], value, float("-inf"))
        chosen = tl.zeros((BLOCK_ROWS, TOPK_PAD), tl.int32)
        picked = tl.zeros((BLOCK_ROWS, TOPK_PAD), tl.float32)
        for j in tl.static_range(TOPK):
            best = tl.max(value, axis=1)
            first = tl.min(tl.where(value == best[:, None], expert[None, :], EXPERTS - 1), axis=1)
            hit = expert[None, :] == first[:, None]
            mine = (slot == j)[None, :]
            chosen = tl.where(mine, first[:, None], chosen)
            picked = tl.where(mine, tl.sum(tl.where(hit, score, 0.0), axis=1)[:, None], picked)
            value = tl.where(hit, float("-inf"), value)
    total = tl.sum(picked, axis=1) + 1e-20
    tl.store(ids + at, chosen, mask=kept)
    tl.store(weights + at, tl.div_rn(picked, tl.broadcast_to(total[:, None], picked.shape)) * route_scale, mask=kept)


@triton.jit(do_not_specialize=["total"])
def _swiglu_kernel(gate_up, out, limit, total, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = at < total
    source = (at // WIDTH) * (2 * WIDTH) + at % WIDTH
    gate = tl.load(gate_up + source, mask=live, other=0.0).to(tl.float32)
    up = tl.load(gate_up + source + WIDTH, mask=live, other=0.0).to(tl.float32)
    gate = tl.minimum(gate, limit)
    result = gate / (1.0 + tl.exp(-gate)) * tl.clamp(up, -limit, limit)
    if out.dtype.element_ty == tl.bfloat16:
        tl.store(out + at, to_bf16(result), mask=live)
    else:
        tl.store(out + at, result, mask=live)


def route(
    logits: Tensor,
    topk: int,
    route_scale: float,
    bias: Tensor | None = None,
    expert_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Experts of every token: (ids int32 ``[T, topk]``, weights FP32 ``[T, topk]``) from logits FP32 ``[T, E]``.

    As ``reference.router.route``; of equal experts the lowest id comes first. Raises ValueError for shapes and dtypes.
    """
    check_route(logits, topk, bias, expert_ids)
    if logits.dtype != torch.float32 or (bias is not None and bias.dtype != torch.float32):
        raise ValueError(f"route: logits and bias must be float32, got {logits.dtype}")
    rows, experts = logits.shape
    ids = torch.empty((rows, topk), dtype=torch.int32, device=logits.device)
    weights = torch.empty((rows, topk), dtype=torch.float32, device=logits.device)
    if rows:
        _route_kernel[(triton.cdiv(rows, ROWS),)](
            logits.contiguous(), logits if bias is None else bias, ids if expert_ids is None else expert_ids.contiguous(),
            ids, weights, float(route_scale), rows, num_warps=4,
            **_route_constexprs(experts, topk, bias is not None, expert_ids is not None),
        )  # fmt: skip
    return ids, weights


def swiglu_clamped(gate_up: Tensor, limit: float, out: Tensor | None = None) -> Tensor:
    """``silu(min(gate, limit)) * clamp(up, -limit, limit)`` of BF16 or FP32 ``[T, 2 I]`` (gate first): ``[T, I]``.

    As ``reference.router.swiglu_clamped``. Raises ValueError for shapes and dtypes.
    """
    check_swiglu(gate_up, out)
    if gate_up.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"swiglu_clamped: gate_up must be bfloat16 or float32, got {gate_up.dtype}")
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    result = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device) if out is None else out
    total = rows * width
    if total:
        grid = (triton.cdiv(total, SWIGLU_BLOCK),)
        source = gate_up.contiguous()
        _swiglu_kernel[grid](source, result, float(limit), total, WIDTH=width, BLOCK=SWIGLU_BLOCK, num_warps=4)
    return result


def _route_constexprs(experts: int, topk: int, has_bias: bool, given: bool) -> dict[str, int | bool]:
    return {
        "EXPERTS": experts, "EXPERTS_PAD": triton.next_power_of_2(experts), "TOPK": topk,
        "TOPK_PAD": triton.next_power_of_2(topk), "BLOCK_ROWS": ROWS, "HAS_BIAS": has_bias, "GIVEN": given,
    }  # fmt: skip


def compile_cases() -> list[CompileCase]:
    """V4-Flash's router (256 experts, top 6; bias, none, hash layers with int32 and int64 ids) and SwiGLU (I = 2048)."""
    cases = [
        CompileCase(
            op="route",
            config=name,
            kernel=_route_kernel,
            signature={
                "logits": "*fp32", "bias": "*fp32", "given": ids, "ids": "*i32", "weights": "*fp32",
                "route_scale": "fp32", "rows": "i32",
            },
            constexprs=_route_constexprs(256, 6, has_bias, given),
            num_warps=4,
        )
        for name, ids, has_bias, given in (
            ("bias", "*i32", True, False), ("no bias", "*i32", False, False),
            ("hash int32", "*i32", False, True), ("hash int64", "*i64", False, True),
        )
    ]  # fmt: skip
    cases += [
        CompileCase(
            op="swiglu_clamped",
            config=name,
            kernel=_swiglu_kernel,
            signature={"gate_up": pointer, "out": pointer, "limit": "fp32", "total": "i32"},
            constexprs={"WIDTH": 2048, "BLOCK": SWIGLU_BLOCK},
            num_warps=4,
        )
        for name, pointer in (("bf16", "*bf16"), ("fp32", "*fp32"))
    ]
    return cases
