"""How many tokens the serve makes of a prompt: asked of its tokenizer, or learnt from usage."""

from __future__ import annotations

from typing import Any, Protocol

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetDiedError, TargetError, WorkloadError
from ds4bench.targets.base import Endpoint
from ds4bench.targets.pacing import Pacing

_UNPAID = (401, 402)
"""The key or the balance: for the user to mend, whatever was to be counted."""
_NOT_ABOUT_THE_PROMPT = (*_UNPAID, 403, 429)
_BROKEN = 500
"""Statuses from here on are the serve's own trouble, the ones below what it thinks of the request."""


class Counter(Protocol):
    """Counts the prompt tokens of a text as the gate would send it."""

    exact: bool

    async def count(self, text: str) -> int:
        """Prompt tokens, template included."""
        ...


class TokenizeCounter:
    """Asks the serve's ``/tokenize``: exact, and costs no prefill."""

    exact = True

    def __init__(self, control: ControlClient, endpoint: Endpoint, template: dict[str, Any], *, chat: bool) -> None:
        self._control = control
        self._path = endpoint.dialect.tokenize_path or "/tokenize"
        self._template = template
        self._chat = chat

    async def count(self, text: str) -> int:
        """See ``Counter``. Raises TargetError when the serve breaks, WorkloadError when it has no answer to this."""
        prompt = {"messages": [{"role": "user", "content": text}]} if self._chat else {"prompt": text}
        status, reply = await self._control.post_json(self._path, {**self._template, **prompt})
        _raise_if_not_about_the_prompt(self._path, status, reply)
        if status != 200 or not isinstance(reply, dict) or "count" not in reply:
            raise WorkloadError(f"{self._path} answered HTTP {status} without a count: {str(reply)[:200]}")
        return int(reply["count"])


def _raise_if_not_about_the_prompt(path: str, status: int, reply: Any) -> None:
    """Raises TargetError: no other prompt would be answered either, so the workload is not at fault."""
    if status >= _BROKEN or status in _NOT_ABOUT_THE_PROMPT:
        raise TargetError(f"{path} answered HTTP {status}: {str(reply)[:200]}")


class UsageCounter:
    """Sends the text with one output token and reads usage. Costs a prefill: for small calibration texts only."""

    exact = False

    def __init__(
        self, control: ControlClient, path: str, template: dict[str, Any], *, chat: bool, pacing: Pacing | None = None
    ) -> None:
        self._control = control
        self._path = path
        self._pacing = pacing
        self._template = template
        self._chat = chat

    async def count(self, text: str) -> int:
        """See ``Counter``. Raises TargetError when the serve breaks or refuses the key, TargetDiedError when an API refuses
        for its rate and does not cease to, WorkloadError when the reply counts nothing.
        """
        prompt = {"messages": [{"role": "user", "content": text}]} if self._chat else {"prompt": text}
        body = {**self._template, **prompt, "max_tokens": 1, "stream": False}
        status, reply = await self._control.post_json(self._path, body)
        over = self._pacing.dead_end(status) if self._pacing is not None else None
        if over is not None:
            raise (TargetError if status in _UNPAID else TargetDiedError)(over)
        _raise_if_not_about_the_prompt(self._path, status, reply)
        usage = reply.get("usage") if isinstance(reply, dict) else None
        if status != 200 or not usage or not usage.get("prompt_tokens"):
            raise WorkloadError(
                f"prompt tokens cannot be counted: the serve has no /tokenize, and {self._path} answered HTTP {status} "
                f"without usage: {str(reply)[:200]}"
            )
        return int(usage["prompt_tokens"])


async def make_counter(control: ControlClient, endpoint: Endpoint, template: dict[str, Any], path: str) -> Counter:
    """The best counter that this serve allows. ``template`` holds the body fields that change the prompt."""
    chat = path.endswith("chat/completions")
    counter = TokenizeCounter(control, endpoint, template, chat=chat)
    try:
        if endpoint.dialect.tokenize_path is not None:
            await counter.count("one two three")
            return counter
    except (WorkloadError, TargetError):
        pass
    return UsageCounter(control, path, template, chat=chat, pacing=endpoint.pacing)
