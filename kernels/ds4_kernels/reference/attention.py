"""Sparse MLA attention as streaming softmax states, so that subsets of candidates can be added one after another.

A state of T tokens and H heads is (``maximum`` [T, H], ``denominator`` [T, H], ``accumulator`` [T, H, D]):
maximum m of the scores, sum of exp(s - m), and sum of exp(s - m) v. One vector is key and value at once. The empty
state has maximum -inf, the rest 0. ``finish`` adds the sink logit to the denominator only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ds4_kernels.reference.precision import bf16_products

QUERY_BLOCK = 64
GATHER_BLOCK = 128


class SoftmaxState(NamedTuple):
    """Partial attention over a subset of the candidates."""

    maximum: Tensor
    denominator: Tensor
    accumulator: Tensor


def accumulate_gathered(q: Tensor, kv: Tensor, valid: Tensor, scale: float) -> SoftmaxState:
    """Attend to per-token candidates: q ``[T, H, D]``, kv ``[T, K, D]``, valid bool ``[T, K]``.

    Values of invalid candidates never enter, not even as 0 * NaN.
    """
    scores = torch.bmm(q, kv.transpose(1, 2)).mul_(scale).masked_fill_(~valid.unsqueeze(1), -torch.inf)
    clean = torch.where(valid.unsqueeze(-1), kv, 0) if _may_hold_garbage(valid) else kv
    return _state(scores, clean)


def accumulate_window(q: Tensor, kv: Tensor, window: int, history: int, scale: float) -> SoftmaxState:
    """Sliding-window attention of T consecutive queries over contiguous keys.

    q ``[T, H, D]``; kv ``[history + T, D]`` where query i stands at row ``history + i`` and sees rows
    ``max(0, history + i - window + 1) .. history + i``. Banded: blocks of queries against the rows they can see.
    """
    tokens, heads, dim = q.shape
    block = min(QUERY_BLOCK, tokens)
    num_blocks = -(-tokens // block)
    reach = window - 1
    rows = num_blocks * block + reach
    lead = max(0, reach - history)  # rows before the first key
    source = kv[max(0, history - reach) :]
    padded = kv.new_zeros(rows, dim)
    padded[lead : lead + source.shape[0]] = source
    keys = padded.as_strided((num_blocks, block + reach, dim), (block * dim, dim, 1))
    queries = (
        q if tokens == num_blocks * block else torch.nn.functional.pad(q, (0, 0, 0, 0, 0, num_blocks * block - tokens))
    )
    with bf16_products(tokens):
        scores = torch.bmm(queries.reshape(num_blocks, block * heads, dim), keys.transpose(1, 2)).mul_(scale)
    scores = scores.view(num_blocks, block, heads, block + reach)

    row = torch.arange(num_blocks * block, device=q.device).view(num_blocks, block, 1)
    column = (
        torch.arange(block + reach, device=q.device)
        + torch.arange(0, num_blocks * block, block, device=q.device)[:, None]
    )
    column = column.unsqueeze(1)  # index into ``padded``; query ``row`` stands at column row + reach
    visible = (column <= row + reach) & (column >= row) & (column >= lead)
    scores.masked_fill_(~visible.unsqueeze(2), -torch.inf)
    with bf16_products(tokens):
        state = _state(scores.view(num_blocks, block * heads, block + reach), keys)
    return SoftmaxState(
        state.maximum.view(-1, heads)[:tokens],
        state.denominator.view(-1, heads)[:tokens],
        state.accumulator.view(-1, heads, dim)[:tokens],
    )


def accumulate_dense(q: Tensor, kv: Tensor, lens: Tensor, scale: float) -> SoftmaxState:
    """Attend to a prefix of shared keys: q ``[T, H, D]``, kv ``[N, D]``, query t sees rows ``0 .. lens[t] - 1``."""
    tokens, heads, dim = q.shape
    with bf16_products(tokens):
        scores = (q.view(tokens * heads, dim) @ kv.T).mul_(scale).view(tokens, heads, -1)
    hidden = torch.arange(kv.shape[0], device=q.device) >= lens.unsqueeze(-1)
    scores.masked_fill_(hidden.unsqueeze(1), -torch.inf)
    maximum, weights, denominator = _softmax_parts(scores)
    with bf16_products(tokens):
        accumulator = (weights.view(tokens * heads, -1) @ kv).view(tokens, heads, dim)
    return SoftmaxState(maximum, denominator, accumulator)


def accumulate_indexed(q: Tensor, kv: Tensor, indices: Tensor, scale: float) -> SoftmaxState:
    """Attend to rows of a flat workspace: q ``[T, H, D]``, kv ``[N, D]``, indices int ``[T, K]``, -1 = no candidate.

    Duplicates count twice. Works through the tokens in blocks so that the gathered keys stay in cache.
    """
    tokens, heads, dim = q.shape
    width = indices.shape[1]
    out = SoftmaxState(q.new_empty(tokens, heads), q.new_empty(tokens, heads), q.new_empty(tokens, heads, dim))
    gathered = q.new_empty(min(GATHER_BLOCK, tokens) * width, dim)
    for begin in range(0, tokens, GATHER_BLOCK):
        rows = indices[begin : begin + GATHER_BLOCK]
        part = gathered[: rows.numel()]
        torch.index_select(kv, 0, rows.clamp_min(0).flatten(), out=part)
        state = accumulate_gathered(
            q[begin : begin + GATHER_BLOCK], part.view(rows.shape[0], width, dim), rows >= 0, scale
        )
        for whole, piece in zip(out, state, strict=True):
            whole[begin : begin + GATHER_BLOCK] = piece
    return out


def finish(states: list[SoftmaxState], sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """Merge subsets and normalise: (out ``[T, H, D]``, natural-log lse ``[T, H]`` without the sink).

    A row without candidates gives out 0 and lse -inf. A sink of -inf is no sink; +inf gives out 0.
    """
    maximum = states[0].maximum
    for state in states[1:]:
        maximum = torch.maximum(maximum, state.maximum)
    guard = torch.where(maximum == -torch.inf, 0.0, maximum)  # -inf - -inf would be NaN
    factors = [torch.exp(state.maximum - guard) for state in states]
    denominator = sum((s.denominator * f for s, f in zip(states, factors, strict=True)), torch.zeros_like(maximum))
    lse = torch.where(denominator > 0, guard + torch.log(denominator), -torch.inf)
    total = denominator if sink is None else denominator + torch.exp(sink - guard)
    inverse = torch.where(denominator > 0, 1.0 / total, 0.0)
    out = states[0].accumulator * (factors[0] * inverse).unsqueeze(-1)
    for state, factor in zip(states[1:], factors[1:], strict=True):
        out.addcmul_(state.accumulator, (factor * inverse).unsqueeze(-1))
    return out, lse


def _state(scores: Tensor, kv: Tensor) -> SoftmaxState:
    maximum, weights, denominator = _softmax_parts(scores)
    return SoftmaxState(maximum, denominator, torch.bmm(weights, kv))


def _softmax_parts(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(row maxima, exp(scores - maxima) in place of the scores, row sums); rows of only -inf give zeros."""
    if scores.shape[-1] == 0:
        empty = scores.new_zeros(scores.shape[:-1])
        return torch.full_like(empty, -torch.inf), scores, empty
    maximum = scores.amax(dim=-1)
    guard = torch.where(maximum == -torch.inf, 0.0, maximum)
    weights = scores.sub_(guard.unsqueeze(-1)).exp_()
    return maximum, weights, weights.sum(dim=-1)


def _may_hold_garbage(valid: Tensor) -> bool:
    """On a CPU the check is cheap and saves a copy of every key; a device must not be synchronised."""
    return valid.device.type != "cpu" or not bool(valid.all())
