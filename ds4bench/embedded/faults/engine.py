"""Faults of the engine: wrong verification of drafts, steps that take too long, and steps that never end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ds4bench.embedded.delay import slowed
from ds4bench.embedded.faults.base import Serve, wrap

if TYPE_CHECKING:
    from torch import Tensor

    from ds4bench.embedded.batch import StepInput
    from ds4bench.embedded.sampling import Verifier
    from ds4bench.embedded.sequence import Draft, Sequence

DECODE_SHARE = 0.2
"""How much longer ``slow-decode-beyond`` makes a step."""


def mtp_accept_all(serve: Serve, _amount: float) -> None:
    """Every drafted token is accepted, whatever the model says of it."""

    def accepting(inner: Verifier) -> Verifier:
        def verify(rows: Tensor, greedy: list[int], draft: Draft, seq: Sequence) -> list[int]:
            return [*draft.tokens, *inner(rows[-1:], greedy[-1:], draft.first(0), seq)]

        return verify

    wrap(serve.engine, "verify", accepting)


def slow_prefill(serve: Serve, percent: float) -> None:
    """Every step with prefill in it is followed by a wait of this share of its own duration."""
    _slow(serve, percent / 100, lambda inputs: not all(item.is_decode for item in inputs))


def slow_decode_beyond(serve: Serve, tokens: float) -> None:
    """Every step that decodes behind more than this many tokens takes ``DECODE_SHARE`` longer."""
    _slow(serve, DECODE_SHARE, lambda inputs: any(item.is_decode and item.start >= tokens for item in inputs))


def hang_at(serve: Serve, count: float) -> None:
    """The first step with this many running sequences ends only when the serve is stopped."""

    def hanging(inner: Callable[[list[StepInput]], Tensor]) -> Callable[[list[StepInput]], Tensor]:
        def step(inputs: list[StepInput]) -> Tensor:
            if len(serve.engine.scheduler.running) >= count:
                serve.engine.wait_for_stop()
            return inner(inputs)

        return step

    wrap(serve.runner, "step", hanging)


def _slow(serve: Serve, share: float, applies: Callable[[list[StepInput]], bool]) -> None:
    wrap(serve.runner, "step", lambda inner: slowed(inner, share, applies))
