"""The attention class for GPUs on which vLLM has no kernel for its own: ``Ds4KernelsAttention``.

vLLM picks ``DeepseekV4FlashInferSM120Attention`` on SM12x, which refuses to be built without FlashInfer's sparse MLA. Ours
is that class without the demand: metadata, caches and the paged call are inherited, and the call is hooked (``attention``).
On Hopper the same class serves ``--attention-backend FLASHINFER_MLA_SPARSE_DSV4``: so the SM12x path, which reads prefill
straight from the FP8 pages, can run on a GPU that vLLM serves with FlashMLA.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ds4_kernels.engines.hook import Declined, Function, Hook, decline

Ready = Callable[[Any, Any], bool]
_MODEL = "vllm.models.deepseek_v4.nvidia.model"
_FLASHINFER = "vllm.models.deepseek_v4.nvidia.flashinfer_sparse"
_HOPPER, _SM12X = 9, 12


def hook(op: str, ready: Ready) -> Hook:
    """The hook on the function that picks the class of every layer (MTP's too)."""
    return Hook(
        op, f"{_MODEL}:_select_dsv4_attn_cls", ("vllm_config",), lambda original: select(original, ready), shadow=False
    )


def select(original: Function, ready: Ready) -> Function:
    """Replacement of ``_select_dsv4_attn_cls``: the engine's choice, unless only ours can run."""

    def _select_dsv4_attn_cls(vllm_config: Any) -> type | Declined:
        chosen: type = original(vllm_config)
        module = importlib.import_module(_FLASHINFER)
        capability = importlib.import_module("vllm.platforms").current_platform.get_device_capability()
        major = None if capability is None else capability.major
        if chosen is module.DeepseekV4FlashInferSM120Attention:
            if ready(module, vllm_config):
                return decline("FlashInfer's class serves; its calls are hooked")
            return build(module)
        if chosen is module.DeepseekV4FlashInferMLAAttention and major == _HOPPER:
            return build(module)
        return decline(f"{chosen.__name__} serves; its calls are hooked")

    return _select_dsv4_attn_cls


def flashinfer_ready_025(module: Any, vllm_config: Any) -> bool:
    """Whether vLLM 0.25.0 could build its SM12x class."""
    return bool(importlib.import_module("vllm.utils.flashinfer").has_flashinfer_sparse_mla_sm120())


def flashinfer_ready_033(module: Any, vllm_config: Any) -> bool:
    """Whether vLLM 0.33.0 could build its SM12x class: FlashInfer must have a kernel for these heads and this window."""
    config = vllm_config.model_config.hf_config
    heads = config.num_attention_heads // vllm_config.parallel_config.tensor_parallel_size
    padded = module.DeepseekV4FlashInferSM120Attention.get_padded_num_q_heads(heads)
    width = module._required_sm120_sparse_topk(vllm_config, config.sliding_window)
    return bool(importlib.import_module("vllm.utils.flashinfer").has_flashinfer_sparse_mla_sm120_config(padded, width))


_built: dict[Any, type] = {}


def build(module: Any) -> type:
    """``Ds4KernelsAttention`` from vLLM's module ``flashinfer_sparse``, made once."""
    if module not in _built:
        _built[module] = _build(module)
    return _built[module]


def _build(module: Any) -> type:
    engine: Any = module.DeepseekV4FlashInferSM120Attention
    pages: Any = module.DeepseekV4FlashInferMLASparseBackend

    class Ds4KernelsBackend(pages):  # type: ignore[misc]
        """FlashInfer's metadata with the 584-byte pages on every GPU, and no demand for FlashInfer."""

        @classmethod
        def supports_compute_capability(cls, capability: Any) -> bool:
            return capability.major in (_HOPPER, _SM12X)

        @classmethod
        def supports_combination(cls, *args: Any, **kwargs: Any) -> str | None:
            return None

        @staticmethod
        def get_kv_cache_shape(*args: Any, **kwargs: Any) -> tuple[int, ...]:
            shape: tuple[int, ...] = pages.__bases__[0].get_kv_cache_shape(*args, **kwargs)
            return shape

    class Ds4KernelsAttention(engine):  # type: ignore[misc]
        """DeepSeek-V4 attention on our paged kernels."""

        backend_cls = Ds4KernelsBackend

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # The engine's own constructor would ask for FlashInfer: start at its base and add what it adds for FP8 pages.
            super(engine, self).__init__(*args, **kwargs)
            self._einsum_recipe, self._tma_aligned_scales = module.compute_fp8_einsum_recipe()

        @staticmethod
        def _get_workspace(device: Any) -> None:
            """FlashInfer's 128 MiB of scratch, which our kernels do not need."""

    return Ds4KernelsAttention
