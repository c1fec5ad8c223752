"""Forward and backward passes as CUDA graphs: a CPU launches a step's thousands of kernels slower than they run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_WARM_UP = 2
"""Passes before a capture: compilation and the choice of kernels happen in them."""

Pass = Callable[[Tensor, Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    ids: Tensor
    weights: Tensor
    losses: Sequence[Tensor]
    grads: list[Tensor | None]


class GraphedPass:
    """Runs ``passes(ids, weights)``, which ends in a backward pass, from a graph for each key.

    The gradients of a replay lie where its capture left them and are overwritten by the next, so nothing is zeroed.
    """

    def __init__(self, passes: Pass, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._passes = passes
        self._parameters = parameters
        self._captured: dict[Hashable, _Captured] = {}
        self._pool: Any = None

    def __call__(self, key: Hashable, ids: Tensor, weights: Tensor) -> Sequence[Tensor]:
        """Losses of this batch; gradients are in the parameters' ``grad``. ``key`` names all that changes the graph."""
        found = self._captured.get(key)
        if found is None:
            found = self._captured[key] = self._capture(ids.cuda(), weights.cuda())
        found.ids.copy_(ids, non_blocking=True)
        found.weights.copy_(weights, non_blocking=True)
        found.graph.replay()
        for parameter, grad in zip(self._parameters, found.grads, strict=True):
            parameter.grad = grad
        return found.losses

    def _capture(self, ids: Tensor, weights: Tensor) -> _Captured:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self._forget()
                self._passes(ids, weights)
        torch.cuda.current_stream().wait_stream(stream)
        self._forget()
        torch.cuda.empty_cache()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            losses = [loss.detach() for loss in self._passes(ids, weights)]
        return _Captured(graph, ids, weights, losses, [parameter.grad for parameter in self._parameters])

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
