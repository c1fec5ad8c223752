"""The training model: the engine's decoder and MTP block over a batch of whole sequences that start at position 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ds4bench.embedded.config import SWA_ONLY, ModelConfig
from ds4bench.embedded.model import rope_tables
from ds4bench.embedded.training import quantise
from ds4bench.embedded.training.attention import Attention, Lessons
from ds4bench.embedded.training.layers import (
    HeadConnection,
    HyperConnection,
    Linear,
    MoE,
    Norm,
    Precision,
)
from ds4bench.embedded.training.streams import write_streams


@dataclass
class Output:
    """``logits [B, S, V]`` of the next token, ``mtp_logits`` of the one after it, the indexer's mean loss; FP32."""

    logits: Tensor
    mtp_logits: Tensor
    index_loss: Tensor


class Block(nn.Module):
    """Attention, then MoE, between hyper-connections."""

    def __init__(self, config: ModelConfig, ratio: int, *, hashed: bool) -> None:
        super().__init__()
        self.ratio = ratio
        self.attn = Attention(config, ratio)
        self.ffn = MoE(config, hashed=hashed)
        self.attn_norm = Norm(config.dim, config.norm_eps)
        self.ffn_norm = Norm(config.dim, config.norm_eps)
        self.hc_attn = HyperConnection(config)
        self.hc_ffn = HyperConnection(config)

    def forward(self, streams: Tensor, ids: Tensor, rope: Tensor, precision: Precision, lessons: Lessons) -> Tensor:
        """streams FP32 ``[B S, 4, D]``, ids ``[B, S]`` -> the same shape as streams."""
        x, post, comb = self.hc_attn(streams)
        x = self.attn(self.attn_norm(x).view(*ids.shape, -1), rope, precision, lessons).flatten(0, 1)
        streams = write_streams(x, streams, post, comb)
        x, post, comb = self.hc_ffn(streams)
        x = self.ffn(self.ffn_norm(x), ids.flatten(), precision)
        out: Tensor = write_streams(x, streams, post, comb)
        return out


class MTP(nn.Module):
    """The block that predicts one token further (kernels.md 1.9)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.block = Block(config, SWA_ONLY, hashed=False)
        self.enorm = Norm(config.dim, config.norm_eps)
        self.hnorm = Norm(config.dim, config.norm_eps)
        self.e_proj = Linear(config.dim, config.dim)
        self.h_proj = Linear(config.dim, config.dim)
        self.norm = Norm(config.dim, config.norm_eps)
        self.hc_head = HeadConnection(config)

    def forward(self, streams: Tensor, embedded: Tensor, ids: Tensor, rope: Tensor, precision: Precision) -> Tensor:
        """Streams after the block, from streams ``[N, 4, D]`` and the embeddings ``[N, D]`` of the next tokens ``ids``."""
        e, h = self.enorm(embedded), self.hnorm(streams)
        if precision.quantise:
            e, h = quantise.activation(e), quantise.activation(h)
        mixed = self.e_proj(e, precision).float().unsqueeze(1) + self.h_proj(h, precision).float()
        out: Tensor = self.block(mixed, ids, rope, precision, Lessons())
        return out


class TrainingModel(nn.Module):
    """All parameters FP32; ``precision`` says how the forward pass computes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.precision = Precision()
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            Block(config, ratio, hashed=i < config.num_hash_layers) for i, ratio in enumerate(config.compress_ratios)
        )
        self.hc_head = HeadConnection(config)
        self.norm = Norm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.mtp = nn.ModuleList([MTP(config)])
        window, compressed = rope_tables(config, torch.float32)
        self.register_buffer("window_rope", window, persistent=False)
        self.register_buffer("compressed_rope", compressed, persistent=False)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Output:
        """ids int64 ``[B, S]``; ``weights [B, S]``: worth of each query in the indexer's lesson (training only)."""
        length = ids.shape[1]
        ids, weights = self._padded(ids), None if weights is None else self._padded(weights)
        lessons = Lessons(weights)
        streams = self._decode(ids, lessons)
        logits = self._logits(streams, self.hc_head, self.norm)
        following = torch.cat((ids[:, 1:], ids[:, :1]), dim=1)  # the last position's next token is not known: no loss
        drafts = self.draft(streams, following)
        mtp_logits = self._logits(drafts, self._mtp.hc_head, self._mtp.norm)
        loss = torch.stack(lessons.index_losses).mean() if lessons.index_losses else logits.new_zeros(())
        shape = (*ids.shape, -1)
        return Output(logits.view(shape)[:, :length], mtp_logits.view(shape)[:, :length], loss)

    def draft(self, streams: Tensor, following: Tensor) -> Tensor:
        """The MTP block's streams from ``streams [B S, 4, D]`` and the token after each position ``[B, S]``."""
        embedded = self.embed(following).flatten(0, 1)
        rope = self.get_buffer("window_rope")[: following.shape[1]]
        out: Tensor = self._mtp(streams, embedded, following, rope, self.precision)
        return out

    @torch.no_grad()
    def choices(self, ids: Tensor) -> Tensor:
        """The likeliest next token at every position, int64 ``[B, S]``, without the MTP block."""
        streams = self._decode(self._padded(ids), Lessons())
        best = self._logits(streams, self.hc_head, self.norm).argmax(-1)
        return best.view(ids.shape[0], -1)[:, : ids.shape[1]]

    @torch.no_grad()
    def drafts(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What the MTP block proposes in its first and second step, int64 ``[B, S]`` each, with ``ids`` as the true text.

        Entry i of the first is for token i + 2, of the second for token i + 3. In the second step the keys of earlier
        positions are those of second steps too; in a serve they are those of first steps.
        """
        length = ids.shape[1]
        ids = self._padded(ids)
        streams = self._decode(ids, Lessons())
        mtp, found = self._mtp, []
        for shift in (1, 2):
            following = torch.cat((ids[:, shift:], ids[:, :shift]), dim=1)
            streams = self.draft(streams, following)
            best = self._logits(streams, mtp.hc_head, mtp.norm).argmax(-1)
            found.append(best.view(ids.shape)[:, :length])
        return found[0], found[1]

    @property
    def _mtp(self) -> MTP:
        block = self.mtp[0]
        assert isinstance(block, MTP)
        return block

    def balance(self, speed: float) -> None:
        """One step of load balancing of every router."""
        for block in [*self._blocks(), self._mtp.block]:
            if not block.ffn.gate.hashed:
                block.ffn.gate.balance(speed)

    def _blocks(self) -> list[Block]:
        return [block for block in self.layers if isinstance(block, Block)]

    def _decode(self, ids: Tensor, lessons: Lessons) -> Tensor:
        length = ids.shape[1]
        window, compressed = self.get_buffer("window_rope")[:length], self.get_buffer("compressed_rope")[:length]
        streams = self.embed(ids).flatten(0, 1).unsqueeze(1).expand(-1, self.config.hc_mult, -1)
        for block in self._blocks():
            streams = block(streams, ids, compressed if block.ratio else window, self.precision, lessons)
        out: Tensor = streams
        return out

    def _logits(self, streams: Tensor, connection: nn.Module, norm: nn.Module) -> Tensor:
        x = norm(connection(streams)).to(self.precision.products)
        logits: Tensor = torch.nn.functional.linear(x, self.head.weight.to(x.dtype)).float()
        return logits

    def _padded(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, -x.shape[1] % self.config.window))
