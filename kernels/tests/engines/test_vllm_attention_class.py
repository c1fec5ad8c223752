"""The attention class for GPUs on which vLLM has no kernel for its own."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.vllm_ops import attention_class


def flashinfer_module() -> Any:
    """The names of vLLM's ``flashinfer_sparse`` that the class is built from."""

    class Base:
        @staticmethod
        def get_kv_cache_shape(blocks: int, size: int, heads: int, dim: int, dtype: str = "auto") -> tuple[int, ...]:
            return (blocks, size, 584)

    class Backend(Base):
        @staticmethod
        def get_kv_cache_shape(blocks: int, size: int, heads: int, dim: int, dtype: str = "auto") -> tuple[int, ...]:
            return (blocks, size, dim)

        @staticmethod
        def supports_combination(*args: Any) -> str:
            return "needs FlashInfer"

    class Layer:
        def __init__(self, config: Any, prefix: str) -> None:
            self.prefix = prefix

    class SM120(Layer):
        backend_cls = Backend

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("requires FlashInfer")

    return SimpleNamespace(
        DeepseekV4FlashInferSM120Attention=SM120, DeepseekV4FlashInferMLAAttention=type("MLA", (Layer,), {}),
        DeepseekV4FlashInferMLASparseBackend=Backend, compute_fp8_einsum_recipe=lambda: ((1, 1, 128), True),
        __hash__=object.__hash__,
    )  # fmt: skip


class Module(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def choose(monkeypatch: pytest.MonkeyPatch, module: Any, chosen: type, major: int, ready: bool) -> Any:
    platforms = SimpleNamespace(
        current_platform=SimpleNamespace(get_device_capability=lambda: SimpleNamespace(major=major, minor=0))
    )
    found = {attention_class._FLASHINFER: module, "vllm.platforms": platforms}
    monkeypatch.setattr(attention_class.importlib, "import_module", lambda name: found[name])
    return attention_class.select(lambda config: chosen, lambda module, config: ready)(None)


def test_the_class_is_chosen_only_where_the_engines_own_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module(**vars(flashinfer_module()))
    sm120, sm10x = module.DeepseekV4FlashInferSM120Attention, module.DeepseekV4FlashInferMLAAttention
    assert isinstance(choose(monkeypatch, module, sm120, 12, ready=True), Declined)
    assert isinstance(choose(monkeypatch, module, sm10x, 10, ready=True), Declined)
    assert isinstance(choose(monkeypatch, module, type("FlashMLA", (), {}), 9, ready=True), Declined)
    ours = choose(monkeypatch, module, sm120, 12, ready=False)
    assert issubclass(ours, sm120)
    assert choose(monkeypatch, module, sm10x, 9, ready=True) is ours
    made = ours("config", prefix="layer.0")
    assert (made.prefix, made._einsum_recipe, made._tma_aligned_scales) == ("layer.0", (1, 1, 128), True)
    assert ours.backend_cls.get_kv_cache_shape(3, 64, 1, 512, dtype="fp8_ds_mla") == (3, 64, 584)
    assert ours.backend_cls.supports_combination() is None


@pytest.mark.parametrize("version", ["0.25.0", "0.33.0"])
def test_vllms_class_adds_nothing_else_for_fp8_pages(vllm_sources: Callable[[str], Path], version: str) -> None:
    """What ``Ds4KernelsAttention.__init__`` leaves out must be the FlashInfer check and the per-tensor FP8 scales alone."""
    path = vllm_sources(version) / "vllm/models/deepseek_v4/nvidia/flashinfer_sparse.py"
    (kind,) = [
        node for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "DeepseekV4FlashInferSM120Attention"
    ]  # fmt: skip
    (init,) = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    stop = next(
        i for i, node in enumerate(init.body) if "kv_cache_torch_dtype != torch.float8_e4m3fn" in ast.unparse(node)
    )
    assigned = [ast.unparse(node.targets[0]) for node in init.body[:stop] if isinstance(node, ast.Assign)]
    assert [name for name in assigned if name.startswith(("self", "("))] == [
        "(self._einsum_recipe, self._tma_aligned_scales)"
    ]
