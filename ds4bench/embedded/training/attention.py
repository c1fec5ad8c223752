"""Differentiable attention over whole sequences: window, compressed entries, sinks, and the indexer's lesson.

A sequence's length must be a multiple of the window. Scores of the window (banded) and of every compressed entry are
computed densely; what a query must not see is masked. ``precision.sparse`` masks all but the indexer's top-k as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ds4bench.embedded.config import C4A, ModelConfig
from ds4bench.embedded.training import quantise
from ds4bench.embedded.training.hot import Hot
from ds4bench.embedded.training.layers import Linear, Norm, Precision, unit_norm
from ds4bench.embedded.training.rope import rotate

_TIE_BREAK = 1e-30
"""The engine's: among logits of exactly 0, which the ReLU makes common, the earlier entry is taken."""


@dataclass
class Lessons:
    """What a forward pass collects beside its output: the indexer's losses. ``weights [B, S]``: worth of each query."""

    weights: Tensor | None = None
    index_losses: list[Tensor] = field(default_factory=list)


@Hot
def pool(kv: Tensor, score: Tensor) -> Tensor:
    """Per-dimension softmax pooling over the second last dimension."""
    return (torch.softmax(score, dim=-2) * kv).sum(-2)


@Hot
def masked_softmax(scores: Tensor, hidden: Tensor, sink: Tensor, scale: float) -> Tensor:
    """Softmax of ``scale * scores [B, S, H, n]`` where not hidden ``[B, S, 1, n]``; ``sink [H]`` enters the denominator."""
    body = (scores.float() * scale).masked_fill(hidden, -torch.inf)
    sink = sink.float().unsqueeze(-1)
    largest = torch.maximum(body.amax(-1, keepdim=True), sink).detach()
    raised = torch.exp(body - largest)
    return (raised / (raised.sum(-1, keepdim=True) + torch.exp(sink - largest))).to(scores.dtype)


@Hot
def index_logits(scores: Tensor, weights: Tensor) -> Tensor:
    """``sum_h weights[h] relu(scores[h])``: scores ``[B, S, H, n]``, weights ``[B, S, H]`` -> FP32 ``[B, S, n]``."""
    return (torch.relu(scores.float()) * weights.unsqueeze(-1)).sum(2)


@Hot
def attention_share(scores: Tensor, future: Tensor, scale: float) -> Tensor:
    """Attention over entries ``[B, S, n]``, the mean of the heads, from scores ``[B, S, H, n]``; 0 where none is visible."""
    body = (scores.float() * scale).masked_fill(future.unsqueeze(2), -torch.inf)
    share: Tensor = torch.softmax(body, dim=-1).nan_to_num(0.0).mean(2)
    return share


@Hot
def divergence(logits: Tensor, target: Tensor, future: Tensor) -> Tensor:
    """KL(target || softmax(logits)) over the last dimension, 0 where nothing is visible: ``[B, S]``."""
    log_probs = torch.log_softmax(logits, dim=-1).masked_fill(future, 0.0)
    out: Tensor = (torch.special.xlogy(target, target) - target * log_probs).sum(-1).nan_to_num(0.0)
    return out


class Compressor(nn.Module):
    """Pools windows of ``ratio`` tokens into entries (kernels.md 1.6)."""

    def __init__(self, config: ModelConfig, ratio: int, dim: int) -> None:
        super().__init__()
        self.ratio, self.dim = ratio, dim
        self.overlap = 2 if ratio == C4A else 1
        width = self.overlap * dim
        self.wkv = Linear(width, config.dim, stored_fp8=False)
        self.wgate = Linear(width, config.dim, stored_fp8=False)
        self.ape = nn.Parameter(torch.empty(ratio, width))
        self.norm = Norm(dim, config.norm_eps)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """x FP32 ``[B, S, D]`` -> roped entries ``[B, S // ratio, dim]``."""
        count = x.shape[1] // self.ratio
        x = x[:, : count * self.ratio].view(x.shape[0], count, self.ratio, -1)
        kv = torch.nn.functional.linear(x, self.wkv.weight)
        score = torch.nn.functional.linear(x, self.wgate.weight) + self.ape
        if self.overlap == 2:
            kv, score = self._with_previous(kv, 0.0), self._with_previous(score, -torch.inf)
        entries = self.norm(pool(kv, score))
        return rotate(entries, rope[: count * self.ratio : self.ratio].contiguous(), 1.0)

    def _with_previous(self, x: Tensor, absent: float) -> Tensor:
        """The a-half of the window before, then the b-half of the own window: ``[B, n, 8, dim]``."""
        before = torch.nn.functional.pad(x[:, :-1, :, : self.dim], (0, 0, 0, 0, 1, 0), value=absent)
        return torch.cat((before, x[..., self.dim :]), dim=2)


class Indexer(nn.Module):
    """Scores every entry for every query; learns from the attention that it serves, and nothing else learns from it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wq_b = Linear(config.index_heads * config.index_head_dim, config.q_lora_rank)
        self.weights_proj = Linear(config.index_heads, config.dim, stored_fp8=False)
        self.compressor = Compressor(config, C4A, config.index_head_dim)

    def forward(self, x: Tensor, q_latent: Tensor, rope: Tensor, precision: Precision) -> Tensor:
        """Logits FP32 ``[B, S, n]`` of x ``[B, S, D]`` and q_latent ``[B, S, q_lora]`` (quantised already)."""
        config = self.config
        x, q_latent = x.detach(), q_latent.detach()
        q = self.wq_b(q_latent, precision).view(*x.shape[:2], config.index_heads, -1)
        q = rotate(q, rope, 1.0)
        keys = self.compressor(x, rope)
        if precision.quantise:
            q, keys = quantise.index_key(q), quantise.index_key(keys)
        weights = torch.nn.functional.linear(x, self.weights_proj.weight)
        weights = weights * (config.index_head_dim * config.index_heads) ** -0.5
        scores = q.flatten(1, 2).to(precision.products) @ keys.to(precision.products).transpose(1, 2)
        logits: Tensor = index_logits(scores.view(*q.shape[:3], -1), weights)
        return logits


class Attention(nn.Module):
    """One attention block (kernels.md 1.5)."""

    def __init__(self, config: ModelConfig, ratio: int) -> None:
        super().__init__()
        self.config, self.ratio = config, ratio
        q_width = config.num_heads * config.head_dim
        self.wq_a = Linear(config.q_lora_rank, config.dim)
        self.q_norm = Norm(config.q_lora_rank, config.norm_eps)
        self.wq_b = Linear(q_width, config.q_lora_rank)
        self.wkv = Linear(config.head_dim, config.dim)
        self.kv_norm = Norm(config.head_dim, config.norm_eps)
        self.wo_a = Linear(config.o_groups * config.o_lora_rank, q_width // config.o_groups)
        self.wo_b = Linear(config.dim, config.o_groups * config.o_lora_rank)
        self.attn_sink = nn.Parameter(torch.empty(config.num_heads))
        if ratio:
            self.compressor = Compressor(config, ratio, config.head_dim)
        if ratio == C4A:
            self.indexer = Indexer(config)

    def forward(self, x: Tensor, rope: Tensor, precision: Precision, lessons: Lessons) -> Tensor:
        """x FP32 ``[B, S, D]``, rope ``[S, 64]`` -> ``[B, S, D]``."""
        config = self.config
        fake = quantise.activation if precision.quantise else _same
        inputs = fake(x)
        q_latent = fake(self.q_norm(self.wq_a(inputs, precision)))
        q = unit_norm(
            self.wq_b(q_latent, precision).view(*x.shape[:2], config.num_heads, config.head_dim), config.norm_eps
        )
        q = rotate(q, rope, 1.0, precision.products)
        keys = self._stored(rotate(self.kv_norm(self.wkv(inputs, precision)), rope, 1.0), precision)
        entries = self._stored(self.compressor(x, rope), precision) if self.ratio else None
        hidden = None if entries is None else self._hidden(x, q_latent, entries, q, rope, precision, lessons)
        out = self._attend(q, keys, entries, hidden)
        return self._output(rotate(out, rope, -1.0), precision)

    def _stored(self, keys: Tensor, precision: Precision) -> Tensor:
        keys = quantise.attention_key(keys) if precision.quantise else keys
        return keys.to(precision.products)

    def _hidden(
        self,
        x: Tensor,
        q_latent: Tensor,
        entries: Tensor,
        q: Tensor,
        rope: Tensor,
        precision: Precision,
        lessons: Lessons,
    ) -> Tensor:
        """Entries that a query must not see, bool ``[1 or B, S, n]``; teaches the indexer on the way."""
        count = entries.shape[1]
        visible = (torch.arange(x.shape[1], device=x.device) + 1) // self.ratio
        future = (torch.arange(count, device=x.device) >= visible.unsqueeze(1)).unsqueeze(0)
        if self.ratio != C4A or not count:
            return future
        teach = self.training and lessons.weights is not None
        select = precision.sparse and count > self.config.index_topk
        if not teach and not select:
            return future
        with torch.set_grad_enabled(teach):
            logits = self.indexer(x, q_latent, rope, precision).masked_fill(future, -torch.inf)
        if teach:
            lessons.index_losses.append(self._index_loss(logits, q.detach(), entries.detach(), future, lessons))
        if not select:
            return future
        order = torch.arange(count, device=x.device) * _TIE_BREAK
        best = (logits.detach() - order).topk(self.config.index_topk, dim=-1).indices
        return torch.ones_like(logits, dtype=torch.bool).scatter(2, best, False) | future

    def _index_loss(self, logits: Tensor, q: Tensor, entries: Tensor, future: Tensor, lessons: Lessons) -> Tensor:
        """KL(attention over entries, mean of the heads || softmax of the index logits), weighted by query."""
        assert lessons.weights is not None
        with torch.no_grad():
            scores = (q.flatten(1, 2) @ entries.transpose(1, 2)).view(*q.shape[:3], -1)
            target = attention_share(scores, future, self.config.head_dim**-0.5)
        weights = lessons.weights * (~future).any(-1)
        mean: Tensor = (divergence(logits, target, future) * weights).sum() / weights.sum().clamp_min(1e-6)
        return mean

    def _attend(self, q: Tensor, keys: Tensor, entries: Tensor | None, hidden: Tensor | None) -> Tensor:
        """q ``[B, S, H, 512]``, keys ``[B, S, 512]``, entries ``[B, n, 512]`` -> ``[B, S, H, 512]``."""
        batch, length, heads, dim = q.shape
        window = self.config.window
        blocks = length // window
        banded = keys.view(batch, blocks, window, dim)
        before = torch.nn.functional.pad(banded[:, :-1], (0, 0, 0, 0, 1, 0))
        near = torch.cat((before, banded), dim=2)
        scores = q.reshape(batch, blocks, window * heads, dim) @ near.transpose(2, 3)
        parts = [scores.view(batch, length, heads, 2 * window)]
        masks = [self._outside(length, q.device)]
        if entries is not None and hidden is not None and entries.shape[1]:
            parts.append(
                (q.reshape(batch, length * heads, dim) @ entries.transpose(1, 2)).view(batch, length, heads, -1)
            )
            masks.append(hidden)
        mask = torch.cat([m.expand(max(m.shape[0] for m in masks), -1, -1) for m in masks], dim=-1).unsqueeze(2)
        weights = masked_softmax(torch.cat(parts, dim=-1), mask, self.attn_sink, dim**-0.5)
        split = weights[..., : 2 * window].reshape(batch, blocks, window * heads, 2 * window)
        out: Tensor = (split @ near).view(batch, length, heads, dim)
        if len(parts) == 2 and entries is not None:
            far = weights[..., 2 * window :].reshape(batch, length * heads, -1)
            out = out + (far @ entries).view(batch, length, heads, dim)
        return out

    def _outside(self, length: int, device: torch.device) -> Tensor:
        """Rows of the two window blocks that a query must not see: bool ``[1, S, 2 window]``."""
        window = self.config.window
        position = torch.arange(length, device=device).unsqueeze(1)
        column = torch.arange(2 * window, device=device) + (position // window - 1) * window
        return ((column > position) | (column <= position - window) | (column < 0)).unsqueeze(0)

    def _output(self, out: Tensor, precision: Precision) -> Tensor:
        config = self.config
        grouped = out.reshape(*out.shape[:2], config.o_groups, -1)
        if precision.quantise:
            grouped = quantise.activation(grouped)
        matrix = self.wo_a.matrix(precision).view(config.o_groups, config.o_lora_rank, -1)
        latent = torch.einsum("bsgk,gok->bsgo", grouped.to(precision.products), matrix).flatten(2)
        if precision.quantise:
            latent = quantise.activation(latent)
        final: Tensor = self.wo_b(latent, precision).float()
        return final


def _same(x: Tensor) -> Tensor:
    return x
