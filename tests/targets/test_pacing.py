"""The budget of a hosted run, and its patience."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.client.control import Posted
from ds4bench.core import RequestResult
from ds4bench.errors import TargetDiedError, TargetError
from ds4bench.targets.pacing import MOST_REFUSALS, Account, Limits, Pacing, most_prompt_tokens, paced
from ds4bench.targets.pricing import ModelPrice, Priced, price_of

PRICE = Priced(ModelPrice(cache_hit=1.0, cache_miss=10.0, output=100.0), "EUR", "2026-11-21")
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 2000}], "max_tokens": 100}


def answered(prompt: int = 500, made: int = 50, cached: int = 0) -> RequestResult:
    return RequestResult(ok=True, http_status=200, prompt_tokens=prompt, completion_tokens=made, cached_tokens=cached)


def refused(status: int = 429, after: float | None = None) -> RequestResult:
    return RequestResult(ok=False, error=f"http_{status}", http_status=status, retry_after_s=after)


def test_cached_tokens_cost_less() -> None:
    assert PRICE.price.of(answered(500, 50, 400)) == pytest.approx((400 * 1 + 100 * 10 + 50 * 100) / 1e6)


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 100)), max_size=40), st.floats(0, 0.2))
def test_what_is_spent_never_passes_the_limit(replies: list[tuple[int, int]], limit: float) -> None:
    pacing = Pacing(Limits(max_cost=limit), PRICE, lambda _: None)
    for prompt, made in replies:
        try:
            reserved = pacing.admit(BODY)
        except TargetDiedError:
            break
        pacing.settle(reserved, answered(prompt, made))
    assert pacing.account.spent <= limit + 1e-12


def test_requests_in_flight_are_counted_before_they_end() -> None:
    pacing = Pacing(Limits(max_requests=2), None, lambda _: None)
    pacing.admit(BODY)
    pacing.admit(BODY)
    with pytest.raises(TargetDiedError, match="--max-requests 2 is reached"):
        pacing.admit(BODY)


async def test_serves_of_one_command_share_a_budget() -> None:
    async def count() -> Posted:
        return Posted(200, {"count": 3})

    account = Account()
    first, second = (Pacing(Limits(max_requests=3), PRICE, lambda _: None, account) for _ in range(2))
    first.settle(first.admit(BODY), answered())
    await first.call(BODY, count)
    second.admit(BODY)
    with pytest.raises(TargetDiedError, match=r"--max-requests 3 is reached \(3 requests sent"):
        second.admit(BODY)


async def test_a_request_and_the_most_it_can_cost_are_told_before_it_is_sent() -> None:
    account = Account()
    told: list[tuple[int, float]] = []
    account.on_change = lambda: told.append((account.requests, account.spent + account.reserved))

    async def send() -> RequestResult:
        assert told == [(1, pytest.approx(most))]
        return answered()

    pacing = Pacing(Limits(), PRICE, lambda _: None, account)
    most = PRICE.price.cost(most_prompt_tokens(BODY), 100)
    await paced(pacing, BODY, send, lambda _: None)
    assert told[1:] == [(1, pytest.approx(PRICE.price.of(answered())))]


def test_a_refusal_names_its_own_pause_and_else_the_pause_doubles() -> None:
    pacing = Pacing(Limits(), None, lambda _: None)
    assert pacing.pause_s(refused(after=7.5), 0) == 7.5
    assert [pacing.pause_s(refused(), n) for n in range(3)] == [1, 2, 4]
    assert pacing.pause_s(refused(after=9999), 0) == 120
    assert pacing.pause_s(refused(), MOST_REFUSALS) is None
    assert pacing.pause_s(refused(500), 0) is None


async def test_each_refused_request_is_kept_and_the_last_answer_stands() -> None:
    replies = [refused(after=0.0), refused(503, 0.0), answered()]
    kept: list[RequestResult] = []

    async def send() -> RequestResult:
        return replies.pop(0)

    pacing = Pacing(Limits(), PRICE, lambda _: None)
    result = await paced(pacing, BODY, send, kept.append)
    assert result.ok
    assert [r.error for r in kept] == ["http_429", "http_503"]
    assert (pacing.account.requests, pacing.account.refused) == (3, 2)


@pytest.mark.parametrize(("status", "words"), [(401, "key was refused"), (402, "no balance left")])
async def test_a_refused_key_or_balance_ends_the_run(status: int, words: str) -> None:
    async def send() -> RequestResult:
        return refused(status)

    kept: list[RequestResult] = []
    with pytest.raises(TargetDiedError, match=words):
        await paced(Pacing(Limits(), None, lambda _: None), BODY, send, kept.append)
    assert len(kept) == 1


def test_the_table_that_comes_along_has_the_profiles_model() -> None:
    assert price_of("deepseek-v4-flash").price.output > 0
    with pytest.raises(TargetError, match="no price for nobody"):
        price_of("nobody")


@pytest.mark.parametrize(("status", "words"), [(429, "refuses for its rate limit"), (503, "is overloaded")])
async def test_refusals_that_do_not_end_end_the_run(status: int, words: str) -> None:
    async def send() -> RequestResult:
        return refused(status, 0.0)

    kept: list[RequestResult] = []
    with pytest.raises(TargetDiedError, match=f"{words} .*everything is kept, go on later with --resume"):
        await paced(Pacing(Limits(), None, lambda _: None), BODY, send, kept.append)
    assert len(kept) == MOST_REFUSALS + 1


async def test_a_request_is_waited_for_while_the_api_answers_others() -> None:
    pacing = Pacing(Limits(), None, lambda _: None)
    replies = [refused(after=0.0)] * (3 * MOST_REFUSALS)

    async def send() -> RequestResult:
        if not replies:
            return answered()
        if len(replies) % MOST_REFUSALS == 0:  # meanwhile another one is served
            pacing.settle(pacing.admit(BODY), answered())
        return replies.pop()

    assert (await paced(pacing, BODY, send, lambda _: None)).ok


async def test_a_call_is_waited_out_and_only_its_answer_is_charged() -> None:
    replies = [Posted(429, None, 0.0), Posted(200, {"usage": {}})]

    async def send() -> Posted:
        return replies.pop(0)

    pacing = Pacing(Limits(), PRICE, lambda _: None)
    assert (await pacing.call(BODY, send)).status == 200
    assert (pacing.account.requests, pacing.account.refused) == (2, 1)
    reserved = Pacing(Limits(), PRICE, lambda _: None).admit(BODY)
    assert pacing.account.spent == pytest.approx(reserved)


async def test_a_call_that_is_refused_for_good_hands_back_the_refusal() -> None:
    async def send() -> Posted:
        return Posted(429, None, 0.0)

    assert (await Pacing(Limits(), None, lambda _: None).call(BODY, send)).status == 429


def test_tools_are_a_part_of_the_prompt_that_is_paid_for() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 20_000}}]
    pacing = Pacing(Limits(), PRICE, lambda _: None)
    assert pacing.admit({**BODY, "tools": tools}) - pacing.admit(BODY) > PRICE.price.cost(20_000 // 4, 0)
