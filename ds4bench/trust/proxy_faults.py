"""Every fault that the proxy can make, by name, and how ``NAME[:ARGUMENT]`` is read."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ds4bench.errors import SpecError
from ds4bench.trust import reply_faults as faults
from ds4bench.trust.reply_faults import Amount, ReplyFault

_TIME = r"(\d+(?:\.\d+)?)(%|ms)"
_COUNT = r"([1-9]\d*)()"
_SHARE = r"(\d+(?:\.\d+)?)(%)"


@dataclass(frozen=True)
class ProxyFault:
    """One fault. ``pattern`` matches its argument (value and unit, or a word), ``example`` is one; both empty without."""

    name: str
    summary: str
    kind: type[ReplyFault]
    pattern: str = ""
    example: str = ""
    harmless: bool = False  # a serve may well do this: no gate may mind

    @property
    def form(self) -> str:
        """How it is written."""
        return f"{self.name}:{self.example}" if self.pattern else self.name


PROXY_FAULTS = {
    fault.name: fault
    for fault in (
        ProxyFault("late-first-token", "streams are passed on later, by a share of the TTFT or by ms",
                   faults.LateFirstToken, _TIME, "20%"),
        ProxyFault("slow-chunks", "gaps between chunks grow by a share or by ms", faults.SlowChunks, _TIME, "30%"),
        ProxyFault("dropped-chunks", "every n-th token chunk loses its text", faults.DroppedChunks, _COUNT, "4"),
        ProxyFault("merged-chunks", "n events wait for each other and come in one write",
                   faults.MergedChunks, _COUNT, "4"),
        ProxyFault("split-bytes", "every byte of a stream is a write of its own", faults.SplitBytes, harmless=True),
        ProxyFault("cached", "usage says that none, or all, of the prompt was cached",
                   faults.CachedSetTo, r"(none|all)()", "none"),
        ProxyFault("primed", "every prompt is sent before, for one token: nothing is cold", faults.Primed),
        ProxyFault("thinking-dropped", "what a request says about thinking is lost", faults.ThinkingIgnored),
        ProxyFault("reasoning-field", "the name under which reasoning comes", faults.ReasoningField,
                   r"(reasoning|reasoning_content|both)()", "reasoning_content", harmless=True),
        ProxyFault("dsml-leak", "streamed tool calls come as markup in the content, a character a chunk", faults.DsmlLeak),
        ProxyFault("calls-dropped", "tool calls do not arrive, streamed or whole", faults.CallsDropped),
        ProxyFault("http-503", "every n-th generation request is answered with 503", faults.Refused, _COUNT, "7"),
        ProxyFault("hang", "the tenth stream says nothing more after n token chunks", faults.Hang, _COUNT, "3"),
        ProxyFault("poisoned-digits", "every digit of the content is another one", faults.PoisonedDigits),
        ProxyFault("truncated-prompt", "the first part of a prompt does not reach the serve",
                   faults.TruncatedPrompt, _SHARE, "30%"),
        ProxyFault("finish-reason", "every reply ends for this reason", faults.FinishReason,
                   r"(stop|length|tool_calls|abort)()", "length"),
        ProxyFault("no-usage", "no usage in any reply", faults.NoUsage),
        ProxyFault("other-model", "replies name another model", faults.OtherModel),
        ProxyFault("inflated-tokens", "completion_tokens is larger than it is", faults.InflatedTokens, _SHARE, "20%"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class ChosenFault:
    """A fault with its argument."""

    fault: ProxyFault
    amount: Amount
    text: str

    def begin(self, number: int, seed: int) -> ReplyFault:
        """The fault for generation request ``number``."""
        return self.fault.kind(number, self.amount, random.Random(f"{seed}/{self.text}/{number}"))  # noqa: S311


def choose(texts: Iterable[str]) -> list[ChosenFault]:
    """Faults written ``name`` or ``name:argument``. Raises SpecError that names the form wanted."""
    return [_chosen(text) for text in texts]


def listing() -> str:
    """One line for each fault."""
    width = max(len(fault.form) for fault in PROXY_FAULTS.values())
    return "\n".join(f"{fault.form:{width}}  {fault.summary}" for fault in PROXY_FAULTS.values())


def _chosen(text: str) -> ChosenFault:
    name, colon, given = text.partition(":")
    fault = PROXY_FAULTS.get(name)
    if fault is None:
        raise SpecError(f"--fault {text}: there is no such fault; the faults are {', '.join(PROXY_FAULTS)}")
    if not fault.pattern:
        if colon:
            raise SpecError(f"--fault {text}: {name} takes no argument")
        return ChosenFault(fault, Amount(0.0), text)
    match = re.fullmatch(fault.pattern, given)
    if match is None:
        raise SpecError(f"--fault {text}: write it like {fault.form}")
    value, unit = match[1], match[2]
    if not value[0].isdigit():
        return ChosenFault(fault, Amount(0.0, word=value), text)
    return ChosenFault(fault, Amount(float(value), percent=unit == "%"), text)
