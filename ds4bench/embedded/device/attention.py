"""DeepSeek-V4 attention on the ops: keys go to the paged caches as bytes, and every query reads those bytes.

Segments gather what they see into a BF16 workspace; single tokens read the caches where they are.
"""

from __future__ import annotations

import torch
from ds4_kernels import ops
from ds4_kernels.reference.compressor_store import Kind
from torch import Tensor

from ds4bench.embedded.caches import IndexCache, KeyCache, LayerCache, StateRing
from ds4bench.embedded.config import C4A, C128A, ModelConfig
from ds4bench.embedded.device.decode import DecodePlan
from ds4bench.embedded.device.plan import DecodeRows, IndexList, IndexRanges, PrefillGroup, StepPlan
from ds4bench.embedded.device.state import StateRows
from ds4bench.embedded.device.weights import Fp8Activation, Fp32Matrix, ModelWeights, quantise

SCORE_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
"""Indexer scores of a prefill are computed in row chunks of at most this size (kernels.md 2.3.1: 64 MiB, so that a serve's
workspace stays small; a GPU gets more, since each chunk reads the keys again)."""

Plan = StepPlan | DecodePlan


class Compressor:
    """Pools windows of tokens into entries and stores them. Its projection is part of the layer's FP32 projection."""

    def __init__(
        self, config: ModelConfig, weights: ModelWeights, prefix: str, ratio: int, rope: Tensor, kind: Kind
    ) -> None:
        self.ratio = ratio
        self.rope = rope
        self.kind = kind
        self.eps = config.norm_eps
        self.projected = [f"{prefix}.wkv.weight", f"{prefix}.wgate.weight"]
        self.ape = weights.tensor(f"{prefix}.ape")
        self.norm = weights.tensor(f"{prefix}.norm.weight")

    def __call__(self, both: Tensor, plan: Plan, ring: StateRing, cache: KeyCache | IndexCache) -> None:
        """Take in the step's tokens, FP32 ``[T, kv | score]``, and store the entries that they complete."""
        state = plan.states[self.ratio]
        if state.decode is not None:
            self._store(both, plan, state.decode, ring.rows.view(-1, ring.size, 2 * ring.width), cache)
        scratch = state.scratch
        if scratch is not None:
            rows = ring.rows.new_empty(scratch.blocks * ring.size, 2 * ring.width)
            rows.index_copy_(0, scratch.past_scratch, ring.rows.index_select(0, scratch.past_ring))
            self._store(both, plan, scratch.state, rows.view(-1, ring.size, 2 * ring.width), cache)
            ring.rows.index_copy_(0, scratch.kept_ring, rows.index_select(0, scratch.kept_scratch))

    def _store(self, both: Tensor, plan: Plan, where: StateRows, state: Tensor, cache: KeyCache | IndexCache) -> None:
        rows, width = where.rows, state.shape[2] // 2
        positions = plan.positions[rows]
        ops.state_save(both[rows, :width], both[rows, width:], self.ape, positions, where.slots, state)
        ops.compress_store(
            state, where.table, where.token_to_req, positions, plan.states[self.ratio].entry_slots[rows], self.norm,
            self.eps, self.rope, self.ratio, cache.data, cache.slots_per_block, self.kind,
        )  # fmt: skip


class Indexer:
    """Scores every compressed entry for every query and selects the best ``index_topk``."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, prefix: str, rope: Tensor) -> None:
        self.topk = config.index_topk
        self.shape = (-1, config.index_heads, config.index_head_dim)
        self.rope = rope
        self.wq_b = weights.fp8(f"{prefix}.wq_b.weight")
        self.head_weights = f"{prefix}.weights_proj.weight"
        self.compressor = Compressor(config, weights, f"{prefix}.compressor", C4A, rope, "indexer")

    def queries(self, latent: Fp8Activation, head_weights: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(q e4m3 ``[T, heads, 128]``, weights FP32 ``[T, heads]`` with q's scale and both factors folded in)."""
        q, weights = ops.indexer_query(
            self.wq_b(latent).view(self.shape), head_weights.contiguous(), positions, self.rope
        )
        return q, weights

    def decode(self, q: Tensor, weights: Tensor, rows: DecodeRows, cache: IndexCache) -> IndexList:
        """Cache slots that each single-token row attends to."""
        logits = ops.mqa_logits_paged(
            q[rows.rows].unsqueeze(1), cache.data, cache.slots_per_block, weights[rows.rows], rows.indexed_lens,
            rows.block_table, rows.max_indexed,
        )  # fmt: skip
        return rows.indexed(logits, self.topk)

    def prefill(self, q: Tensor, weights: Tensor, group: PrefillGroup, cache: IndexCache) -> IndexList:
        """Workspace rows that each token of the group attends to."""
        ranges = group.index
        assert ranges is not None
        keys = torch.empty(ranges.num_keys, q.shape[-1], dtype=torch.float8_e4m3fn, device=q.device)
        scales = torch.empty(ranges.num_keys, dtype=torch.float32, device=q.device)
        ops.indexer_gather(
            cache.data, cache.slots_per_block, ranges.entry_lens, group.block_table, ranges.starts, keys, scales
        )
        picks = self._best(q[group.rows], weights[group.rows], keys, scales, ranges)
        return group.combined(picks, C4A, self.topk)

    def _best(self, q: Tensor, weights: Tensor, keys: Tensor, scales: Tensor, ranges: IndexRanges) -> Tensor:
        picks = torch.empty(q.shape[0], self.topk, dtype=torch.int32, device=q.device)
        step = max(1, SCORE_BYTES[q.device.type] // (4 * ranges.max_keys))
        for begin in range(0, q.shape[0], step):
            part = slice(begin, begin + step)
            logits = ops.mqa_logits_ragged(
                q[part], keys, scales, weights[part], ranges.row_starts[part], ranges.row_ends[part],
                compressed_width=ranges.max_keys,
            )  # fmt: skip
            logits.sub_(ranges.tie_break)
            ops.topk_prefill(logits, ranges.zeros[part], ranges.visible[part], self.topk, out=picks[part])
        return picks


class Attention:
    """One attention block: projections, caches, sparse attention, grouped low-rank output projection."""

    def __init__(self, config: ModelConfig, weights: ModelWeights, prefix: str, ratio: int, rope: Tensor) -> None:
        self.config = config
        self.ratio = ratio
        self.rope = rope
        self.q_and_kv = weights.fp8(f"{prefix}.wq_a.weight", f"{prefix}.wkv.weight")
        self.q_norm = weights.tensor(f"{prefix}.q_norm.weight")
        self.kv_norm = weights.tensor(f"{prefix}.kv_norm.weight")
        self.wq_b = weights.fp8(f"{prefix}.wq_b.weight")
        wo_a = weights.fp8(f"{prefix}.wo_a.weight")
        self.wo_a = wo_a.values.view(config.o_groups, config.o_lora_rank, -1)
        self.wo_a_scale = wo_a.scale.view(config.o_groups, -1, wo_a.scale.shape[1])
        self.wo_b = weights.fp8(f"{prefix}.wo_b.weight")
        self.sink = weights.tensor(f"{prefix}.attn_sink")
        self.compressor = Compressor(config, weights, f"{prefix}.compressor", ratio, rope, "mla") if ratio else None
        self.indexer = Indexer(config, weights, f"{prefix}.indexer", rope) if ratio == C4A else None
        self.projection, self.widths = self._fp32_projection(weights)

    def __call__(self, x: Tensor, plan: Plan, cache: LayerCache) -> Tensor:
        """x BF16 ``[T, dim]`` -> BF16 ``[T, dim]``; writes the step's keys and entries to the caches first."""
        config, eps = self.config, self.config.norm_eps
        both = self.q_and_kv(quantise(x))
        latent = quantise(ops.rms_norm(both[:, : config.q_lora_rank], self.q_norm, eps))
        q = self.wq_b(latent).view(-1, config.num_heads, config.head_dim)
        ops.query_norm_rope(q, plan.positions, self.rope, eps, q)
        kv = ops.rms_norm(both[:, config.q_lora_rank :], self.kv_norm, eps)
        ops.kv_rope_insert(kv, plan.positions, self.rope, cache.window.data, plan.slots, plan.block_size)
        index = self._compress(x, latent, plan, cache)
        parts = []
        if plan.decode is not None:
            parts.append(self._decode(q, index, plan.decode, cache))
        parts += [self._prefill(q, index, group, cache) for group in plan.groups]
        return self._output(parts[0] if len(parts) == 1 else torch.cat(parts), plan.positions)

    def _fp32_projection(self, weights: ModelWeights) -> tuple[Fp32Matrix | None, list[int]]:
        """What is projected in FP32, as one matrix: the compressor's kv and score, the indexer's, its head weights."""
        if self.compressor is None:
            return None, []
        names = [self.compressor.projected]
        if self.indexer is not None:
            names += [self.indexer.compressor.projected, [self.indexer.head_weights]]
        groups = [torch.cat([weights.tensor(name) for name in group]) for group in names]
        return Fp32Matrix(torch.cat(groups)), [group.shape[0] for group in groups]

    def _compress(
        self, x: Tensor, latent: Fp8Activation, plan: Plan, cache: LayerCache
    ) -> tuple[Tensor, Tensor] | None:
        """Store the entries that the step completes; the indexer's queries where there is one."""
        if self.compressor is None or self.projection is None:
            return None
        assert cache.ring is not None and cache.compressed is not None
        parts = torch.split(self.projection(x), self.widths, dim=1)
        self.compressor(parts[0], plan, cache.ring, cache.compressed)
        if self.indexer is None:
            return None
        assert cache.index_ring is not None and cache.index is not None
        self.indexer.compressor(parts[1], plan, cache.index_ring, cache.index)
        return self.indexer.queries(latent, parts[2], plan.positions)

    def _decode(self, q: Tensor, index: tuple[Tensor, Tensor] | None, rows: DecodeRows, cache: LayerCache) -> Tensor:
        entries: IndexList | None = None
        if self.ratio == C128A:
            entries = rows.every
        elif self.indexer is not None and index is not None and cache.index is not None and rows.max_indexed:
            entries = self.indexer.decode(*index, rows, cache.index)
        extra = {}
        if entries is not None and cache.compressed is not None:
            extra = {
                "extra_cache": cache.compressed.data,
                "extra_block_size": cache.compressed.slots_per_block,
                "extra_slots": entries[0],
                "extra_lens": entries[1],
            }
        out: Tensor = ops.sparse_attention_decode(
            q[rows.rows], cache.window.data, cache.window.slots_per_block, *rows.window, self.sink, **extra
        )[0]
        return out

    def _prefill(
        self, q: Tensor, index: tuple[Tensor, Tensor] | None, group: PrefillGroup, cache: LayerCache
    ) -> Tensor:
        indices, lens = group.window_only
        space = group.workspace(self.ratio)
        if space.entries and self.ratio == C128A and group.every is not None:
            indices, lens = group.every
        elif space.entries and self.indexer is not None and index is not None and cache.index is not None:
            indices, lens = self.indexer.prefill(*index, group, cache.index)
        keys = q.new_empty(group.num_segments, space.rows, q.shape[-1])
        if space.entries and cache.compressed is not None:
            compressed, counts = cache.compressed, group.seq_lens // self.ratio
            ops.cache_gather(compressed.data, compressed.slots_per_block, counts, None, group.block_table, 0, keys)
        ops.cache_gather(
            cache.window.data, cache.window.slots_per_block, group.seq_lens, group.gather_lens, group.block_table,
            space.entries, keys,
        )  # fmt: skip
        out: Tensor = ops.sparse_attention_prefill(q[group.rows], keys.flatten(0, 1), indices, lens, self.sink)[0]
        return out

    def _output(self, out: Tensor, positions: Tensor) -> Tensor:
        values, scale = ops.inverse_rope_quant(out, positions, self.rope, self.config.o_groups)
        latent = ops.fp8_einsum(values, scale, self.wo_a, self.wo_a_scale)
        return self.wo_b(quantise(latent.flatten(1)))
