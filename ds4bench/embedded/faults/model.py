"""Faults of the model: each makes some or all logits wrong.

The last three change weights and tables in place, so they work on every backend and under CUDA graphs; the others wrap
parts of the fused model's attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ds4bench.embedded.config import C4A
from ds4bench.embedded.faults.base import Serve, wrap

if TYPE_CHECKING:
    from ds4_kernels.reference.attention import SoftmaxState
    from torch import Tensor

    from ds4bench.embedded import attention
    from ds4bench.embedded.batch import Segment
    from ds4bench.embedded.device import attention as device_attention

INFINITY = float("inf")


def swa_dropped(serve: Serve, _amount: float) -> None:
    """A row of candidates has ``index_topk`` places: picked entries take them all, and no window is left."""
    first_without = serve.runner.model_config.index_topk * C4A - 1  # the first position that sees index_topk entries

    def of_segment(inner: Callable[..., SoftmaxState]) -> Callable[..., SoftmaxState]:
        def window_of_segment(q: Tensor, segment: Segment, *rest: Any) -> SoftmaxState:
            state = inner(q, segment, *rest)
            dropped = slice(max(0, first_without - segment.start), None)
            state.maximum[dropped] = -INFINITY
            state.denominator[dropped] = 0
            state.accumulator[dropped] = 0
            return state

        return window_of_segment

    def of_tokens(inner: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda positions: inner(positions).masked_fill_(positions >= first_without, -1)

    for layer in _fused_layers(serve):
        if layer.indexer is not None:
            wrap(layer, "window_of_segment", of_segment)
            wrap(layer, "window_of_tokens", of_tokens)


def lse_inf(serve: Serve, _amount: float) -> None:
    """Where a query has no compressed entry yet, that empty subset takes all the weight of the merge."""

    def empty_wins(inner: Callable[[list[SoftmaxState]], Tensor]) -> Callable[[list[SoftmaxState]], Tensor]:
        def merge(states: list[SoftmaxState]) -> Tensor:
            out = inner(states)
            for state in states:
                out.masked_fill_((state.maximum == -INFINITY).unsqueeze(-1), 0)
            return out

        return merge

    for layer in _fused_layers(serve):
        wrap(layer, "merge", empty_wins)


def topk_off_by_one(serve: Serve, _amount: float) -> None:
    """The indexer's picks name the entry before the one that they mean."""

    def one_less(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *arguments: inner(*arguments).sub_(1).clamp_min_(-1)

    for layer in _fused_layers(serve):
        if layer.indexer is not None:
            wrap(layer.indexer, "best", one_less)
            wrap(layer.indexer, "best_of_each", one_less)


def wrong_rope_theta(serve: Serve, _amount: float) -> None:
    """The layers with compressed entries turn with the theta of the window-only layers."""
    import torch

    from ds4bench.embedded.model import rope_tables

    config = serve.runner.model_config
    _, wrong = rope_tables(replace(config, yarn=replace(config.yarn, theta=config.rope_theta)), torch.float64)
    for layer in _layers(serve):
        if layer.ratio:  # its compressor and indexer share the table
            layer.rope.copy_(wrong)


def expert_scale_off(serve: Serve, _amount: float) -> None:
    """The E8M0 scales of the routed experts' second projection are one exponent too high."""
    from ds4bench.embedded.layers import MoE

    for block in serve.runner.model.blocks:
        if isinstance(block.moe, MoE):
            block.moe.w2.mul_(2)
        else:
            block.moe.w2.scale.add_(1)


def drop_sink(serve: Serve, _amount: float) -> None:
    """The sink does not count in the softmax's denominator."""
    for layer in _layers(serve):
        layer.sink.fill_(-INFINITY)


def _layers(serve: Serve) -> Iterator[attention.Attention | device_attention.Attention]:
    """The decoder's attention, without the MTP block's."""
    for block in serve.runner.model.blocks:
        yield block.attention


def _fused_layers(serve: Serve) -> Iterator[attention.Attention]:
    from ds4bench.embedded.attention import Attention

    for layer in _layers(serve):
        assert isinstance(layer, Attention)  # table.fused refuses other backends
        yield layer
