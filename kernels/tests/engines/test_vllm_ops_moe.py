"""The MXFP4 experts hook: two methods of one class, replaced through the real wrapper, against loops in FP64."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ds4_kernels import env
from ds4_kernels.engines import calls
from ds4_kernels.engines.report import HookState, Report
from ds4_kernels.engines.vllm_ops import moe
from torch import Tensor

E, INNER, D, K, T, LIMIT = 4, 128, 256, 2, 3, 1.5
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], dtype=torch.float64)


class Backend(Enum):
    MARLIN = "MARLIN"
    DEEPGEMM_MXFP4 = "DEEPGEMM_MXFP4"
    BATCHED_MARLIN = "BATCHED_MARLIN"


class Activation(Enum):
    SILU = "silu"
    GELU = "gelu"


class Layer(torch.nn.Module):
    """What ``Mxfp4MoEMethod`` sees of ``RoutedExperts``."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(21)

        def fill(name: str, low: int, high: int, *shape: int) -> None:
            data = torch.randint(low, high, shape, generator=generator, dtype=torch.uint8)
            self.register_parameter(name, torch.nn.Parameter(data, requires_grad=False))

        fill("w13_weight", 0, 256, E, 2 * INNER, D // 2)
        fill("w13_weight_scale", 118, 123, E, 2 * INNER, D // 32)
        fill("w2_weight", 0, 256, E, D, INNER // 2)
        fill("w2_weight_scale", 118, 123, E, D, INNER // 32)
        self.swiglu_limit, self.activation = LIMIT, Activation.SILU
        self.apply_router_weight_on_input = False
        self.expert_map: Tensor | None = None


def method_class() -> type:
    """The engine's class, new for each test as it is patched; its kernel gives 7 everywhere."""

    class Mxfp4MoEMethod:
        def __init__(self) -> None:
            self.moe_kernel: Any = None
            self.mxfp4_backend = Backend.MARLIN
            parallel = SimpleNamespace(use_all2all_kernels=False, dp_size=1, enable_eplb=False)
            self.moe = SimpleNamespace(moe_parallel_config=parallel, has_bias=False, is_lora_enabled=False)

        def process_weights_after_loading(self, layer: Any) -> None:
            for name in ("w13_weight", "w2_weight", "w13_weight_scale", "w2_weight_scale"):
                repacked = getattr(layer, name).data.flatten().contiguous().view(torch.int32)
                setattr(layer, name, torch.nn.Parameter(repacked, requires_grad=False))
            self.moe_kernel = "marlin"

        def apply(
            self, layer: Any, x: Tensor, topk_weights: Tensor, topk_ids: Tensor, shared_experts: Any,
            shared_experts_input: Tensor | None,
        ) -> Tensor:  # fmt: skip
            assert self.moe_kernel is not None and layer.w13_weight.dtype == torch.int32
            return torch.full_like(x, 7.0)

    return Mxfp4MoEMethod


def patched(tmp_path: Path, *, shadow: bool = False, hooks: tuple[Any, ...] = moe.HOOKS["0.25.0"]) -> tuple[Any, Any]:
    """(the class with its methods wrapped, states by method name)."""
    cls = method_class()
    report = Report("vllm", "0.25.0", env.Settings(mode="reference", shadow=shadow))
    states = {}
    for hook in hooks:
        name = hook.target.rpartition(".")[2]
        states[name] = report.add(HookState(hook.name, hook.op, "moe", hook.target))
        setattr(cls, name, calls.wrap(hook, getattr(cls, name), states[name], report))
    return cls, states


def dequantised(packed: Tensor, scale: Tensor) -> Tensor:
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)
    values = E2M1[(codes & 7).long()] * torch.where(codes & 8 > 0, -1.0, 1.0)
    return values * torch.exp2(scale.double() - 127).repeat_interleave(32, -1)


def expected(layer: Layer, x: Tensor, weights: Tensor, ids: Tensor) -> Tensor:
    w13 = dequantised(layer.w13_weight.data, layer.w13_weight_scale.data)
    w2 = dequantised(layer.w2_weight.data, layer.w2_weight_scale.data)
    out = torch.zeros(x.shape, dtype=torch.float64)
    for t in range(x.shape[0]):
        for slot in range(ids.shape[1]):
            e = int(ids[t, slot])
            if e < 0:
                continue
            gate_up = w13[e] @ x[t].double()
            gate, up = gate_up[:INNER].clamp(max=LIMIT), gate_up[INNER:].clamp(-LIMIT, LIMIT)
            out[t] += weights[t, slot].double() * (w2[e] @ (gate * torch.sigmoid(gate) * up))
    return out


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(22)
    x = torch.randn(T, D, generator=generator).bfloat16()
    return x, torch.rand(T, K, generator=generator), torch.tensor([[0, 3], [1, 2], [3, 0]])


@pytest.mark.parametrize("backend", [Backend.MARLIN, Backend.DEEPGEMM_MXFP4])
def test_experts_run_from_the_checkpoints_layout(tmp_path: Path, backend: Backend) -> None:
    cls, states = patched(tmp_path)
    method, layer = cls(), Layer()
    method.mxfp4_backend = backend
    before = layer.w13_weight.data_ptr()
    method.process_weights_after_loading(layer)
    assert method.moe_kernel is None and layer.w13_weight.data_ptr() == before
    assert set(layer.state_dict()) == {f"{w}_weight{s}" for w in ("w13", "w2") for s in ("", "_scale")}
    x, weights, ids = batch()
    out = method.apply(layer, x, weights, ids, object(), x)
    result = expected(layer, x, weights, ids)
    assert out.dtype == torch.bfloat16
    error = (out.double() - result).abs().max() / result.abs().max()
    assert error < (0.01 if backend is Backend.MARLIN else 0.08)  # BF16 against FP8 activations
    assert states["apply"].calls == 1 and states["process_weights_after_loading"].calls == 1


def test_experts_of_another_rank_and_padding_add_nothing(tmp_path: Path) -> None:
    cls, _ = patched(tmp_path)
    method, layer = cls(), Layer()
    layer.expert_map = torch.tensor([-1, -1, 0, 1, 2, 3, -1, -1], dtype=torch.int32)  # 8 experts, four of them here
    method.process_weights_after_loading(layer)
    x, weights, _ = batch()
    ids = torch.tensor([[2, 7], [5, 4], [-1, 0]])
    out = method.apply(layer, x, weights, ids, None, None)
    local = torch.tensor([[0, -1], [3, 2], [-1, -1]])
    result = expected(layer, x, weights, local)
    assert (out.double() - result).abs().max() < 0.01 * result.abs().max()
    assert not out[2].any()


def refusals() -> list[tuple[str, Any]]:
    def set_(path: str, value: Any) -> Any:
        def change(method: Any, layer: Any) -> None:
            root, *middle, last = path.split(".")
            owner = {"method": method, "layer": layer}[root]
            for name in middle:
                owner = getattr(owner, name)
            setattr(owner, last, value)

        return change

    odd = torch.nn.Parameter(torch.zeros(E, 2 * INNER, 96, dtype=torch.uint8), requires_grad=False)
    floats = torch.nn.Parameter(torch.zeros(E, 2 * INNER, D // 2))
    parallel = "method.moe.moe_parallel_config."
    return [
        ("backend BATCHED_MARLIN", set_("method.mxfp4_backend", Backend.BATCHED_MARLIN)),
        ("activation gelu", set_("layer.activation", Activation.GELU)),
        ("experts with a bias", set_("method.moe.has_bias", True)),
        ("LoRA", set_("method.moe.is_lora_enabled", True)),
        ("data or sequence parallel experts", set_(f"{parallel}use_all2all_kernels", True)),
        ("data or sequence parallel experts", set_(f"{parallel}dp_size", 2)),
        ("expert load balancing", set_(f"{parallel}enable_eplb", True)),
        ("routing weights on the input", set_("layer.apply_router_weight_on_input", True)),
        ("a SwiGLU with alpha or beta", set_("layer.swiglu_alpha", 1.7)),
        ("weights in torch.float32", set_("layer.w13_weight", floats)),
        ("sizes", set_("layer.w13_weight", odd)),
    ]


@pytest.mark.parametrize(("reason", "change"), refusals())
def test_other_deployments_keep_the_engines_kernel(tmp_path: Path, reason: str, change: Any) -> None:
    cls, states = patched(tmp_path)
    method, layer = cls(), Layer()
    change(method, layer)
    method.process_weights_after_loading(layer)
    assert method.moe_kernel == "marlin"
    assert any(why.startswith(reason) for why in states["process_weights_after_loading"].declined)
    x, weights, ids = batch()
    assert bool((method.apply(layer, x, weights, ids, None, None) == 7).all())
    assert states["apply"].declined == {"the engine repacked the weights": 1}


def test_weights_are_repacked_when_apply_is_not_ours(tmp_path: Path) -> None:
    """The signature of ``apply`` may have changed in an engine whose loading has not."""
    cls, states = patched(tmp_path, hooks=(moe._LOAD,))
    method, layer = cls(), Layer()
    method.process_weights_after_loading(layer)
    assert method.moe_kernel == "marlin"
    assert states["process_weights_after_loading"].declined == {"apply is not replaced": 1}


def test_failing_kernel_gives_repacked_weights_to_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, states = patched(tmp_path)
    method, layer = cls(), Layer()
    method.process_weights_after_loading(layer)

    def broken(*args: Any, **kwargs: Any) -> Tensor:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(moe.ops, "call", broken)
    x, weights, ids = batch()
    for _ in range(2):
        assert bool((method.apply(layer, x, weights, ids, None, None) == 7).all())
    assert method.moe_kernel == "marlin" and states["apply"].state == "failed"


def test_activation_that_is_not_ours_repacks_once(tmp_path: Path) -> None:
    cls, states = patched(tmp_path)
    method, layer = cls(), Layer()
    method.process_weights_after_loading(layer)
    x, weights, ids = batch()
    assert bool((method.apply(layer, x.half(), weights, ids, None, None) == 7).all())
    assert bool((method.apply(layer, x, weights, ids, None, None) == 7).all())
    assert sum(states["apply"].declined.values()) == 2


def test_shadow_mode_keeps_both_formats_and_compares(tmp_path: Path) -> None:
    cls, states = patched(tmp_path, shadow=True)
    method, layer = cls(), Layer()
    method.process_weights_after_loading(layer)
    assert method.moe_kernel == "marlin" and layer.w13_weight.dtype == torch.int32
    x, weights, ids = batch()
    assert bool((method.apply(layer, x, weights, ids, None, None) == 7).all())
    (difference,) = states["apply"].shadow.values()
    assert difference.calls == 1
    worst = (7 - expected(Layer(), x, weights, ids)).abs().max()
    assert difference.max_abs == pytest.approx(float(worst), rel=0.02)
