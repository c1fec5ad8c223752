"""The model's multi-token prediction (MTP) block: one more decoder block that guesses the token after the next.

At position p it reads the decoder's streams of p and the token at p + 1, and gives logits for p + 2. A further guess
feeds back the block's own streams in place of the decoder's. Formula and tensor names: DeepSeek-V4's inference code.
"""

from __future__ import annotations

from ds4_kernels.reference.norm_rope import rms_norm
from torch import Tensor

from ds4bench.embedded.batch import Batch
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import SWA_ONLY, ModelConfig
from ds4bench.embedded.layers import Linear
from ds4bench.embedded.model import Block, DeepseekV4, Head
from ds4bench.embedded.weights import MTP_PREFIX, Weights


class MtpBlock:
    """A window-only block over a cache of its own; embedding and vocabulary matrix are the model's."""

    def __init__(self, config: ModelConfig, weights: Weights, model: DeepseekV4) -> None:
        self.eps = config.norm_eps
        self.embed = model.embed
        self.embed_norm = weights.matrix(f"{MTP_PREFIX}enorm.weight")
        self.embed_proj = Linear(weights, f"{MTP_PREFIX}e_proj.weight", quantize=config.quantize)
        self.streams_norm = weights.matrix(f"{MTP_PREFIX}hnorm.weight")
        self.streams_proj = Linear(weights, f"{MTP_PREFIX}h_proj.weight", quantize=config.quantize)
        self.block = Block(config, weights, MTP_PREFIX.rstrip("."), SWA_ONLY, model.window_rope)
        self.head = Head(config, weights, MTP_PREFIX, model.head.vocabulary)

    def streams(self, batch: Batch, streams: Tensor, cache: LayerCache) -> Tensor:
        """Streams ``[T, 4, dim]`` of the batch's positions, whose ``token_ids`` are those of the positions behind."""
        token = self.embed_proj(rms_norm(self.embed[batch.token_ids], self.embed_norm, self.eps))
        past = self.streams_proj(rms_norm(streams, self.streams_norm, self.eps).flatten(0, 1)).view_as(streams)
        return self.block(past.add_(token.unsqueeze(1)), batch, cache)
