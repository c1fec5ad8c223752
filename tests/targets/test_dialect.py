"""The table of engines."""

from __future__ import annotations

import pytest

from ds4bench.client.prometheus import parse_counters
from ds4bench.embedded.metrics import EngineMetrics
from ds4bench.targets.dialect import DIALECTS, cached_tokens, dialect_of
from ds4bench.verdicts.checks import first_tokens


@pytest.mark.parametrize("engine", ["embedded", "vllm", "sglang", "hosted-deepseek", "openai"])
def test_every_engine_knows_its_own_name(engine: str) -> None:
    assert dialect_of(engine).engine == engine


def test_an_unknown_engine_is_spoken_to_in_plain_openai() -> None:
    plain = dialect_of("somebody-else")
    assert plain is DIALECTS["openai"]
    assert not plain.cache_salt
    assert plain.stream_options() == {"include_usage": True}


@pytest.mark.parametrize(
    ("engine", "body"),
    [
        ("vllm", {"chat_template_kwargs": {"thinking": False}}),
        ("sglang", {"chat_template_kwargs": {"thinking": False}}),
        ("hosted-deepseek", {"thinking": {"type": "disabled"}}),
        ("openai", {}),
    ],
)
def test_thinking_is_switched_off_in_the_words_of_the_engine(engine: str, body: dict[str, object]) -> None:
    assert dialect_of(engine).thinking_body(False) == body
    assert dialect_of(engine).thinking_body(None) == {}


def test_cached_tokens_are_read_where_each_engine_puts_them() -> None:
    usage = {"prompt_tokens_details": {"cached_tokens": 256}, "prompt_cache_hit_tokens": 64}
    assert cached_tokens(usage, dialect_of("vllm")) == 256
    assert cached_tokens(usage, dialect_of("hosted-deepseek")) == 64


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens_details": None}, {"prompt_tokens_details": {}}])
def test_cached_tokens_that_are_not_told_are_not_zero(usage: dict[str, object]) -> None:
    assert cached_tokens(usage, dialect_of("vllm")) is None


def test_counters_of_both_engines_get_the_names_that_the_cold_proof_reads() -> None:
    assert {"prefix_cache_hits", "prefix_cache_queries"} <= set(dialect_of("vllm").metrics.values())
    assert "prefix_cache_hits" in dialect_of("sglang").metrics.values()


def test_the_embedded_engines_ttft_histogram_has_the_names_that_the_check_of_first_tokens_reads() -> None:
    metrics = EngineMetrics("ds4-nano")
    metrics.first_tokens(1, 0.25)
    metrics.first_tokens(2, 0.5)
    samples, names = parse_counters(metrics.render().decode()), dialect_of("embedded").metrics
    told = {canonical: samples[name] for name, canonical in names.items() if name in samples}
    assert (told[first_tokens.SECONDS], told[first_tokens.COUNT]) == (0.75, 2.0)
    assert {first_tokens.SECONDS, first_tokens.COUNT} <= set(dialect_of("sglang").metrics.values())


def test_a_serve_that_hides_cached_tokens_is_told_which_flag_to_add() -> None:
    assert "--enable-prompt-tokens-details" in (dialect_of("vllm").cached_tokens_hint or "")
    assert "--enable-cache-report" in (dialect_of("sglang").cached_tokens_hint or "")


def test_an_effort_stands_where_each_engine_reads_it() -> None:
    both = {"reasoning_effort": "max", "chat_template_kwargs": {"thinking": True, "reasoning_effort": "max"}}
    assert dialect_of("vllm").thinking_body(True, "max") == both
    assert dialect_of("hosted-deepseek").thinking_body(True, "high") == {
        "reasoning_effort": "high",
        "thinking": {"type": "enabled"},
    }
    assert dialect_of("hosted-deepseek").thinking_body(False, "high") == {"thinking": {"type": "disabled"}}


def test_the_hosted_api_is_not_asked_for_pages_that_it_does_not_have() -> None:
    hosted = dialect_of("hosted-deepseek")
    assert (hosted.health_path, hosted.tokenize_path, hosted.reset_prefix_cache) == (None, None, None)
    assert not hosted.completions
    assert not hosted.metrics
