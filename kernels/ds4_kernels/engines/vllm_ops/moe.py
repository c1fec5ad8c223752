"""Routed MXFP4 experts: ``Mxfp4MoEMethod``, which loads them in the checkpoint's layout and repacks them for its kernel.

Our kernels read the checkpoint's layout, so two methods are replaced together. ``process_weights_after_loading`` leaves the
weights as they are: no second copy, and no Marlin format. ``apply`` then runs our op. Whether a layer can be ours is
decided at load, because afterwards the engine's kernel does not exist; if ``apply`` still has to give a call back, the
weights are repacked at that moment, so that the engine's op works from then on.

Where the engine's backend has BF16 activations (Marlin, Humming) so do we (w4a16), where it has FP8 ones (DeepGEMM) we do
too (w4a8): an A/B comparison then changes the kernel and not the numerics. Routing, shared experts, scaling and the
reduction over ranks stay the engine's; the shared experts run outside of ``apply`` unless an all-to-all is in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ds4_kernels import ops
from ds4_kernels.engines import calls
from ds4_kernels.engines.hook import Declined, Function, Hook, Table, decline

MODES = {"MARLIN": "w4a16", "HUMMING": "w4a16", "DEEPGEMM_MXFP4": "w4a8"}
"""Numerics by the name of the backend that the engine chose."""
GROUP = 128
_ATTRIBUTE = "_ds4_experts"


@dataclass(frozen=True)
class Experts:
    """The weights of a layer in the checkpoint's layout (see ``reference.mxfp4_moe``), the clamp and the numerics."""

    w13: Tensor
    s13: Tensor
    w2: Tensor
    s2: Tensor
    limit: float
    mode: str


def load(original: Function) -> Function:
    """For ``process_weights_after_loading``: keep the layout, where the layer and its deployment allow it."""

    def process_weights_after_loading(self: Any, layer: Any) -> Declined | None:
        layer.__dict__.pop(_ATTRIBUTE, None)
        if not calls.is_wrapped(type(self).apply, _APPLY):
            return decline("apply is not replaced")
        reason = refuse(self, layer)
        if reason is not None:
            return decline(reason)
        layer.__dict__[_ATTRIBUTE] = Experts(
            layer.w13_weight.data, layer.w13_weight_scale.data, layer.w2_weight.data, layer.w2_weight_scale.data,
            _limit(layer), MODES[self.mxfp4_backend.name],
        )  # fmt: skip
        return None

    return process_weights_after_loading


def apply(original: Function) -> Function:
    """For ``apply``: the sum of each token's local experts, BF16 ``[T, D]``."""

    def apply(
        self: Any, layer: Any, x: Tensor, topk_weights: Tensor, topk_ids: Tensor, shared_experts: Any,
        shared_experts_input: Tensor | None,
    ) -> Tensor | Declined:  # fmt: skip
        del shared_experts, shared_experts_input
        experts: Experts | None = layer.__dict__.get(_ATTRIBUTE)
        if experts is None:
            return decline("the engine repacked the weights")
        try:
            if x.dtype != torch.bfloat16 or x.dim() != 2:
                return decline(_give_back(self, layer, f"activations {x.dtype} {list(x.shape)[1:]}"))
            return _run(experts, x, topk_weights, topk_ids, layer.expert_map)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception:
            _give_back(self, layer, "")
            raise

    return apply


def refuse(method: Any, layer: Any) -> str | None:
    """Why a layer's experts stay with the engine, None when they need not."""
    parallel = method.moe.moe_parallel_config
    w13, w2 = layer.w13_weight, layer.w2_weight
    cases = {
        f"backend {method.mxfp4_backend.name}": method.mxfp4_backend.name not in MODES,
        f"activation {layer.activation.value}": layer.activation.value != "silu",
        "experts with a bias": method.moe.has_bias,
        "LoRA": method.moe.is_lora_enabled,
        "data or sequence parallel experts": parallel.use_all2all_kernels or parallel.dp_size > 1,
        "expert load balancing": parallel.enable_eplb,
        "routing weights on the input": layer.apply_router_weight_on_input,
        "a SwiGLU with alpha or beta": not _plain_swiglu(layer),
        f"weights in {w13.dtype}": w13.dtype != torch.uint8 or w2.dtype != torch.uint8,
        f"sizes {list(w13.shape)} and {list(w2.shape)}": not _sizes_fit(w13, w2),
    }
    return next((reason for reason, found in cases.items() if found), None)


def _run(experts: Experts, x: Tensor, weights: Tensor, ids: Tensor, expert_map: Tensor | None) -> Tensor:
    if expert_map is not None:
        # Number of the expert on this rank; -1, which our op leaves out, for experts elsewhere and for padding.
        ids = torch.where(ids >= 0, expert_map[ids.clamp_min(0).long()], -1)
    result: Tensor = ops.call(
        "mxfp4_moe", x.contiguous(), ids.to(torch.int32), weights.float(), experts.w13, experts.s13, experts.w2,
        experts.s2, experts.limit, mode=experts.mode,
    )  # fmt: skip
    return result


def _give_back(method: Any, layer: Any, reason: str) -> str:
    """Repack the weights for the engine's kernel, unless it has them (shadow mode). Returns ``reason``."""
    layer.__dict__.pop(_ATTRIBUTE, None)
    if method.moe_kernel is None:
        replaced = type(method).process_weights_after_loading
        replaced.__wrapped__(method, layer)
    return reason


def _limit(layer: Any) -> float:
    return float("inf") if layer.swiglu_limit is None else float(layer.swiglu_limit)


def _plain_swiglu(layer: Any) -> bool:
    return getattr(layer, "swiglu_alpha", None) in (None, 1.0) and getattr(layer, "swiglu_beta", None) in (None, 0.0)


def _sizes_fit(w13: Tensor, w2: Tensor) -> bool:
    """Gate and up rows of whole groups of 128, and the down projection of the same width."""
    if w13.dim() != 3 or w2.dim() != 3 or not (w13.is_contiguous() and w2.is_contiguous()):
        return False
    hidden, inner = 2 * w13.shape[2], w13.shape[1] // 2
    return w2.shape[1:] == (hidden, inner // 2) and not hidden % GROUP and not w13.shape[1] % (2 * GROUP)


_METHOD = "vllm.model_executor.layers.quantization.mxfp4:Mxfp4MoEMethod"
_APPLY = Hook(
    "mxfp4_moe", f"{_METHOD}.apply",
    ("self", "layer", "x", "topk_weights", "topk_ids", "shared_experts", "shared_experts_input"), apply,
    everywhere=False,
)  # fmt: skip
_LOAD = Hook("mxfp4_moe", f"{_METHOD}.process_weights_after_loading", ("self", "layer"), load, everywhere=False)
_HOOKS = (_APPLY, _LOAD)

HOOKS: Table = {"0.25.0": _HOOKS, "0.33.0": _HOOKS}
