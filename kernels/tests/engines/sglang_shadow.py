"""Run by an interpreter with SGLang: its own plugin loader, its own modules, its own SM12x fallbacks on a CPU beside ours.

``DS4_KERNELS=reference DS4_KERNELS_SHADOW=1 DS4_KERNELS_REPORT=DIR python sglang_shadow.py`` writes the plugin's report.
"""

import contextlib
import importlib
import math

import torch
from sglang.srt.plugins import load_plugins

PAGE = 256


def pages(generator: torch.Generator, count: int) -> torch.Tensor:
    """``[count, 256, 1, 584]`` as SGLang shows its planar pages."""
    stride = math.ceil(PAGE * 584 / 576) * 576
    storage = torch.zeros(count, stride, dtype=torch.uint8)
    data = storage[:, : PAGE * 576].view(count, PAGE, 576)
    data[..., :448] = torch.randn(count, PAGE, 448, generator=generator).to(torch.float8_e4m3fn).view(torch.uint8)
    data[..., 448:] = torch.randn(count, PAGE, 64, generator=generator).bfloat16().view(torch.uint8)
    scales = storage[:, PAGE * 576 : PAGE * 584].view(count, PAGE, 8)
    scales[..., :7] = torch.randint(125, 130, (count, PAGE, 7), generator=generator)
    return storage.as_strided((count, PAGE, 1, 584), (stride, 584, 584, 1))


def attend(generator: torch.Generator, dtype: torch.dtype) -> None:
    """The window and compressed entries, slots of -1 and short lengths among them."""
    module = importlib.import_module("sglang.kernels.ops.attention.flash_mla_sm120")
    cache = pages(generator, 2).view(dtype)
    module.flash_mla_with_kvcache_sm120(
        q=torch.randn(5, 1, 64, 512, generator=generator).bfloat16(), k_cache=cache, head_dim_v=512, softmax_scale=None,
        indices=torch.randint(-1, 512, (5, 1, 128), generator=generator, dtype=torch.int32),
        topk_length=torch.tensor([128, 5, 1, 70, 128], dtype=torch.int32), extra_k_cache=cache,
        attn_sink=torch.randn(64, generator=generator),
        extra_indices_in_kvcache=torch.randint(-1, 512, (5, 1, 64), generator=generator, dtype=torch.int32),
        extra_topk_length=torch.tensor([64, 0, 3, 64, 9], dtype=torch.int32),
    )  # fmt: skip


def logits(generator: torch.Generator) -> None:
    """Three rows over paged keys."""
    module = importlib.import_module("sglang.srt.layers.attention.dsv4.indexer")
    cache = torch.zeros(6, 64 * 132, dtype=torch.uint8)
    cache[:, : 64 * 128] = torch.randn(6, 64 * 128, generator=generator).to(torch.float8_e4m3fn).view(torch.uint8)
    cache[:, 64 * 128 :] = torch.exp2(torch.randint(-3, 3, (6, 64), generator=generator).float()).view(torch.uint8)
    module.fp8_paged_mqa_logits_torch_sm120(
        torch.randn(3, 1, 64, 128, generator=generator).to(torch.float8_e4m3fn), cache.view(6, 64, 1, 132),
        torch.randn(3, 64, generator=generator), torch.tensor([200, 64, 1], dtype=torch.int32),
        torch.tensor([[0, 1, 2, 3], [4, 5, 0, 0], [3, 0, 0, 0]], dtype=torch.int32), None, 256, clean_logits=False,
    )  # fmt: skip


load_plugins()
for name in (
    "sglang.kernels.ops.attention.flash_mla_sm120_triton", "sglang.kernels.ops.layernorm.mhc",
    "sglang.srt.layers.deep_gemm_wrapper.entrypoint",
):  # fmt: skip
    importlib.import_module(name)
with contextlib.suppress(ImportError):  # where TileLang is not installed
    importlib.import_module("sglang.kernels.ops.attention.dsa.tilelang_kernel")
GENERATOR = torch.Generator().manual_seed(0)
attend(GENERATOR, torch.uint8)
attend(GENERATOR, torch.float8_e4m3fn)
logits(GENERATOR)
