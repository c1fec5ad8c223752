"""A serve's counters, summed, and their growth."""

from __future__ import annotations

import pytest

from ds4bench.client.prometheus import delta, parse_counters
from ds4bench.errors import TargetDiedError, TargetError

TEXT = """\
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0"} 5.0
vllm:prompt_tokens_total{engine="1"} 7.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0"} 1.7e+09
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 3.0
# TYPE vllm:ttft_seconds histogram
vllm:ttft_seconds_bucket{le="0.1",engine="0"} 1.0
vllm:ttft_seconds_bucket{le="0.1",engine="1"} 2.0
vllm:ttft_seconds_bucket{le="+Inf",engine="0"} 4.0
vllm:ttft_seconds_count{engine="0"} 4.0
vllm:ttft_seconds_sum{engine="0"} 1.5
"""


def test_counters_are_summed_over_labels_and_gauges_left_out() -> None:
    assert parse_counters(TEXT) == {
        "vllm:prompt_tokens_total": 12.0,
        'vllm:ttft_seconds_bucket{le="0.1"}': 3.0,
        'vllm:ttft_seconds_bucket{le="+Inf"}': 4.0,
        "vllm:ttft_seconds_count": 4.0,
        "vllm:ttft_seconds_sum": 1.5,
    }


def test_growth_of_what_both_have() -> None:
    assert delta({"a": 1.0, "gone": 2.0}, {"a": 4.0, "new": 9.0}) == {"a": 3.0}


def test_a_counter_that_went_backwards_means_a_restart() -> None:
    with pytest.raises(TargetDiedError, match="a went backwards by 3"):
        delta({"a": 4.0}, {"a": 1.0})


def test_text_that_is_no_metrics_page_is_an_error_in_words() -> None:
    with pytest.raises(TargetError, match="not Prometheus text"):
        parse_counters("<html>hello there\n</html>")


def test_the_place_of_a_draft_token_stays_in_the_name() -> None:
    text = (
        "# TYPE vllm:spec_decode_num_accepted_tokens_per_pos counter\n"
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 5\n'
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",position="0"} 2\n'
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 1\n'
    )
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    assert parse_counters(text) == {f'{name}{{position="0"}}': 7.0, f'{name}{{position="1"}}': 1.0}
