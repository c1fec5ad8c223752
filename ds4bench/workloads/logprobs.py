"""The likeliest tokens of every place of a reply, as chat and completions tell them, and how far two replies are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

_DIGITS = 4
"""Decimals of a stored logprob, in nats."""

Place = tuple[str, dict[str, float]]
"""The chosen token, and the likeliest tokens with their logprobs in nats, the chosen one always in."""


def read_logprobs(chunks: list[Any]) -> dict[str, Any]:
    """``tokens`` and, place by place, ``top``; ``chunks`` are the ``logprobs`` of the chunks of a reply."""
    places = [place for chunk in chunks for place in (_chat(chunk) if chunk.get("content") else _completion(chunk))]
    return {"tokens": [token for token, _ in places], "top": [top for _, top in places]}


def distance(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float | None:
    """Mean |difference| in nats of the logprobs that both replies tell, while their tokens are equal; None without any.

    The tokens of a place count alike: where a reply is sure of itself, only its unlikely tokens show that something moved.
    """
    apart = []
    for token, wanted, top, reference in zip(
        ours["tokens"], theirs["tokens"], ours["top"], theirs["top"], strict=False
    ):
        common = top.keys() & reference.keys()
        if common:
            apart.append(fmean(abs(top[word] - reference[word]) for word in common))
        if token != wanted:
            break
    return fmean(apart) if apart else None


def _completion(chunk: Mapping[str, Any]) -> Iterator[Place]:
    made = chunk.get("tokens") or []
    rivals = chunk.get("top_logprobs") or [None] * len(made)
    for token, own, others in zip(made, chunk.get("token_logprobs") or [], rivals, strict=False):
        yield token, _rounded({**(others or {}), token: own})


def _chat(chunk: Mapping[str, Any]) -> Iterator[Place]:
    for place in chunk["content"]:
        others = {rival["token"]: rival["logprob"] for rival in place.get("top_logprobs") or []}
        yield place["token"], _rounded({**others, place["token"]: place["logprob"]})


def _rounded(top: Mapping[str, float]) -> dict[str, float]:
    return {token: round(value, _DIGITS) for token, value in top.items()}
