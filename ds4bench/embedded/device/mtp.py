"""The MTP block on the ops of ``ds4_kernels``: see ``ds4bench.embedded.mtp``."""

from __future__ import annotations

from dataclasses import replace

from ds4_kernels import ops
from torch import Tensor

from ds4bench.embedded.batch import Batch
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import SWA_ONLY
from ds4bench.embedded.device.model import Block, DeviceModel, Head
from ds4bench.embedded.device.plan import StepPlan
from ds4bench.embedded.device.weights import StoredWeights, quantise
from ds4bench.embedded.weights import MTP_PREFIX, Checkpoint


class DeviceMtpBlock:
    """A window-only block over a cache of its own; embedding and vocabulary matrix are the model's."""

    def __init__(self, model: DeviceModel, checkpoint: Checkpoint) -> None:
        weights = StoredWeights(checkpoint, model.device)
        self.config = replace(model.config, compress_ratios=(SWA_ONLY,))
        self.device = model.device
        self.embed = model.embed
        self.embed_norm = weights.tensor(f"{MTP_PREFIX}enorm.weight")
        self.embed_proj = weights.fp8(f"{MTP_PREFIX}e_proj.weight")
        self.streams_norm = weights.tensor(f"{MTP_PREFIX}hnorm.weight")
        self.streams_proj = weights.fp8(f"{MTP_PREFIX}h_proj.weight")
        self.block = Block(self.config, weights, MTP_PREFIX.rstrip("."), SWA_ONLY, model.window_rope)
        self.head = Head(self.config, weights, MTP_PREFIX, model.head.vocabulary)

    def streams(self, batch: Batch, streams: Tensor, cache: LayerCache) -> Tensor:
        """Streams BF16 ``[T, 4, dim]`` of the batch's positions, whose ``token_ids`` are those of the positions behind."""
        plan = StepPlan(batch, self.config, self.device)
        eps = self.config.norm_eps
        token = self.embed_proj(quantise(ops.rms_norm(self.embed[plan.token_ids], self.embed_norm, eps)))
        past = self.streams_proj(quantise(ops.rms_norm(streams.flatten(0, 1), self.streams_norm, eps)))
        return self.block(past.view_as(streams).add_(token.unsqueeze(1)), plan, cache)
