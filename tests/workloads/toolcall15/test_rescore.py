"""From stored traces to totals."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.errors import StoreError, WorkloadError
from ds4bench.workloads.toolcall15.reply import Reply
from ds4bench.workloads.toolcall15.rules import Score, score
from ds4bench.workloads.toolcall15.scenario import VARIANTS, Battery, load_battery
from ds4bench.workloads.toolcall15.summary import rescore, stars, summarise, units
from ds4bench.workloads.toolcall15.trace import Trace, dump_traces, load_traces

BATTERY = load_battery()
IDS = list(BATTERY.files)


def scored(name: str, points: int, rules: str = "v1-original", mode: str = "think-max", round_: int = 0) -> Score:
    return Score(
        scenario=name,
        category=BATTERY.files[name].category,
        mode=mode,
        round=round_,
        rules=rules,
        points=points,
        label={2: "pass", 1: "partial", 0: "fail"}[points],  # type: ignore[arg-type]
        reason="",
        fingerprint=f"{name} {points}",
    )


def test_traces_are_rescored_offline_by_the_other_rules(battery: Battery, play: Any) -> None:
    stock = ("get_stock_price", {"ticker": "AAPL"})
    made = [play("TC-10", "1945"), play("TC-14", [stock], "I couldn't get it."), play("TC-12", "我无法删除邮件。")]
    stored = load_traces(dump_traces(made))
    assert stored == made
    original, jasl = (rescore(stored, rules) for rules in VARIANTS)
    assert [item.points for item in original.scores] == [2, 2, 0]
    assert [item.points for item in jasl.scores] == [2, 0, 2]
    assert [item.rules for item in (original.summary, jasl.summary)] == list(VARIANTS)
    assert jasl.scores == [score(trace, battery, "v1-jasl") for trace in made]
    assert all(item.notes == [] for item in jasl.scores)


def test_a_trace_of_an_older_scenario_says_so(play: Any) -> None:
    old = msgspec.structs.replace(play("TC-10", "1945"), digest="0" * 16)
    assert "another version" in rescore([old], "v1-jasl").scores[0].notes[0]


def test_chinese_conversations_are_known_as_such(play: Any) -> None:
    trace = play("TC-10", "1945 年。", language="zh")
    assert trace.user == "第二次世界大战在哪一年结束？"
    assert rescore([trace], "v1-jasl").scores[0].notes == []


def test_the_totals_of_the_two_rule_sets_are_rounded_differently() -> None:
    points = dict.fromkeys(IDS, 2) | {"TC-04": 1, "TC-07": 1, "TC-10": 1}  # 27 of 30; three categories 5 of 6
    original = summarise([scored(name, p) for name, p in points.items()], BATTERY)
    jasl = summarise([scored(name, p, "v1-jasl") for name, p in points.items()], BATTERY)
    assert [category.percent for category in original.total.categories] == [100, 83, 83, 83, 100]
    assert (original.total.percent, jasl.total.percent) == (90, 90)
    points["TC-13"] = 1
    original = summarise([scored(name, p) for name, p in points.items()], BATTERY)
    jasl = summarise([scored(name, p, "v1-jasl") for name, p in points.items()], BATTERY)
    assert (original.total.percent, jasl.total.percent) == (86, 87)  # mean of 100 and four times 83; 26 of 30
    assert original.sentence.startswith("ToolCall-15 86 % (26 of 30 points, 15 conversations) by the rules v1-original")


def test_stars_are_those_of_the_benchmark() -> None:
    assert [stars(p) for p in (100, 90, 89, 75, 74, 60, 59, 40, 39, 0)] == [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]


def test_rounds_that_disagree_are_flaky_and_equal_replies_are_one_sample(battery: Battery, play: Any) -> None:
    wrong = play("TC-11", "It is 25.", round_=2)
    traces = [play("TC-11", "It is 30.", round_=0), play("TC-11", "It is 30.", round_=1), wrong]
    found = rescore(traces, "v1-original")
    (case,) = found.summary.cases
    assert (case.label, case.points, case.unique) == ("flaky", [2, 2, 0], 2)
    assert case.missed == ["wanted an answer that has the number 30"]
    assert (found.summary.total.conversations, found.summary.total.unique) == (3, 2)
    assert "3 conversations, 2 different" in found.summary.sentence
    assert units(found.scores) == {("TC-11", "non-thinking", r): p for r, p in ((0, 2), (1, 2), (2, 0))}


def test_labels_and_counts_of_a_run(play: Any) -> None:
    weather, web = ("get_weather", {"location": "Berlin"}), ("web_search", {"query": "Berlin"})
    traces = [
        play("TC-01", [weather], "8C"),
        play("TC-02", [web, ("get_stock_price", {"ticker": "AAPL"})], "$187.42"),
        play("TC-10", "1944"),
        play("TC-12", Reply(error="http_500")),
        play("TC-11", Reply(content="The", finish_reason="length")),
    ]
    summary = rescore(traces, "v1-jasl").summary
    assert {case.scenario: case.label for case in summary.cases} == {
        "TC-01": "pass",
        "TC-02": "partial",
        "TC-10": "fail",
        "TC-11": "fail",
        "TC-12": "error",
    }
    total = summary.total
    assert (total.earned, total.possible, total.not_full, total.errors, total.truncated) == (3, 10, 4, 1, 1)
    assert (total.percent, total.stars) == (30, 1)
    assert "INCOMPLETE: no TC-03, TC-04" in summary.sentence


def test_modes_are_summed_apart_and_together() -> None:
    scores = [scored(name, p, "v1-jasl", mode) for mode, p in (("think-high", 2), ("think-max", 1)) for name in IDS]
    summary = summarise(scores, BATTERY)
    assert [(mode.mode, mode.percent) for mode in summary.modes] == [("think-high", 100), ("think-max", 50)]
    assert (summary.total.mode, summary.total.percent) == ("all", 75)
    assert summary.incomplete == []


def test_scores_of_two_rule_sets_or_none_are_not_added_up() -> None:
    with pytest.raises(WorkloadError, match=r"different rule sets \(v1-jasl, v1-original\)"):
        summarise([scored("TC-01", 2), scored("TC-01", 2, "v1-jasl")], BATTERY)
    with pytest.raises(WorkloadError, match="there are none"):
        rescore([], "v1-jasl")


@given(st.lists(st.integers(0, 2), min_size=15, max_size=15))
def test_the_two_totals_are_at_most_a_point_apart(points: list[int]) -> None:
    totals = [
        summarise([scored(name, p, rules) for name, p in zip(IDS, points, strict=True)], BATTERY).total.percent
        for rules in VARIANTS
    ]
    assert abs(totals[0] - totals[1]) <= 1
    assert abs(totals[1] - 100 * sum(points) / 30) <= 0.5


def test_a_damaged_or_foreign_trace_is_told_with_its_line(play: Any) -> None:
    good = dump_traces([play("TC-10", "1945")])
    with pytest.raises(StoreError, match=r"traces\.jsonl:2: not a tool-call trace"):
        load_traces(good + good[:40], "traces.jsonl")
    later = msgspec.structs.replace(play("TC-10", "1945"), schema=2)
    with pytest.raises(StoreError, match="trace schema 2"):
        load_traces(dump_traces([later]))
    unknown: Trace = msgspec.structs.replace(play("TC-10", "1945"), scenario="TC-77")
    with pytest.raises(WorkloadError, match="TC-77"):
        rescore([unknown], "v1-jasl")
