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

from ds4bench.client.control import Posted
from ds4bench.core import RequestResult
from ds4bench.errors import TargetDiedError
from ds4bench.targets.pricing import Priced

MOST_REFUSALS = 6
"""So often in a row, without any other request being answered, a request is sent again; then the run ends."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 120.0
_REFUSALS = ("http_429", "http_503")
_BYTES_PER_TOKEN = 2.0
"""For the budget's upper bound only: no tokenizer in use makes more of plain text."""
_TEMPLATE_TOKENS, _TOOLS_TEMPLATE_TOKENS = 256, 512
"""What a chat template says besides: DeepSeek-V4's has 540 bytes on the effort of thinking, 1,000 on how tools are called."""


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
        self.answered = 0

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
        """A request has ended; what it reserved becomes what it cost."""
        self.account.reserved -= reserved
        self.answered += result.http_status == 200
        if self.priced is not None:
            # A stream that broke tells no usage, but was computed and may be charged.
            lost = result.http_status == 200 and result.prompt_tokens is None
            self.account.spent += reserved if lost else self.priced.price.of(result)
        self.account.changed()

    def dead_end(self, status: int | None) -> str | None:
        """Why no further request can be answered after this status, waited out or not; None for one that may."""
        return {
            401: "the key was refused (HTTP 401); check the environment variable that holds it",
            402: f"the account has no balance left (HTTP 402; {self.summary()}); top it up",
            429: f"the API refuses for its rate limit (HTTP 429; {self.summary()}); everything is kept, go on later with "
            "--resume",
            503: f"the API says that it is overloaded (HTTP 503; {self.summary()}); everything is kept, go on later with "
            "--resume",
        }.get(status or 0)

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

    async def call(self, body: Mapping[str, Any], send: Callable[[], Awaitable[Posted]]) -> Posted:
        """A request outside the measurement, as for counting tokens: waited out like any, charged at the most it can cost.

        Its last refusal is returned: what it means there is the caller's to say.
        """
        posted: list[Posted] = []

        async def once() -> RequestResult:
            last = await send()
            posted.append(last)
            ok = last.status == 200
            error = None if ok else f"http_{last.status}"
            return RequestResult(ok=ok, error=error, http_status=last.status, retry_after_s=last.retry_after_s)

        await _waited_out(self, body, once, lambda _: None)
        return posted[-1]

    def _most(self, body: Mapping[str, Any]) -> float:
        if self.priced is None:
            return 0.0
        return self.priced.price.cost(most_prompt_tokens(body), int(body.get("max_tokens", 0)))


def most_prompt_tokens(body: Mapping[str, Any]) -> int:
    """More tokens than any served model makes of the prompt: what was said, the tools, and what the template adds."""
    said, tools = body.get("messages", body.get("prompt", "")), body.get("tools")
    template = _TEMPLATE_TOKENS + (_TOOLS_TEMPLATE_TOKENS if tools else 0)
    text = json.dumps([said, tools or []], ensure_ascii=False)
    return int(len(text.encode()) / _BYTES_PER_TOKEN) + template


async def paced(
    pacing: Pacing | None,
    body: Mapping[str, Any],
    send: Callable[[], Awaitable[RequestResult]],
    keep_refused: Callable[[RequestResult], None],
) -> RequestResult:
    """Send within the budget; wait out refusals, each handed to ``keep_refused``. Without ``pacing``: just send.

    Raises TargetDiedError when the key is refused, the balance is used up, or the refusals do not end.
    """
    if pacing is None:
        return await send()
    result = await _waited_out(pacing, body, send, keep_refused)
    over = pacing.dead_end(result.http_status)
    if over is not None:
        keep_refused(result)
        raise TargetDiedError(over)
    return result


async def _waited_out(
    pacing: Pacing,
    body: Mapping[str, Any],
    send: Callable[[], Awaitable[RequestResult]],
    keep_refused: Callable[[RequestResult], None],
) -> RequestResult:
    """The first result that is no refusal for the rate, or the refusal that ends the patience."""
    refusals, answered = 0, pacing.answered
    while True:
        reserved = pacing.admit(body)
        result = await send()
        pacing.settle(reserved, result)
        if pacing.answered > answered:  # the API serves others: this one is only late
            refusals, answered = 0, pacing.answered
        pause = pacing.pause_s(result, refusals)
        if pause is None:
            return result
        keep_refused(result)
        refusals += 1
        pacing.report(f"HTTP {result.http_status}: refused for the rate, a new request follows in {pause:g} s")
        await asyncio.sleep(pause)
