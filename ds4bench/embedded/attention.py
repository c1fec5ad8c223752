"""DeepSeek-V4 attention: one shared key-value head, a sliding window, and compressed entries of the whole past.

Three kinds of layer, by compress ratio: 0 sees the window only; 4 (C4A) adds the entries that its indexer selects;
128 (C128A) adds every entry. Keys always go through the paged cache, so what a query sees is what the bytes say.
"""

from __future__ import annotations

import torch
from ds4_kernels.reference import attention as ops
from ds4_kernels.reference import compressor as pooling
from ds4_kernels.reference import indexer as selection
from ds4_kernels.reference import quant
from ds4_kernels.reference.norm_rope import apply_rope_, rms_norm
from ds4_kernels.reference.precision import bf16_products
from torch import Tensor

from ds4bench.embedded.batch import Batch, Segment, entry_slots
from ds4bench.embedded.caches import IndexCache, KeyCache, LayerCache, StateRing
from ds4bench.embedded.config import C4A, ModelConfig
from ds4bench.embedded.layers import ACTIVATION_GROUP, Linear
from ds4bench.embedded.weights import Weights

Queries = tuple[Tensor, Tensor]
"""The indexer's: q ``[T, heads, 128]`` and weights ``[T, heads]``."""


class Compressor:
    """Pools windows of tokens into entries and knows which entries a step completes."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, ratio: int, rope: Tensor) -> None:
        self.ratio = ratio
        self.reach = pooling.overlap(ratio) * ratio  # tokens that one entry reads
        self.rope = rope
        self.eps = config.norm_eps
        self.projection = torch.cat((weights.matrix(f"{prefix}.wkv.weight"), weights.matrix(f"{prefix}.wgate.weight")))
        self.ape = weights.matrix(f"{prefix}.ape")
        self.norm = weights.matrix(f"{prefix}.norm.weight")

    def __call__(self, x: Tensor, batch: Batch, ring: StateRing) -> tuple[Tensor, Tensor]:
        """Take in the step's tokens ``x [T, dim]``: (completed entries ``[n, d]``, their slots ``[n]``)."""
        both = torch.nn.functional.linear(x, self.projection)
        kv = both[:, : ring.width]
        score = both[:, ring.width :] + self.ape[batch.positions % self.ratio]
        parts = [self._decode(kv, score, batch, ring)] if batch.num_decodes else []
        parts += [self._segment(kv[s.rows], score[s.rows], s, batch.block_size, ring) for s in batch.segments]
        pooled = torch.cat([p[0] for p in parts])
        entries = torch.cat([p[1] for p in parts])
        slots = torch.cat([p[2] for p in parts])
        if not len(entries):
            return pooled, slots
        keys = rms_norm(pooled, self.norm, self.eps)
        return apply_rope_(keys, self.rope[entries * self.ratio]), slots

    def _decode(self, kv: Tensor, score: Tensor, batch: Batch, ring: StateRing) -> tuple[Tensor, Tensor, Tensor]:
        rows, positions = batch.num_decodes, batch.decode_positions
        ring.write(batch.blocks[:rows], positions, kv[:rows], score[:rows])
        done = torch.where((positions + 1) % self.ratio == 0)[0]
        if not len(done):
            return kv.new_zeros(0, self.norm.shape[0]), done, done
        tables, last = batch.decode_blocks[done], positions[done]
        window = last.unsqueeze(-1) + torch.arange(1 - self.reach, 1)
        blocks = tables.gather(1, window.clamp_min(0) // batch.block_size)
        state = ring.read(blocks.flatten(), window.flatten())
        past_kv, past_score = (part.view(-1, self.reach, ring.width) for part in state)
        entries = last // self.ratio
        slots = entry_slots(tables, entries.unsqueeze(-1), self.ratio, batch.block_size).squeeze(-1)
        return pooling.pool(past_kv, past_score, self.ratio), entries, slots

    def _segment(
        self, kv: Tensor, score: Tensor, segment: Segment, block_size: int, ring: StateRing
    ) -> tuple[Tensor, Tensor, Tensor]:
        start, end, ratio = segment.start, segment.end, self.ratio
        first_entry = start // ratio
        past = torch.arange(first_entry * ratio - (self.reach - ratio), start)
        past_kv, past_score = ring.read(segment.blocks[past.clamp_min(0) // block_size], past)
        entries = torch.arange(first_entry, end // ratio)
        if len(entries):
            windows_kv = pooling.aligned_windows(torch.cat((past_kv, kv)), ratio)
            windows_score = pooling.aligned_windows(torch.cat((past_score, score)), ratio)
            pooled = pooling.pool(windows_kv, windows_score, ratio)
        else:
            pooled = kv.new_zeros(0, self.norm.shape[0])
        # Only tokens that something later can read: the last of the segment and the last of each block in it.
        span = torch.arange(start, end)
        keep = torch.where((span >= end - ring.size) | (span % block_size >= block_size - ring.size))[0]
        ring.write(segment.blocks[span[keep] // block_size], span[keep], kv[keep], score[keep])
        return pooled, entries, entry_slots(segment.blocks, entries, ratio, block_size)


class Indexer:
    """Scores every compressed entry for every query and selects the best ``index_topk``."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, rope: Tensor) -> None:
        self.config = config
        self.rope = rope
        self.wq_b = Linear(weights, f"{prefix}.wq_b.weight", quantize=config.quantize)
        self.weights_proj = weights.matrix(f"{prefix}.weights_proj.weight")
        self.scale = (config.index_head_dim * config.index_heads) ** -0.5
        self.compressor = Compressor(config, weights, f"{prefix}.compressor", C4A, rope)

    def update(self, x: Tensor, batch: Batch, cache: LayerCache) -> None:
        """Write the index keys that the step's tokens complete."""
        assert cache.index is not None and cache.index_ring is not None
        keys, slots = self.compressor(x, batch, cache.index_ring)
        cache.index.write(slots, keys)

    def queries(self, x: Tensor, q_latent: Tensor, positions: Tensor) -> Queries:
        """(q ``[T, heads, 128]`` as e4m3 values, weights ``[T, heads]`` with q's scale and both factors folded in)."""
        q = self.wq_b(q_latent).view(-1, self.config.index_heads, self.config.index_head_dim)
        q = apply_rope_(q, self.rope[positions])
        weights = torch.nn.functional.linear(x, self.weights_proj).mul_(self.scale)
        if not self.config.quantize:
            return q, weights
        values, scale = quant.fp8_quantize(q, self.config.index_head_dim)
        return quant.e4m3_to_float(values, q.dtype), weights * quant.e8m0_value(scale, q.dtype).squeeze(-1)

    def best(self, queries: Queries, cache: IndexCache, slots: Tensor, visible: Tensor) -> Tensor:
        """Picks ``[T, topk]`` of a segment's tokens, -1 = none: token t sees the first ``visible[t]`` of slots ``[N]``."""
        q, weights = queries
        return selection.topk_visible(q, *cache.read(slots), weights, visible, self.config.index_topk)

    def best_of_each(self, queries: Queries, cache: IndexCache, slots: Tensor, visible: Tensor) -> Tensor:
        """Picks ``[B, topk]`` of single tokens, each with its own slots ``[B, N]`` and ``visible [B]``."""
        q, weights = queries
        values, scales = cache.read(slots.flatten())
        scores = torch.bmm(q, values.view(*slots.shape, -1).transpose(1, 2)).relu_()
        logits = torch.bmm(weights.unsqueeze(1), scores).squeeze(1).mul_(scales.view(slots.shape))
        picks = torch.empty(len(slots), self.config.index_topk, dtype=torch.int64)
        selection.select_topk(logits, visible, picks)
        return picks


class Attention:
    """One attention block: projections, caches, sparse attention, grouped low-rank output projection."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, ratio: int, rope: Tensor) -> None:
        self.config = config
        self.ratio = ratio
        self.rope = rope
        self.softmax_scale = config.head_dim**-0.5
        quantize = config.quantize
        self.q_and_kv = torch.cat((weights.matrix(f"{prefix}.wq_a.weight"), weights.matrix(f"{prefix}.wkv.weight")))
        self.q_norm = weights.matrix(f"{prefix}.q_norm.weight")
        self.kv_norm = weights.matrix(f"{prefix}.kv_norm.weight")
        self.wq_b = Linear(weights, f"{prefix}.wq_b.weight", quantize=quantize)
        self.wo_a = weights.matrix(f"{prefix}.wo_a.weight").view(config.o_groups, config.o_lora_rank, -1)
        self.wo_b = Linear(weights, f"{prefix}.wo_b.weight", quantize=quantize)
        self.sink = weights.matrix(f"{prefix}.attn_sink")
        self.compressor = Compressor(config, weights, f"{prefix}.compressor", ratio, rope) if ratio else None
        self.indexer = Indexer(config, weights, f"{prefix}.indexer", rope) if ratio == C4A else None

    def __call__(self, x: Tensor, batch: Batch, cache: LayerCache) -> Tensor:
        """x ``[T, dim]`` -> ``[T, dim]``; writes the step's keys and entries to the cache first."""
        q_latent, q, keys = self._project(x, batch.positions)
        cache.window.write(batch.slots, keys)
        if self.compressor is not None and cache.compressed is not None and cache.ring is not None:
            entries, slots = self.compressor(x, batch, cache.ring)
            cache.compressed.write(slots, entries)
        index: Queries | None = None
        if self.indexer is not None:
            self.indexer.update(x, batch, cache)
            index = self.indexer.queries(x, q_latent, batch.positions)

        out = torch.empty_like(q)
        if batch.num_decodes:
            rows = slice(0, batch.num_decodes)
            out[rows] = self._decode(q[rows], _rows(index, rows), batch, cache)
        for segment in batch.segments:
            out[segment.rows] = self._prefill(q[segment.rows], _rows(index, segment.rows), segment, batch, cache)
        return self._output(out, batch.positions)

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(q latent ``[T, q_lora]``, roped q ``[T, H, 512]``, roped keys ``[T, 512]``)."""
        config = self.config
        inputs = quant.fp8_simulate(x, ACTIVATION_GROUP) if config.quantize else x
        with bf16_products(x.shape[0] if config.quantize else 0):
            both = torch.nn.functional.linear(inputs, self.q_and_kv)
        latent, keys = both[:, : config.q_lora_rank], both[:, config.q_lora_rank :].contiguous()
        q_latent = rms_norm(latent, self.q_norm, config.norm_eps)
        q = self.wq_b(q_latent).view(-1, config.num_heads, config.head_dim)
        cos_sin = self.rope[positions]
        q = apply_rope_(rms_norm(q, None, config.norm_eps), cos_sin)
        return q_latent, q, apply_rope_(rms_norm(keys, self.kv_norm, config.norm_eps), cos_sin)

    def _output(self, out: Tensor, positions: Tensor) -> Tensor:
        config = self.config
        apply_rope_(out, self.rope[positions], inverse=True)
        grouped = out.view(out.shape[0], config.o_groups, -1)
        if config.quantize:
            grouped = quant.fp8_simulate(grouped, ACTIVATION_GROUP)
        with bf16_products(out.shape[0] if config.quantize else 0):
            latent = torch.bmm(grouped.transpose(0, 1), self.wo_a.transpose(1, 2)).transpose(0, 1)
        return self.wo_b(latent.reshape(out.shape[0], -1))

    def _prefill(self, q: Tensor, index: Queries | None, segment: Segment, batch: Batch, cache: LayerCache) -> Tensor:
        states = [self.window_of_segment(q, segment, batch, cache)]
        count = segment.end // self.ratio if self.ratio else 0
        if count and cache.compressed is not None:
            slots = entry_slots(segment.blocks, torch.arange(count), self.ratio, batch.block_size)
            entries = cache.compressed.read(slots)
            visible = (torch.arange(segment.start, segment.end) + 1) // self.ratio
            if index is None:
                states.append(ops.accumulate_dense(q, entries, visible, self.softmax_scale))
            else:
                assert self.indexer is not None and cache.index is not None
                picks = self.indexer.best(index, cache.index, slots, visible)
                states.append(ops.accumulate_indexed(q, entries, picks, self.softmax_scale))
        return self.merge(states)

    def _decode(self, q: Tensor, index: Queries | None, batch: Batch, cache: LayerCache) -> Tensor:
        positions = batch.decode_positions.unsqueeze(-1)
        past = self.window_of_tokens(positions)
        keys = [self._gather(cache.window, past, 1, batch)]
        valid = [past >= 0]
        if cache.compressed is not None:
            entries = self._decode_entries(index, positions, batch, cache)
            keys.append(self._gather(cache.compressed, entries, self.ratio, batch))
            valid.append(entries >= 0)
        return self.merge([ops.accumulate_gathered(q, torch.cat(keys, 1), torch.cat(valid, 1), self.softmax_scale)])

    def window_of_segment(self, q: Tensor, segment: Segment, batch: Batch, cache: LayerCache) -> ops.SoftmaxState:
        """The sliding window's part of the attention of a segment's queries."""
        history = min(segment.start, self.config.window - 1)
        past = torch.arange(segment.start - history, segment.end)
        keys = cache.window.read(entry_slots(segment.blocks, past, 1, batch.block_size))
        return ops.accumulate_window(q, keys, self.config.window, history, self.softmax_scale)

    def window_of_tokens(self, positions: Tensor) -> Tensor:
        """Positions ``[B, window]`` that single tokens at ``positions [B, 1]`` see in the window; negative = none."""
        return positions - torch.arange(self.config.window)

    def merge(self, states: list[ops.SoftmaxState]) -> Tensor:
        """Attention ``[T, H, 512]`` over subsets of the keys as one; the sink counts in the denominator."""
        return ops.finish(states, self.sink)[0]

    def _decode_entries(self, index: Queries | None, positions: Tensor, batch: Batch, cache: LayerCache) -> Tensor:
        """Visible compressed entries ``[B, n]`` of each single-token row, -1 = none."""
        visible = (positions + 1) // self.ratio
        entries = torch.arange(int(visible.max())).expand(len(positions), -1)
        if index is None or entries.shape[1] <= self.config.index_topk:
            return torch.where(entries < visible, entries, -1)
        assert self.indexer is not None and cache.index is not None
        slots = entry_slots(
            batch.decode_blocks, torch.where(entries < visible, entries, 0), self.ratio, batch.block_size
        )
        return self.indexer.best_of_each(index, cache.index, slots, visible.squeeze(-1))

    def _gather(self, cache: KeyCache, entries: Tensor, ratio: int, batch: Batch) -> Tensor:
        slots = entry_slots(batch.decode_blocks, entries, ratio, batch.block_size)
        return cache.read(slots.flatten()).view(*entries.shape, self.config.head_dim)


def _rows(index: Queries | None, rows: slice) -> Queries | None:
    return None if index is None else (index[0][rows], index[1][rows])
