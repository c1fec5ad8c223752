"""The routed experts with MXFP4 weights, dequantised expert by expert (kernels.md 1.8 and 2.8)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ds4_kernels.reference import moe, quant

Mode = Literal["w4a8", "w4a16"]
MODES = ("w4a8", "w4a16")
GROUP = moe.ACTIVATION_GROUP


def mxfp4_moe(
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    w13: Tensor,
    s13: Tensor,
    w2: Tensor,
    s2: Tensor,
    limit: float,
    mode: Mode = "w4a8",
    out: Tensor | None = None,
    native: bool | None = None,
) -> Tensor:
    """Sum of each token's experts, BF16 ``[T, D]``.

    x BF16 ``[T, D]``; topk_ids int32 ``[T, k]``, an id outside ``[0, E)`` is an expert that is not here and adds
    nothing; topk_weights FP32 ``[T, k]``; w13 uint8 ``[E, 2 I, D / 2]`` packed E2M1 (rows of the gate, then of up; low
    nibble = even k) with E8M0 scales s13 ``[E, 2 I, D / 32]``; w2 ``[E, D, I / 2]`` with s2 ``[E, D, I / 32]``.
    D and I are multiples of 128. One expert is ``w2 (weight * silu(min(gate, limit)) * clamp(up, -limit, limit))``.

    ``w4a8``: the activations of both projections are rounded to FP8 with a power-of-two scale per token and 128
    elements, the second one after its multiplication with the routing weight (the model's own numerics). ``w4a16``:
    x as it is, the second activation rounded to BF16. Sums are FP32. ``native`` selects a kernel and has no meaning
    here. Raises ValueError for shapes, dtypes or a mode that do not fit.
    """
    check_arguments(x, topk_ids, topk_weights, w13, s13, w2, s2, mode, out)
    inputs = quant.fp8_simulate(x.float(), GROUP) if mode == "w4a8" else x.float()
    total = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for expert in sorted(set(topk_ids.flatten().tolist())):
        if not 0 <= expert < w13.shape[0]:
            continue
        token, slot = torch.where(topk_ids == expert)
        gate_up = torch.nn.functional.linear(inputs[token], _dequantize(w13[expert], s13[expert]))
        hidden = moe.swiglu_clamped(gate_up, limit).mul_(topk_weights[token, slot].unsqueeze(-1))
        hidden = quant.fp8_simulate(hidden, GROUP) if mode == "w4a8" else hidden.to(torch.bfloat16).float()
        total.index_add_(0, token, torch.nn.functional.linear(hidden, _dequantize(w2[expert], s2[expert])))
    result = total.to(torch.bfloat16)
    return result if out is None else out.copy_(result)


def _dequantize(packed: Tensor, scale: Tensor) -> Tensor:
    return quant.mxfp4_dequantize(packed, scale, torch.float32)


def check_arguments(
    x: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    w13: Tensor,
    s13: Tensor,
    w2: Tensor,
    s2: Tensor,
    mode: str,
    out: Tensor | None,
) -> None:
    """Raise ValueError unless the arguments of ``mxfp4_moe`` fit together (shapes and dtypes only, no sync)."""
    if mode not in MODES:
        raise ValueError(f"mxfp4_moe: mode must be one of {MODES}, got {mode!r}")
    if x.dim() != 2 or w13.dim() != 3 or topk_ids.dim() != 2:
        raise ValueError("mxfp4_moe: x must be [T, D], topk_ids [T, k] and w13 [E, 2 I, D / 2]")
    T, D = x.shape
    E, I = w13.shape[0], w13.shape[1] // 2  # noqa: E741
    if D % GROUP or w13.shape[1] % (2 * GROUP):
        raise ValueError(f"mxfp4_moe: D = {D} and I = {w13.shape[1] / 2:g} must be multiples of {GROUP}")
    pairs = (T, topk_ids.shape[1])
    expected = {
        "x": (x, torch.bfloat16, (T, D)),
        "topk_ids": (topk_ids, torch.int32, pairs),
        "topk_weights": (topk_weights, torch.float32, pairs),
        "w13": (w13, torch.uint8, (E, 2 * I, D // 2)),
        "s13": (s13, torch.uint8, (E, 2 * I, D // quant.FP4_GROUP)),
        "w2": (w2, torch.uint8, (E, D, I // 2)),
        "s2": (s2, torch.uint8, (E, D, I // quant.FP4_GROUP)),
        "out": (x if out is None else out, torch.bfloat16, (T, D)),
    }
    for name, (tensor, dtype, shape) in expected.items():
        if tensor.dtype != dtype or tensor.shape != shape:
            raise ValueError(f"mxfp4_moe: {name} must be {dtype} {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
