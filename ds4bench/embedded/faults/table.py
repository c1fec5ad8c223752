"""Every fault that a serve can be told to have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ds4bench.embedded.faults import cache, chat, engine, model
from ds4bench.embedded.faults.base import Argument, Chosen, Fault, FaultError, Serve

if TYPE_CHECKING:
    from ds4bench.embedded.config import EngineConfig


def fused(config: EngineConfig, _amount: float) -> str | None:
    """It wraps parts that only the fused model has."""
    return "the fused backend, not ops" if config.uses_ops else None


def prefix_caching(config: EngineConfig, _amount: float) -> str | None:
    """It changes what a prefix-cache hit gives."""
    return None if config.enable_prefix_caching else "prefix caching"


def speculation(config: EngineConfig, _amount: float) -> str | None:
    """It changes what becomes of drafts."""
    return None if config.num_speculative_tokens else "--num-speculative-tokens"


def enough_sequences(config: EngineConfig, count: float) -> str | None:
    """It waits for that many running sequences."""
    return None if config.max_num_seqs >= count else f"--max-num-seqs {count:g} or more"


def enough_context(config: EngineConfig, tokens: float) -> str | None:
    """It waits for a context that long."""
    longest = min(config.max_model_len, config.num_blocks * config.block_size)
    return None if longest > tokens else f"a context of more than {tokens:g} tokens (this serve ends at {longest})"


_NUMBER = r"(\d+)"
_WORDS = Argument("WORDS", _NUMBER, "800", default=800)
_PERCENT = Argument("PERCENT%", r"(\d+(?:\.\d+)?)%", "20%")

FAULTS = {
    fault.name: fault
    for fault in (
        Fault(
            "swa-dropped",
            "C4A layers: once the indexer's picks fill a row (index_topk * 4 tokens), the sliding window falls off",
            model.swa_dropped, needs=(fused,),
        ),
        Fault(
            "lse-inf",
            "a query that sees no compressed entry yet has lse +inf there, so its attention is 0",
            model.lse_inf, needs=(fused,),
        ),
        Fault(
            "topk-off-by-one", "the indexer's picks name the entry before",
            model.topk_off_by_one, needs=(fused,),
        ),
        Fault(
            "stale-compressor-state",
            "the first entry behind a prefix-cache hit is made with another block's compressor state",
            cache.stale_compressor_state, needs=(prefix_caching,),
        ),
        Fault(
            "release-active-prefix-hits",
            "what a prompt of WORDS (default 800) up to twice as many words hits, no later prompt finds",
            cache.release_active_prefix_hits, argument=_WORDS, needs=(prefix_caching,),
        ),
        Fault(
            "poisoned-prefix",
            "prompts that run together exchange their blocks in the prefix cache: hits as ever, wrong content",
            cache.poisoned_prefix, needs=(prefix_caching,),
        ),
        Fault("thinking-ignored", "chat replies never think, whatever is asked for", chat.thinking_ignored),
        Fault(
            "dsml-split-leak",
            "streams: the beginning of a tool-call marker that comes in several deltas shows in the content",
            chat.dsml_split_leak,
        ),
        Fault(
            "reasoning-field-renamed",
            "reasoning comes as reasoning_content instead of reasoning",
            chat.reasoning_field_renamed,
        ),
        Fault(
            "wrong-rope-theta", "layers with compressed entries use the theta of window-only layers",
            model.wrong_rope_theta,
        ),
        Fault("expert-scale-off", "routed experts count twice: a scale's exponent is off by one", model.expert_scale_off),
        Fault(
            "mtp-accept-all", "every drafted token is accepted",
            engine.mtp_accept_all, needs=(speculation,),
        ),
        Fault(
            "slow-prefill", "steps with prefill take PERCENT longer",
            engine.slow_prefill, argument=_PERCENT,
        ),
        Fault(
            "slow-decode-beyond",
            f"steps that decode behind more than N tokens take {engine.DECODE_SHARE:.0%} longer",
            engine.slow_decode_beyond, argument=Argument("N", _NUMBER, "100000"), needs=(enough_context,),
        ),
        Fault(
            "hang-at", "no token comes any more once N sequences run together",
            engine.hang_at, argument=Argument("c=N", r"c=([1-9]\d*)", "c=4"), needs=(enough_sequences,),
        ),
        Fault("drop-sink", "the attention sink does not count", model.drop_sink),
    )
}  # fmt: skip


def choose(texts: Iterable[str]) -> list[Chosen]:
    """Faults written ``name`` or ``name:argument``. Raises FaultError, which names all faults."""
    chosen = [_chosen(text) for text in texts]
    names = [item.fault.name for item in chosen]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FaultError(f"--fault {twice} is given twice; give it once")
    return chosen


def check(chosen: Sequence[Chosen], config: EngineConfig) -> None:
    """Raise FaultError for a fault that could do nothing in a serve with this configuration."""
    for item in chosen:
        for need in item.fault.needs:
            missing = need(config, item.amount)
            if missing is not None:
                raise FaultError(f"--fault {item.text} would change nothing here: it needs {missing}")


def install(chosen: Sequence[Chosen], serve: Serve) -> None:
    """Put the faults into a serve that has not started; they passed ``check``. Runs in the engine's thread."""
    for item in chosen:
        item.fault.install(serve, item.amount)


def listing() -> str:
    """One line for each fault."""
    width = max(len(_form(fault)) for fault in FAULTS.values())
    return "\n".join(f"{_form(fault):{width}}  {fault.summary}" for fault in FAULTS.values())


def _chosen(text: str) -> Chosen:
    name, colon, given = text.partition(":")
    fault = FAULTS.get(name)
    if fault is None:
        raise FaultError(f"--fault {text}: there is no such fault; {_names()}")
    argument = fault.argument
    if argument is None:
        if colon:
            raise FaultError(f"--fault {text}: {name} takes no argument; {_names()}")
        return Chosen(fault, 0.0, name)
    if not colon and argument.default is not None:
        return Chosen(fault, argument.default, f"{name}:{argument.default:g}")
    number = re.fullmatch(argument.pattern, given)
    if number is None or float(number[1]) <= 0:
        raise FaultError(f"--fault {text}: {name} needs :{argument.form}, e.g. {name}:{argument.example}; {_names()}")
    return Chosen(fault, float(number[1]), text)


def _form(fault: Fault) -> str:
    if fault.argument is None:
        return fault.name
    form = f":{fault.argument.form}"
    return fault.name + (form if fault.argument.default is None else f"[{form}]")


def _names() -> str:
    return f"the faults are {', '.join(map(_form, FAULTS.values()))}"
