"""The MTP block on the ops of ``ds4_kernels``: see ``ds4bench.embedded.mtp``."""

from __future__ import annotations

from dataclasses import replace

from ds4_kernels import ops
from torch import Tensor

from ds4bench.embedded.batch import Batch
from ds4bench.embedded.caches import LayerCache
from ds4bench.embedded.config import SWA_ONLY
from ds4bench.embedded.device.attention import Plan
from ds4bench.embedded.device.decode import DecodePlan, DecodeShape
from ds4bench.embedded.device.graphs import StepBuffers
from ds4bench.embedded.device.model import Block, DeviceModel, Head
from ds4bench.embedded.device.plan import StepPlan
from ds4bench.embedded.device.weights import ModelWeights, quantise
from ds4bench.embedded.weights import MTP_PREFIX


class DeviceMtpBlock:
    """A window-only block over a cache of its own; embedding and vocabulary matrix are the model's."""

    def __init__(self, model: DeviceModel, weights: ModelWeights) -> None:
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
        return self._run(StepPlan(batch, self.config, self.device), streams, cache)

    def decode(self, buffers: StepBuffers, shape: DecodeShape, cache: LayerCache) -> tuple[Tensor, Tensor]:
        """Streams and logits of single tokens, all from buffers: see ``DeviceModel.decode``."""
        assert buffers.before is not None
        streams = self._run(DecodePlan(buffers.rows, self.config, shape), buffers.before, cache)
        return streams, self.head(streams)

    def _run(self, plan: Plan, streams: Tensor, cache: LayerCache) -> Tensor:
        eps = self.config.norm_eps
        token = self.embed_proj(quantise(ops.rms_norm(self.embed[plan.token_ids], self.embed_norm, eps)))
        past = self.streams_proj(quantise(ops.rms_norm(streams.flatten(0, 1), self.streams_norm, eps)))
        return self.block(past.view_as(streams).add_(token.unsqueeze(1)), plan, cache)
