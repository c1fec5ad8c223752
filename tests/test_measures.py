"""Per-cell numbers: each by hand on a few rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.core import Answer, BatchRow, Cell, RequestResult, RequestRow, ScriptRow
from ds4bench.measures import CellMeasures, cell_measures, judged_metric, tokens_between
from tests.records import batch_row, request_row

CELL = Cell("c", 2, {"concurrency": 2})


def row(index: int = 0, **result: Any) -> RequestRow:
    values = {"ok": True, "ttft_s": 1.0, "e2e_s": 3.0, "completion_tokens": 21, "first_chunk_tokens": 1, **result}
    return request_row(index=index, result=RequestResult(**values), script=index)


def batch(**changes: Any) -> BatchRow:
    return batch_row(**{"wall_s": 4.0, "delivered_concurrency": 2.0, **changes})


def measured(rows: list[RequestRow], *batches: BatchRow, scripts: list[ScriptRow] | None = None) -> CellMeasures:
    return cell_measures([CELL], rows, batches, scripts or [])[0]


def test_output_rate_is_over_the_wall_time_and_over_the_steady_window() -> None:
    found = measured([row()], batch(steady_start_s=0.0, steady_end_s=2.0))
    assert found.output_tok_s == pytest.approx(21 / 4)
    assert found.output_tok_s_steady == pytest.approx((1 + 10) / 2)  # the first token, and half of the other twenty
    assert measured([row()], batch()).output_tok_s_steady is None


@given(st.floats(0, 5), st.floats(0, 5), st.floats(0, 5))
def test_windows_side_by_side_hold_every_token_once(a: float, b: float, c: float) -> None:
    one, two, three = sorted((a, b, c))
    whole = tokens_between(row(), one, three)
    parts = tokens_between(row(), one, two) + tokens_between(row(), two, three)
    assert whole <= 21 + 1e-9
    if two != 1.0:  # the instant of the first token belongs to both
        assert parts == pytest.approx(whole)


def test_tpot_stands_in_only_where_a_side_never_tells_tpot_decode_and_all_tell_tpot() -> None:
    told = [row(tpot_ms=20.0, tpot_decode_ms=21.0), row(tpot_ms=20.0)]
    silent, short = [row(tpot_ms=20.0)], [row()]
    assert judged_metric("tpot_decode_ms", told, told) == "tpot_decode_ms"
    assert judged_metric("tpot_decode_ms", told, silent) == "tpot_ms"
    assert judged_metric("tpot_decode_ms", silent, told) == "tpot_ms"
    assert judged_metric("tpot_decode_ms", told, short) == "tpot_decode_ms"  # and the rule says that it is not there
    assert judged_metric("ttft_s", [row(ttft_s=None)], told) == "ttft_s"
    failed = [row(ok=False, tpot_ms=20.0, tpot_decode_ms=21.0)]
    assert judged_metric("tpot_decode_ms", [*failed, *silent]) == "tpot_ms"


def test_times_per_token_of_a_cell_are_of_one_kind() -> None:
    told = [row(tpot_ms=20.0, tpot_decode_ms=24.0), row(tpot_ms=20.0, tpot_decode_ms=26.0)]
    assert measured(told).tpot_mean_ms == pytest.approx(25)
    assert measured([row(tpot_ms=20.0), row(tpot_ms=22.0)]).tpot_mean_ms == pytest.approx(21)


def test_acceptance_comes_from_the_serves_counters() -> None:
    counters = {
        "spec_drafts": 10.0, "spec_draft_tokens": 20.0, "spec_accepted_tokens": 12.0,
        "spec_accepted_at_0": 8.0, "spec_accepted_at_1": 4.0,
    }  # fmt: skip
    found = measured([row()], batch(counters=counters))
    assert (found.acceptance_rate, found.acceptance_length) == (pytest.approx(0.6), pytest.approx(2.2))
    assert found.acceptance_per_position == (0.8, 0.4)
    none = measured([row()], batch())
    assert (none.acceptance_rate, none.acceptance_length, none.acceptance_per_position) == (None, None, ())


def test_hit_rate_prefers_usage_and_falls_back_to_counters() -> None:
    told = row(prompt_tokens=100, cached_tokens=25)
    assert measured([told], batch(counters={"prefix_cache_hits": 3, "prefix_cache_queries": 4})).hit_rate == 0.25
    untold = row(prompt_tokens=100)
    assert measured([untold], batch(counters={"prefix_cache_hits": 3, "prefix_cache_queries": 4})).hit_rate == 0.75
    assert measured([row(prompt_tokens=100)], batch()).hit_rate is None


def test_a_p99_of_few_values_is_not_shown_as_one() -> None:
    assert measured([row(i) for i in range(99)]).ttft_p99_s is None
    values = [row(i, ttft_s=float(i + 1)) for i in range(100)]
    assert measured(values).ttft_p99_s == 99.0
    assert measured(values).ttft_median_s == 50.5


def test_prefill_rate_counts_the_time_in_which_a_first_token_was_awaited() -> None:
    one_by_one = [row(0, prompt_tokens=100), row(1, prompt_tokens=100, start_s=10.0)]
    together = [row(0, prompt_tokens=100), row(1, prompt_tokens=100, ttft_s=2.0)]
    assert measured(one_by_one).prefill_tok_s == pytest.approx(100.0)
    assert measured(together).prefill_tok_s == pytest.approx(100.0)


def test_scores_are_means_over_requests_and_scripts() -> None:
    scripts = [
        ScriptRow(
            cell="c", repeat=0, attempt=0, phase="measure", script=i, key=str(i), requests=1,
            answer=Answer(scores={"points": float(i)}),
        )
        for i in range(2)
    ]  # fmt: skip
    assert measured([row()], batch(), scripts=scripts).scores == {"points": 0.5}
    assert measured([row()]).scores is None
