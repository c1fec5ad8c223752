"""Attention in vLLM's DeepSeek-V4: paged caches as vLLM shapes them, its own layer code driving our replacements."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ds4_kernels import layouts, ops
from ds4_kernels.engines.hook import Declined
from ds4_kernels.engines.vllm_ops import attention
from torch import Tensor

HEADS, DIM, WINDOW, TOPK = 4, layouts.HEAD_DIM, 128, 48
SCALE = DIM**-0.5
BACKENDS = ["reference", pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.interpreted])]


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def paged_cache(blocks: int, block_size: int, gap: int) -> Tensor:
    """A cache as vLLM shows it, ``[blocks, block_size, 584]``, with ``gap`` bytes of other layers behind each block."""
    stride = layouts.FP8_DS_MLA.block_stride(block_size) + gap
    raw = torch.full((blocks * stride,), 0xFF, dtype=torch.uint8)
    width = layouts.FP8_DS_MLA.slot_bytes
    return raw.as_strided((blocks, block_size, width), (stride, width, 1))


def store(cache: Tensor, slots: list[int], keys: Tensor) -> Tensor:
    """Write keys into slots byte by byte as kernels.md 2.1 says, and return what a reader must see (FP64)."""
    data, scales = layouts.pack_fp8_ds_mla(keys)
    size = cache.shape[1]
    for row, slot in enumerate(slots):
        block = cache[slot // size].reshape(-1)
        offset = slot % size
        block[offset * 576 : offset * 576 + 576] = data[row]
        block[size * 576 + offset * 8 : size * 576 + offset * 8 + 8] = scales[row]
    return layouts.unpack_fp8_ds_mla(data, scales, torch.float64)


@dataclass
class Batch:
    """Two decoding requests, then two prefilling ones (the first continues a prefix), of one layer with a compress ratio."""

    ratio: int
    seq_lens: tuple[int, ...] = (300, 7, 200, 40)
    query_lens: tuple[int, ...] = (1, 1, 70, 40)
    num_decodes: int = 2
    window_keys: list[Tensor] = field(default_factory=list)
    entries: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.positions = [
            position
            for seq, query in zip(self.seq_lens, self.query_lens, strict=True)
            for position in range(seq - query, seq)
        ]
        self.requests = [r for r, query in enumerate(self.query_lens) for _ in range(query)]
        self.q = randn(len(self.positions), HEADS, DIM, seed=self.ratio).bfloat16()
        self.sink = randn(HEADS, seed=7)
        self.block = 256 // self.ratio if self.ratio > 1 else 1
        self.swa_cache, self.swa_table = paged_cache(24, 64, 576), torch.randperm(24).view(4, 6).int()
        self.cache, self.table = paged_cache(8, self.block, 0), torch.arange(8).flip(0).view(4, 2).int()
        for r, seq in enumerate(self.seq_lens):
            self.window_keys.append(self._fill(self.swa_cache, self.swa_table[r], 64, seq, 10 + r))
            self.entries.append(self._fill(self.cache, self.table[r], self.block, self.compressed(seq), 20 + r))
        self.topk = torch.full((len(self.positions), TOPK), -1, dtype=torch.int32)
        for token, position in enumerate(self.positions):
            visible = self.compressed(position + 1)
            chosen = torch.randperm(visible, generator=torch.Generator().manual_seed(token))[:TOPK]
            if self.ratio == 128:
                chosen = chosen.sort().values
            self.topk[token, : len(chosen)] = chosen

    def compressed(self, tokens: int) -> int:
        """Entries that so many tokens make; a layer of ratio 1 has none."""
        return tokens // self.ratio if self.ratio > 1 else 0

    def _fill(self, cache: Tensor, table: Tensor, size: int, count: int, seed: int) -> Tensor:
        slots = [int(table[i // size]) * size + i % size for i in range(count)]
        return store(cache, slots, randn(count, DIM, seed=seed))

    @property
    def num_decode_tokens(self) -> int:
        return sum(self.query_lens[: self.num_decodes])

    def slots(self, token: int) -> tuple[list[int], list[int]]:
        """Global slots of a token's window and of its compressed entries."""
        r, p = self.requests[token], self.positions[token]
        window = [int(self.swa_table[r][i // 64]) * 64 + i % 64 for i in range(max(0, p - WINDOW + 1), p + 1)]
        chosen = [int(i) for i in self.topk[token] if i >= 0]
        return window, [int(self.table[r][i // self.block]) * self.block + i % self.block for i in chosen]

    def expected(self) -> Tensor:
        """Softmax in FP64 over the keys that each token may see, with the sink in the denominator."""
        out = torch.zeros(len(self.positions), HEADS, DIM, dtype=torch.float64)
        for token, (r, p) in enumerate(zip(self.requests, self.positions, strict=True)):
            chosen = self.topk[token][self.topk[token] >= 0].long()
            keys = torch.cat((self.window_keys[r][max(0, p - WINDOW + 1) : p + 1], self.entries[r][chosen]))
            scores = self.q[token].double() @ keys.T * SCALE
            weights = torch.cat((scores, self.sink.double()[:, None]), dim=1).softmax(dim=1)[:, :-1]
            out[token] = weights @ keys
        return out

    def rows(self, tokens: range, which: int, width: int) -> tuple[Tensor, Tensor]:
        """vLLM's indices ``[T, 1, width]`` (a view of a wider buffer) and lens of window (0) or compressed entries (1)."""
        buffer = torch.full((len(tokens), 1, width + 32), -1, dtype=torch.int32)
        lens = torch.zeros(len(tokens), dtype=torch.int32)
        for row, token in enumerate(tokens):
            found = self.slots(token)[which]
            buffer[row, 0, : len(found)] = torch.tensor(found, dtype=torch.int32)
            lens[row] = len(found)
        return buffer[..., :width], lens


def close(actual: Tensor, expected: Tensor) -> bool:
    cosine = torch.nn.functional.cosine_similarity(actual.double().flatten(), expected.flatten(), dim=0)
    return bool(cosine > 1 - 1e-5) and torch.allclose(actual.double(), expected, atol=2e-2)


def poison(*shape: int) -> Tensor:
    return torch.full(shape, math.nan, dtype=torch.bfloat16)


def engine_op(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the engine's op ran")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ratio", [1, 4, 128])
def test_decode_reads_vllms_pages(monkeypatch: pytest.MonkeyPatch, ratio: int, backend: str) -> None:
    monkeypatch.setenv("DS4_KERNELS", backend)
    batch = Batch(ratio)
    tokens = range(batch.num_decode_tokens)
    indices, lens = batch.rows(tokens, 0, WINDOW)
    extra, extra_lens = batch.rows(tokens, 1, TOPK)
    out = poison(len(tokens), 1, HEADS, DIM)
    result, lse = attention.decode(engine_op)(
        q=batch.q[: len(tokens)].unsqueeze(1), k_cache=batch.swa_cache.unsqueeze(-2), block_table=None, head_dim_v=512,
        tile_scheduler_metadata=None, cache_seqlens=None, is_fp8_kvcache=True, indices=indices, topk_length=lens,
        softmax_scale=SCALE, attn_sink=batch.sink, extra_k_cache=batch.cache.unsqueeze(-2) if ratio > 1 else None,
        extra_indices_in_kvcache=extra if ratio > 1 else None, extra_topk_length=extra_lens if ratio > 1 else None, out=out,
    )  # fmt: skip
    assert close(out[:, 0], batch.expected()[: len(tokens)])
    assert result.data_ptr() == out.data_ptr() and result.shape == out.shape and lse.shape == (len(tokens), HEADS, 1)


@pytest.mark.parametrize("ratio", [1, 4, 128])
def test_the_sm12x_call_reads_prefill_and_decode_from_the_pages(monkeypatch: pytest.MonkeyPatch, ratio: int) -> None:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    batch = Batch(ratio)
    tokens = range(len(batch.positions))
    indices, lens = batch.rows(tokens, 0, WINDOW)
    extra, extra_lens = batch.rows(tokens, 1, TOPK)
    out = poison(len(tokens), HEADS + 4, DIM)
    attention.paged_call(engine_op)(
        query=batch.q, swa_kv_cache=batch.swa_cache.unsqueeze(-2), workspace_buffer=None, sparse_indices=indices,
        compressed_kv_cache=batch.cache.unsqueeze(-2) if ratio > 1 else None, out=out, bmm1_scale=SCALE, sinks=batch.sink,
        kv_layout="NHD", swa_topk_lens=lens, extra_sparse_indices=extra if ratio > 1 else None,
        extra_sparse_topk_lens=extra_lens if ratio > 1 else None,
    )  # fmt: skip
    assert close(out[:, :HEADS], batch.expected())
    assert not out[:, HEADS:].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_prefill_over_the_workspace(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("DS4_KERNELS", backend)
    q, kv, sink = randn(3, HEADS, DIM, seed=1).bfloat16(), randn(40, DIM, seed=2).bfloat16(), randn(HEADS, seed=3)
    indices = torch.tensor([[0, 5, 39, -1], [7, 7, -1, -1], [3, 2, 1, 0]], dtype=torch.int32)
    lens = torch.tensor([3, 2, 0], dtype=torch.int32)
    out = poison(3, HEADS, DIM)
    result, _, lse = attention.prefill(engine_op)(
        q=q,
        kv=kv.view(-1, 1, DIM),
        indices=indices.unsqueeze(1),
        sm_scale=SCALE,
        attn_sink=sink,
        topk_length=lens,
        out=out,
    )
    expected = torch.zeros(3, HEADS, DIM, dtype=torch.float64)
    for token, rows in enumerate(([0, 5, 39], [7, 7])):
        keys = kv[rows].double()
        scores = torch.cat((q[token].double() @ keys.T * SCALE, sink.double()[:, None]), dim=1)
        expected[token] = scores.softmax(dim=1)[:, :-1] @ keys
    assert close(out, expected) and not out[2].any()
    assert result.data_ptr() == out.data_ptr() and (lse[2] == -math.inf).all()


def test_a_call_without_lens_counts_every_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    q, kv = randn(1, 2, DIM, seed=1).bfloat16(), randn(4, 1, DIM, seed=2).bfloat16()
    indices = torch.tensor([[[2, 3]]], dtype=torch.int32)
    out, _, _ = attention.prefill(engine_op)(q, kv, indices, SCALE)
    scores = q[0].double() @ kv[2:, 0].double().T * SCALE
    assert close(out[0], scores.softmax(dim=1) @ kv[2:, 0].double())


def declined(batch: Batch, **changes: Any) -> str:
    given: dict[str, Any] = {
        "q": batch.q[:2].unsqueeze(1), "k_cache": batch.swa_cache.unsqueeze(-2), "block_table": None, "cache_seqlens": None,
        "head_dim_v": 512, "tile_scheduler_metadata": None, "is_fp8_kvcache": True, "indices": torch.zeros(2, 1, 4).int(),
        "topk_length": torch.zeros(2).int(),
    }  # fmt: skip
    result = attention.decode(engine_op)(**(given | changes))
    assert isinstance(result, Declined)
    return result.reason


def test_what_we_cannot_do_goes_back_to_the_engine() -> None:
    batch = Batch(1)
    assert "not the sparse FP8 decode" in declined(batch, indices=None)
    assert "not the sparse FP8 decode" in declined(batch, q=batch.q[:2].unsqueeze(0))
    assert "not the sparse FP8 decode" in declined(batch, enable_batch_invariant=True)
    assert declined(batch, q=torch.zeros(2, 1, 4, 512)) == "q is torch.float32"
    assert declined(batch, q=torch.zeros(2, 1, 4, 576, dtype=torch.bfloat16)) == "heads of 576 dimensions"
    wide = torch.zeros(2, 64, 1, 656, dtype=torch.uint8)  # DeepSeek-V3.2's format
    assert "not fp8_ds_mla" in declined(batch, k_cache=wide)
    assert "not fp8_ds_mla" in declined(batch, extra_k_cache=batch.cache.unsqueeze(-2).view(torch.int8))
    assert declined(batch, k_cache=torch.zeros(2, 48, 1, 584, dtype=torch.uint8)) == "48 slots a block"
    assert "out is" in declined(batch, out=torch.zeros(2, 1, 8, 512, dtype=torch.bfloat16)[:, :, ::2])
    sm10x = attention.paged_call(engine_op)(query=batch.q, swa_kv_cache=None, sparse_topk_lens=torch.zeros(1), out=None)
    assert isinstance(sm10x, Declined) and "SM12x" in sm10x.reason


# ---- vLLM's own layer code -------------------------------------------------------------------------------------------


def extract(path: Path, names: list[str], namespace: dict[str, Any]) -> dict[str, Any]:
    """Run the definitions of ``names`` from a source file, without its imports, in ``namespace``."""
    tree = ast.parse(path.read_text())
    wanted = [node for node in tree.body if getattr(node, "name", None) in names]
    assert [node.name for node in wanted] == names  # type: ignore[attr-defined]
    module = ast.Module([ast.parse("from __future__ import annotations").body[0], *wanted], [])
    exec(compile(module, str(path), "exec"), namespace)
    return namespace


class Workspace:
    """vLLM's workspace manager: one poisoned buffer for every request."""

    def get_simultaneous(self, *specs: tuple[tuple[int, ...], torch.dtype]) -> list[Tensor]:
        return [torch.full(shape, math.nan if dtype.is_floating_point else -9, dtype=dtype) for shape, dtype in specs]


def gather(
    out: Tensor, cache: Tensor, seq_lens: Tensor, gather_lens: Any, block_table: Tensor, block_size: int, offset: int
) -> None:
    ops.cache_gather(attention.planar(cache.unsqueeze(-2)), block_size, seq_lens, gather_lens, block_table, offset, out)


def combine(
    *args: Any, out: Any = None, left_visible: Any = None, right_visible: Any = None, max_image_tokens: int = 0
) -> Any:
    assert left_visible is None and right_visible is None and max_image_tokens == 0
    return ops.combine_topk_swa(*args)


def global_topk(topk: Tensor, token_to_req: Tensor, table: Tensor, block_size: int, valid: Tensor) -> Any:
    return ops.global_topk_slots(topk, token_to_req[: topk.shape[0]], table, block_size, valid)


def layer_class(root: Path, version: str, context: SimpleNamespace) -> type:
    """vLLM's ``DeepseekV4FlashMLAAttention`` on an empty base, its calls bound to our replacements."""
    nvidia = root / "vllm/models/deepseek_v4/nvidia"
    namespace: dict[str, Any] = {
        "torch": torch, "cast": lambda kind, value: value, "DeepseekV4Attention": object, "DeepseekV4FlashMLABackend": None,
        "DeepseekV4FlashMLAMetadata": int, "get_forward_context": lambda: context, "ClassVar": Any,
        "DeepseekSparseSWAFlashMLABackend": None, "DeepseekV4SparseMLABackend": None,
        "current_workspace_manager": Workspace, "dequantize_and_gather_k_cache": gather,
        "combine_topk_swa_indices": combine, "compute_global_topk_indices_and_lens": global_topk,
        "flash_mla_sparse_fwd": attention.prefill(engine_op), "flash_mla_with_kvcache": attention.decode(engine_op),
        "round_up": lambda value, multiple: -(-value // multiple) * multiple,
    }  # fmt: skip
    return extract(nvidia / "flashmla.py", ["DeepseekV4FlashMLAAttention"], namespace)["DeepseekV4FlashMLAAttention"]


def swa_metadata(root: Path, batch: Batch) -> Any:
    """vLLM's own metadata class, filled by hand as its builder fills it."""
    namespace: dict[str, Any] = {
        "torch": torch, "dataclass": dataclass, "field": field, "cdiv": lambda a, b: -(-a // b), "__name__": __name__,
    }  # fmt: skip
    path = root / "vllm/v1/attention/backends/mla/sparse_swa.py"
    kind = extract(path, ["DeepseekSparseSWAMetadata"], namespace)["DeepseekSparseSWAMetadata"]
    n, t = batch.num_decodes, batch.num_decode_tokens
    starts = torch.tensor([0, *torch.tensor(batch.query_lens).cumsum(0).tolist()], dtype=torch.int32)
    seq, query = torch.tensor(batch.seq_lens, dtype=torch.int32), torch.tensor(batch.query_lens, dtype=torch.int32)
    decode, decode_lens = batch.rows(range(t), 0, WINDOW)
    return kind(
        block_table=batch.swa_table, slot_mapping=torch.zeros(len(batch.positions), dtype=torch.int64), block_size=64,
        seq_lens=seq, query_start_loc=starts, query_start_loc_cpu=starts,
        is_valid_token=torch.ones(len(batch.positions), dtype=torch.bool),
        token_to_req_indices=torch.tensor(batch.requests, dtype=torch.int32), decode_swa_indices=decode,
        decode_swa_lens=decode_lens, num_decodes=n, num_prefills=len(batch.seq_lens) - n, num_decode_tokens=t,
        num_prefill_tokens=len(batch.positions) - t, prefill_seq_lens=seq[n:], prefill_seq_lens_cpu=seq[n:],
        prefill_gather_lens=query[n:] + (seq[n:] - query[n:]).clamp(max=WINDOW - 1), prefill_query_lens_cpu=query[n:],
        prefill_window_size=WINDOW, prefill_max_model_len=1024, prefill_max_num_batched_tokens=256,
        tile_sched_swaonly=object(), tile_sched_c4a=object(), tile_sched_c128a=object(),
    )  # fmt: skip


def compressed_metadata(batch: Batch) -> Any:
    t = batch.num_decode_tokens
    slots, lens = batch.rows(range(t), 1, TOPK)
    return SimpleNamespace(
        block_table=batch.table, block_size=256, c128a_global_decode_topk_indices=slots, c128a_decode_topk_lens=lens,
        c128a_prefill_topk_indices=batch.topk[t:],
    )  # fmt: skip


def layer(kind: type, batch: Batch) -> Any:
    made = kind.__new__(kind)
    for name, value in {
        "compress_ratio": batch.ratio, "prefix": "layer",
        "swa_cache_layer": SimpleNamespace(prefix="swa", kv_cache=batch.swa_cache),
        "kv_cache": batch.cache, "topk_indices_buffer": batch.topk, "attn_sink": batch.sink, "scale": SCALE,
        "window_size": WINDOW, "max_model_len": 1024, "max_num_batched_tokens": 256, "max_image_tokens": 0,
        "PREFILL_CHUNK_SIZE": 4,
    }.items():  # fmt: skip
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("ratio", [1, 4, 128])
@pytest.mark.parametrize("version", ["0.25.0", "0.33.0"])
def test_vllms_own_layer_drives_our_kernels(
    monkeypatch: pytest.MonkeyPatch, vllm_sources: Callable[[str], Path], version: str, ratio: int
) -> None:
    """A mixed batch through the real ``forward_mqa``: decode from the pages, prefill through gather and workspace."""
    monkeypatch.setenv("DS4_KERNELS", "reference")
    root, batch = vllm_sources(version), Batch(ratio)
    metadata: dict[str, Any] = {"swa": swa_metadata(root, batch)}
    if ratio > 1:
        metadata["layer"] = compressed_metadata(batch)
    if version == "0.33.0":
        metadata["swa"].prefill_left_visible = metadata["swa"].prefill_right_visible = None
    made = layer(layer_class(root, version, SimpleNamespace(attn_metadata=metadata)), batch)
    out = poison(len(batch.positions), HEADS, DIM)
    made.forward_mqa(batch.q, None, torch.tensor(batch.positions), out)
    assert close(out, batch.expected())


@pytest.mark.parametrize("version", ["0.25.0", "0.33.0"])
def test_a_profile_run_gives_zeros(vllm_sources: Callable[[str], Path], version: str) -> None:
    batch = Batch(4)
    made = layer(layer_class(vllm_sources(version), version, SimpleNamespace(attn_metadata=None)), batch)
    out = poison(3, HEADS, DIM)
    made.forward_mqa(batch.q[:3], None, torch.arange(3), out)
    assert not out.any()
