"""Where engines differ behind the same API: one table.

The rows of SGLang and the hosted API follow their documentation (a stand-in server tests the latter); the embedded engine and
vLLM on a CPU (``make test-engine``) are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_VLLM_METRICS = {
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:time_to_first_token_seconds_sum": "ttft_seconds_sum",
    "vllm:time_to_first_token_seconds_count": "ttft_seconds_count",
    "vllm:spec_decode_num_drafts_total": "spec_drafts",
    "vllm:spec_decode_num_draft_tokens_total": "spec_draft_tokens",
    "vllm:spec_decode_num_accepted_tokens_total": "spec_accepted_tokens",
    **{
        f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{position="{place}"}}': f"spec_accepted_at_{place}"
        for place in range(8)
    },
}
_SGLANG_METRICS = {
    "sglang:cached_tokens_total": "prefix_cache_hits",
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:generation_tokens_total": "generation_tokens",
    "sglang:time_to_first_token_seconds_sum": "ttft_seconds_sum",
    "sglang:time_to_first_token_seconds_count": "ttft_seconds_count",
}


@dataclass(frozen=True)
class Dialect:
    """How one engine is spoken to.

    ``cached_tokens`` is the path inside ``usage``; ``metrics`` maps the engine's counter names to ours (tokens,
    unless the name says otherwise). ``tokenize_path`` is None where prompts cannot be counted without sending
    them. ``health_path`` None: there is no page for it. ``completions`` says whether ``/v1/completions`` exists.
    ``reset_prefix_cache`` is the path that a POST to empties the cache (vLLM has it with ``VLLM_SERVER_DEV_MODE=1`` only);
    nothing here posts to it by itself, because it would empty the cache of others too. ``thinking`` is how
    reasoning is switched: by ``chat_template_kwargs``, by a body field ``thinking: {type: enabled|disabled}``, or not at all.
    ``memory_advice``: the flags that help when GPU memory runs out.
    ``token_ids``: with ``return_tokens_as_token_ids`` logprobs name tokens by id; by their text several tokens may be one.
    """

    engine: str
    reasoning_field: str
    cached_tokens: tuple[str, ...]
    cache_salt: bool
    continuous_usage: bool
    thinking: str | None
    tokenize_path: str | None
    tokenize_messages: bool
    ignore_eos: bool
    metrics: Mapping[str, str] = field(default_factory=dict)
    health_path: str | None = "/health"
    completions: bool = True
    reset_prefix_cache: str | None = None
    cached_tokens_hint: str | None = None
    memory_advice: str | None = None
    token_ids: bool = False

    @property
    def chat_template_kwargs(self) -> bool:
        """Whether ``chat_template_kwargs`` in the body reaches the template."""
        return self.thinking == "chat_template_kwargs"

    def thinking_body(self, wanted: bool | None, effort: str | None = None) -> dict[str, Any]:
        """The body fields that switch thinking and, with it, ask for an effort (``high``, ``max``).

        Empty when nothing is asked for or the engine has no switch. Engines differ in where they read the effort from, so
        with ``chat_template_kwargs`` it stands in both places.
        """
        if wanted is None or self.thinking is None:
            return {}
        top = {"reasoning_effort": effort} if wanted and effort else {}
        if self.thinking == "chat_template_kwargs":
            return {**top, "chat_template_kwargs": {"thinking": wanted, **top}}
        return {**top, "thinking": {"type": "enabled" if wanted else "disabled"}}

    def stream_options(self) -> dict[str, bool]:
        """Usage at the end of a stream and, where understood, in every chunk (tokens of the first chunk)."""
        options = {"include_usage": True}
        return options | {"continuous_usage_stats": True} if self.continuous_usage else options


_PROMPT_DETAILS = ("prompt_tokens_details", "cached_tokens")

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "embedded": Dialect(
            engine="embedded",
            reasoning_field="reasoning",
            cached_tokens=_PROMPT_DETAILS,
            cache_salt=True,
            continuous_usage=True,
            thinking="chat_template_kwargs",
            tokenize_path="/tokenize",
            tokenize_messages=True,
            ignore_eos=True,
            metrics=MappingProxyType(_VLLM_METRICS),
            token_ids=True,
        ),
        "vllm": Dialect(
            engine="vllm",
            reasoning_field="reasoning",
            cached_tokens=_PROMPT_DETAILS,
            cache_salt=True,
            continuous_usage=True,
            thinking="chat_template_kwargs",
            tokenize_path="/tokenize",
            tokenize_messages=True,
            ignore_eos=True,
            metrics=MappingProxyType(_VLLM_METRICS),
            reset_prefix_cache="/reset_prefix_cache",
            cached_tokens_hint="start vLLM with --enable-prompt-tokens-details",
            memory_advice="use a smaller --max-model-len or --max-num-seqs",
            token_ids=True,
        ),
        "sglang": Dialect(
            engine="sglang",
            reasoning_field="reasoning_content",
            cached_tokens=_PROMPT_DETAILS,
            cache_salt=True,
            continuous_usage=True,
            thinking="chat_template_kwargs",
            tokenize_path="/tokenize",
            tokenize_messages=False,  # takes `prompt` only; chat prompts are calibrated from usage
            ignore_eos=True,
            metrics=MappingProxyType(_SGLANG_METRICS),
            reset_prefix_cache="/flush_cache",
            cached_tokens_hint="start SGLang with --enable-cache-report (and --enable-metrics for its counters)",
            memory_advice="use a smaller --context-length, --max-running-requests or --mem-fraction-static",
        ),
        "hosted-deepseek": Dialect(
            engine="hosted-deepseek",
            reasoning_field="reasoning_content",
            cached_tokens=("prompt_cache_hit_tokens",),
            cache_salt=False,
            continuous_usage=False,
            thinking="body",
            tokenize_path=None,
            tokenize_messages=False,
            ignore_eos=False,
            health_path=None,
            completions=False,
        ),
        "openai": Dialect(
            engine="openai",
            reasoning_field="reasoning_content",
            cached_tokens=_PROMPT_DETAILS,
            cache_salt=False,  # an unknown field may be refused, and proves nothing where it is ignored
            continuous_usage=False,
            thinking=None,
            tokenize_path="/tokenize",  # tried; llama.cpp and others have one
            tokenize_messages=True,
            ignore_eos=False,
            cached_tokens_hint="no known switch: see whether the serve can report prompt_tokens_details",
        ),
    }
)


def dialect_of(engine: str) -> Dialect:
    """The engine's dialect; the plain OpenAI one for an engine that is not in the table."""
    return DIALECTS.get(engine, DIALECTS["openai"])


def cached_tokens(usage: Mapping[str, Any], dialect: Dialect) -> int | None:
    """Prompt tokens served from a cache, by the engine's own ``usage``; None when it does not tell."""
    value: Any = usage
    for key in dialect.cached_tokens:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) else None
