"""What the tools answer, by protocol."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.workloads.toolcall15.mocks import ECHO_LIMIT, tool_result
from ds4bench.workloads.toolcall15.scenario import VARIANTS, Battery, load_battery

BATTERY = load_battery()
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def result(
    battery: Battery, name: str, tool: str, protocol: Any = "v1-original", attempt: int = 1, **arguments: Any
) -> Any:
    return tool_result(battery.scenario(name, protocol), tool, arguments, attempt)


def test_fahrenheit_is_given_only_when_asked_for(battery: Battery) -> None:
    warm = result(battery, "TC-04", "get_weather", location="Tokyo", units=" Fahrenheit ")
    assert warm == {"location": "Tokyo", "temperature": 64, "units": "fahrenheit", "condition": "Clear"}
    for units in ({}, {"units": "celsius"}, {"units": "kelvin"}, {"units": 5}):
        assert result(battery, "TC-04", "get_weather", location="Tokyo", **units)["temperature"] == 18


def test_the_harness_drops_parts_of_three_results(battery: Battery) -> None:
    asked = {"location": "Paris", "title": "Sync", "date": "2026-03-23"}
    for name, tool, extra in (
        ("TC-04", "get_weather", {"condition"}),
        ("TC-08", "get_weather", {"humidity"}),
        ("TC-05", "create_calendar_event", {"title", "date"}),
    ):
        original, jasl = (result(battery, name, tool, protocol, **asked) for protocol in VARIANTS)
        assert original.keys() - jasl.keys() == extra
        assert {key: original[key] for key in jasl} == jasl


def test_an_event_repeats_its_title_and_date_or_has_a_title_of_its_own(battery: Battery) -> None:
    event = result(battery, "TC-05", "create_calendar_event", title="Sync", date="2026-03-23")
    assert event == {"event_id": "evt_4412", "status": "created", "title": "Sync", "date": "2026-03-23"}
    assert result(battery, "TC-05", "create_calendar_event")["title"] == "Team Standup"
    assert result(battery, "TC-05", "create_calendar_event")["date"] == ""


def test_only_the_first_exact_search_is_empty(battery: Battery) -> None:
    found = {"results": [{"file_id": "file_117", "name": "Johnson_Project_Proposal_v2.docx"}]}
    search = "search_files"
    assert result(battery, "TC-13", search, query="the Johnson Proposal") == {"results": []}
    assert result(battery, "TC-13", search, query="the Johnson Proposal", attempt=2) == found
    assert result(battery, "TC-13", search, query="johnson") == found
    assert "error" in result(battery, "TC-13", search, query="proposal")


def test_chinese_language_names_are_understood_by_the_harness_only(battery: Battery) -> None:
    for target in ("西班牙语", "日语", "日文"):
        assert "translated" in result(battery, "TC-06", "translate_text", "v1-jasl", target_language=target)
        assert "error" in result(battery, "TC-06", "translate_text", "v1-original", target_language=target)


def test_tools_that_a_scenario_does_not_know_fall_back(battery: Battery) -> None:
    assert result(battery, "TC-10", "calculator", expression="6*7") == {"result": 42}
    assert "error" in result(battery, "TC-10", "calculator", expression="9**9**9")
    assert "error" in result(battery, "TC-10", "calculator", expression=6)
    assert "end of WWII" in result(battery, "TC-10", "web_search", query="end of WWII")["results"][0]["snippet"]
    assert "switched off" in result(battery, "TC-10", "run_code", code="1")["error"]
    assert "send_email" in result(battery, "TC-10", "send_email", to="x")["error"]
    assert "fly_to_moon" in result(battery, "TC-10", "fly_to_moon")["error"]


def test_a_result_repeats_no_endless_argument(battery: Battery) -> None:
    snippet = result(battery, "TC-10", "web_search", query="a" * 10**6)["results"][0]["snippet"]
    assert len(snippet) < ECHO_LIMIT + 50


@pytest.mark.parametrize("protocol", VARIANTS)
@given(
    name=st.sampled_from(list(BATTERY.files)),
    tool=st.sampled_from([tool.name for tool in BATTERY.tools]) | st.text(max_size=8),
    arguments=st.dictionaries(
        st.sampled_from(sorted({key for tool in BATTERY.tools for key in tool.parameters})) | st.text(max_size=4),
        VALUES,
        max_size=4,
    ),
    attempt=st.integers(1, 9),
)
def test_every_call_gets_a_result(protocol: Any, name: str, tool: str, arguments: dict[str, Any], attempt: int) -> None:
    got = tool_result(BATTERY.scenario(name, protocol), tool, arguments, attempt)
    assert isinstance(got, dict)
    assert got
