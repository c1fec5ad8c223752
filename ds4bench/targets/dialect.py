"""The one table of what engines call things."""

from __future__ import annotations

from dataclasses import dataclass, field

EMBEDDED = "ds4bench-embedded"
VLLM = "vllm"
SGLANG = "sglang"
HOSTED_DEEPSEEK = "hosted-deepseek"
OPENAI = "openai"

_VLLM_METRICS = {
    "vllm:prefix_cache_queries_total": "prefix_cache_queries",
    "vllm:prefix_cache_hits_total": "prefix_cache_hits",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:time_to_first_token_seconds_sum": "ttft_seconds_sum",
    "vllm:time_to_first_token_seconds_count": "ttft_seconds_count",
}
_SGLANG_METRICS = {
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:cached_tokens_total": "prefix_cache_hits",
    "sglang:generation_tokens_total": "generation_tokens",
    "sglang:time_to_first_token_seconds_sum": "ttft_seconds_sum",
    "sglang:time_to_first_token_seconds_count": "ttft_seconds_count",
}


@dataclass(frozen=True)
class Dialect:
    """How one engine is spoken to. ``metrics`` maps its counters to our canonical names."""

    engine: str
    cache_salt: bool = False  # body field `cache_salt` separates prefix caches
    continuous_usage: bool = False  # stream_options.continuous_usage_stats
    chat_template_kwargs: bool = False  # thinking is asked for by chat_template_kwargs.thinking
    thinking_object: bool = False  # thinking is asked for by {"thinking": {"type": "enabled"}}
    tokenize_path: str | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    cached_tokens_hint: str = ""  # how to make the serve report cached_tokens


DIALECTS = {
    dialect.engine: dialect
    for dialect in (
        Dialect(
            EMBEDDED,
            cache_salt=True,
            continuous_usage=True,
            chat_template_kwargs=True,
            tokenize_path="/tokenize",
            metrics=_VLLM_METRICS,
        ),
        Dialect(
            VLLM,
            cache_salt=True,
            continuous_usage=True,
            chat_template_kwargs=True,
            tokenize_path="/tokenize",
            metrics=_VLLM_METRICS,
            cached_tokens_hint="start vLLM with --enable-prompt-tokens-details",
        ),
        Dialect(
            SGLANG,
            cache_salt=True,
            continuous_usage=True,
            chat_template_kwargs=True,
            tokenize_path="/tokenize",
            metrics=_SGLANG_METRICS,
            cached_tokens_hint="start SGLang with --enable-cache-report and --enable-metrics",
        ),
        Dialect(HOSTED_DEEPSEEK, thinking_object=True),
        Dialect(OPENAI),
    )
}
