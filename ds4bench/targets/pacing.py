"""Requests that cost money and may be refused: a budget, and patience with a rate limit.

A request that was refused for its rate (429, or 503 when the API is overloaded) was not served. What is sent after the pause
is a new request with clocks of its own; the refused one is kept as a row of phase ``refused`` and reported.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ds4bench.core import RequestResult
from ds4bench.errors import TargetDiedError
from ds4bench.targets.pricing import Priced

MOST_REFUSALS = 6
"""A request that is refused so often fails."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 120.0
_REFUSALS = ("http_429", "http_503")
_BYTES_PER_TOKEN = 2.0
"""For the budget's upper bound only: no tokenizer in use makes more of plain text."""


@dataclass(frozen=True)
class Limits:
    """What a command may spend: requests sent, and money in the price table's currency. None: no limit."""

    max_requests: int | None = None
    max_cost: float | None = None


@dataclass
class Account:
    """What a command has sent and spent, over all the serves that it starts; ``reserved`` is the most that requests in
    flight can cost. ``on_change`` is told before a request is sent and after it has ended.
    """

    requests: int = 0
    refused: int = 0
    spent: float = 0.0
    reserved: float = 0.0
    on_change: Callable[[], None] | None = None

    def changed(self) -> None:
        """Tell ``on_change``."""
        if self.on_change is not None:
            self.on_change()


class Pacing:
    """The budget of one serve, kept in an ``account`` that others may share. ``report`` gets a line for each pause."""

    def __init__(
        self, limits: Limits, priced: Priced | None, report: Callable[[str], None], account: Account | None = None
    ) -> None:
        self.limits = limits
        self.priced = priced
        self.report = report
        self.account = Account() if account is None else account

    def admit(self, body: Mapping[str, Any]) -> float:
        """Count a request that is about to be sent and reserve the most it can cost, which is returned.

        Raises TargetDiedError when it would pass a limit: the run ends there, with everything kept.
        """
        most = self._most(body)
        limits, account = self.limits, self.account
        if limits.max_requests is not None and account.requests >= limits.max_requests:
            raise TargetDiedError(
                f"--max-requests {limits.max_requests} is reached ({self.summary()}): raise it to go on"
            )
        if limits.max_cost is not None and account.spent + account.reserved + most > limits.max_cost:
            raise TargetDiedError(
                f"--max-cost {limits.max_cost:g} could be passed by the next request ({self.summary()}): raise it to go on"
            )
        account.requests += 1
        account.reserved += most
        account.changed()
        return most

    def settle(self, reserved: float, result: RequestResult) -> None:
        """A request has ended. Raises TargetDiedError when the key is refused or the balance is used up."""
        self.account.reserved -= reserved
        if self.priced is not None:
            # A stream that broke tells no usage, but was computed and may be charged.
            lost = result.http_status == 200 and result.prompt_tokens is None
            self.account.spent += reserved if lost else self.priced.price.of(result)
        self.account.changed()
        if result.error == "http_401":
            raise TargetDiedError("the key was refused (HTTP 401); check the environment variable that holds it")
        if result.error == "http_402":
            raise TargetDiedError(f"the account has no balance left (HTTP 402; {self.summary()}); top it up")

    def pause_s(self, result: RequestResult, refusals: int) -> float | None:
        """How long to wait before the next request in place of a refused one; None when this one stands."""
        if result.error not in _REFUSALS or refusals >= MOST_REFUSALS:
            return None
        self.account.refused += 1
        asked = result.retry_after_s
        pause = asked if asked is not None else _FIRST_PAUSE_S * 2**refusals
        return min(max(pause, 0.0), _LONGEST_PAUSE_S)

    def summary(self) -> str:
        """One clause: requests, refusals, cost."""
        account = self.account
        refused = f", {account.refused} refused for their rate" if account.refused else ""
        if self.priced is None:
            return f"{account.requests} requests sent{refused}"
        return f"{account.requests} requests sent{refused}, {account.spent:.4f} {self.priced.currency} spent"

    def count_call(self, body: Mapping[str, Any]) -> None:
        """A request outside the measurement, as for counting tokens: charged at the most it can cost."""
        most = self.admit(body)
        self.account.reserved -= most
        self.account.spent += most
        self.account.changed()

    def _most(self, body: Mapping[str, Any]) -> float:
        if self.priced is None:
            return 0.0
        prompt = len(json.dumps(body.get("messages", body.get("prompt", "")), ensure_ascii=False).encode())
        return self.priced.price.cost(int(prompt / _BYTES_PER_TOKEN) + 64, int(body.get("max_tokens", 0)))


async def paced(
    pacing: Pacing | None,
    body: Mapping[str, Any],
    send: Callable[[], Awaitable[RequestResult]],
    keep_refused: Callable[[RequestResult], None],
) -> RequestResult:
    """Send within the budget; wait out refusals, each handed to ``keep_refused``. Without ``pacing``: just send."""
    if pacing is None:
        return await send()
    refusals = 0
    while True:
        reserved = pacing.admit(body)
        result = await send()
        pause = pacing.pause_s(result, refusals)
        if pause is not None:
            keep_refused(result)
        try:
            pacing.settle(reserved, result)
        except TargetDiedError:
            keep_refused(result)
            raise
        if pause is None:
            return result
        refusals += 1
        pacing.report(f"HTTP {result.http_status}: refused for the rate, a new request follows in {pause:g} s")
        await asyncio.sleep(pause)
