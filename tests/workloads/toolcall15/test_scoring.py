"""Hand-written conversations and what they are worth: for every scenario ideal ones and bad ones, under both rule sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ds4bench.errors import WorkloadError
from ds4bench.workloads.toolcall15.rules import Score, score
from ds4bench.workloads.toolcall15.scenario import VARIANTS, Battery

SENTENCE = "Which way is it to the closest hospital?"


@dataclass(frozen=True)
class Row:
    """A conversation, its points by the original rules and by the harness's, and words of the reason."""

    scenario: str
    what: str
    turns: tuple[Any, ...]
    original: int
    jasl: int
    why: str = ""


def weather(location: str = "Berlin", **more: str) -> tuple[str, dict[str, Any]]:
    return "get_weather", {"location": location, **more}


def stock(ticker: str = "AAPL") -> tuple[str, dict[str, Any]]:
    return "get_stock_price", {"ticker": ticker}


def web(query: str = "news") -> tuple[str, dict[str, Any]]:
    return "web_search", {"query": query}


def contacts(query: str = "Sarah") -> tuple[str, dict[str, Any]]:
    return "get_contacts", {"query": query}


def email(to: str = "sarah.chen@company.com", body: str = "The meeting is at 3pm.") -> tuple[str, dict[str, Any]]:
    return "send_email", {"to": to, "subject": "Meeting", "body": body}


def event(**changed: Any) -> tuple[str, dict[str, Any]]:
    good = {"title": "Standup", "date": "2026-03-23", "time": "09:30", "duration_minutes": 30}
    return "create_calendar_event", {**good, "attendees": ["Alex Stone", "jamie.liu@company.com"], **changed}


def translate(target: str, text: str = SENTENCE, source: str = "English") -> tuple[str, dict[str, Any]]:
    return "translate_text", {"text": text, "source_language": source, "target_language": target}


def files(query: str) -> tuple[str, dict[str, Any]]:
    return "search_files", {"query": query}


def remind(datetime: str = "2026-03-21T08:00:00", message: str = "Bring an umbrella") -> tuple[str, dict[str, Any]]:
    return "set_reminder", {"message": message, "datetime": datetime}


def calculator(expression: str) -> tuple[str, dict[str, Any]]:
    return "calculator", {"expression": expression}


READ = ("read_file", {"file_id": "file_091"})
MANAGER = contacts("my manager")
TOTAL = email("jordan.park@company.com", "The total is $4.4M.")
BAD_CODE = ("run_code", {"language": "python", "code": "1945"})

ROWS = [
    Row("TC-01", "ideal", ([weather()], "8C and overcast."), 2, 2),
    Row("TC-01", "wrong tool", ([web("weather Berlin")], "8C."), 1, 1, "passed over the specialist"),
    Row("TC-01", "wrong place", ([weather("Munich")], "8C."), 0, 0, "location contains 'berlin'"),
    Row("TC-01", "extra call", ([weather(), web("weather Berlin")], "8C."), 0, 0, "2 calls to any tool"),
    Row("TC-01", "same call twice", ([weather()], [weather()], "8C."), 0, 0, "2 calls to any tool"),
    Row("TC-01", "answer from memory", ("About 15C.",), 0, 0, "0 calls to get_weather"),
    Row("TC-01", "Chinese place name", ([weather("柏林")], "8C."), 0, 2, "柏林"),
    Row("TC-02", "ideal", ([stock(" aapl ")], "$187.42"), 2, 2),
    Row("TC-02", "extra web search", ([stock(), web()], "$187.42"), 1, 1, "unneeded web_search"),
    Row("TC-02", "wrong ticker", ([stock("APPL")], "$187.42"), 0, 0, "ticker is 'aapl': it is 'APPL'"),
    Row("TC-02", "web only", ([web("AAPL price")], "$187.42"), 0, 0, "get_stock_price"),
    Row("TC-02", "invented price", ("It is $200.",), 0, 0, "0 calls"),
    Row("TC-02", "extra calculator", ([stock(), calculator("1+1")], "$187.42"), 0, 0, "2 calls to any tool"),
    Row("TC-03", "ideal", ([contacts()], [email()], "Done."), 2, 2),
    Row("TC-03", "both at once, so the address was guessed", ([contacts(), email()], "Done."), 0, 0, "only in turn 1"),
    Row("TC-03", "made-up address", ([contacts()], [email("sarah@example.com")], "Sent."), 0, 0, "sarah@example.com"),
    Row("TC-03", "email without a lookup", ([email()], "Done."), 0, 0, "no call to get_contacts"),
    Row("TC-03", "asks for the address", ("What is Sarah's email address?",), 1, 1, "instead of looking it up"),
    Row("TC-03", "asks something else", ("Shall I call Sarah?",), 0, 0, "did not go from the contact"),
    Row("TC-03", "wrong person", ([contacts("Sam")], [email()], "Done."), 0, 0, "query contains 'sarah'"),
    Row("TC-04", "ideal", ([weather("Tokyo, Japan", units="Fahrenheit")], "64F"), 2, 2),
    Row("TC-04", "converts by itself", ([weather("Tokyo")], "18C, that is 64.4 degrees."), 1, 1, "converted by itself"),
    Row("TC-04", "ignores the unit", ([weather("Tokyo")], "18C"), 0, 0, "it is left out"),
    Row("TC-04", "asks for Celsius", ([weather("Tokyo", units="celsius")], "64 Fahrenheit"), 0, 0, "it is 'celsius'"),
    Row("TC-04", "wrong first", ([weather("Kyoto")], [weather("Tokyo", units="fahrenheit")], "64"), 0, 0, "Kyoto"),
    Row("TC-04", "Chinese place name", ([weather("东京", units="fahrenheit")], "64"), 0, 2, "东京"),
    Row("TC-05", "ideal", ([contacts("Alex, Jamie")], [event()], "Done."), 2, 2),
    Row("TC-05", "wrong Monday", ([event(date="2026-03-30")], "Done."), 0, 0, "2026-03-30"),
    Row("TC-05", "time not padded", ([event(time="9:30")], "Done."), 0, 0, "time is '09:30'"),
    Row("TC-05", "length forgotten", ([event(duration_minutes=None)], "Done."), 1, 1, "duration_minutes"),
    Row("TC-05", "length as text", ([event(duration_minutes="30")], "Done."), 2, 1, "it is '30'"),
    Row("TC-05", "Jamie forgotten", ([event(attendees=["Alex"])], "Done."), 1, 1, "attendees"),
    Row("TC-05", "people as text", ([event(attendees="Alex, Jamie")], "Done."), 1, 1, "attendees"),
    Row("TC-05", "no event", ([contacts("Alex")], "It is in your calendar."), 0, 0, "no call to create_calendar_event"),
    Row("TC-06", "ideal", ([translate("Spanish"), translate("Japanese")], "..."), 2, 2),
    Row("TC-06", "one after the other", ([translate("spanish")], [translate("japanese")], "..."), 2, 2),
    Row("TC-06", "bundled", ([translate("Spanish and Japanese")], "..."), 0, 0, "at most 0 wanted"),
    Row("TC-06", "one only", ([translate("Spanish")], "..."), 0, 0, "at least 2 wanted"),
    Row("TC-06", "text changed", ([translate("Spanish", SENTENCE[:-1]), translate("Japanese")], ""), 0, 0, "hospital'"),
    Row("TC-06", "source wrong", ([translate("Spanish", source="en"), translate("Japanese")], ""), 0, 0, "it is 'en'"),
    Row("TC-06", "translated from memory", ("¿Por dónde se va al hospital? 病院はどこですか",), 0, 0, "0 calls"),
    Row(
        "TC-06",
        "Chinese names",
        ([translate("西班牙语", source="英语"), translate("日语", source="英语")], ""),
        0,
        2,
        "英语",
    ),
    Row("TC-07", "ideal", ([files("Q3 Budget Report")], [READ, MANAGER], [TOTAL], "Sent."), 2, 2),
    Row("TC-07", "short query", ([files("Q3")], [READ, MANAGER], [TOTAL], "Sent."), 1, 2, "3 of 4 hold"),
    Row(
        "TC-07",
        "total invented",
        ([files("Q3 budget report")], [MANAGER], [READ], [email("jordan.park@company.com", "It is $5M.")], "Sent."),
        1,
        1,
        "one of the four steps",
    ),
    Row("TC-07", "nothing read, nobody looked up", ([files("q3 budget report")], [TOTAL], "Sent."), 0, 0, "2 of 4"),
    Row("TC-07", "claims to have done it", ("I sent the total of $4.4M to your manager.",), 0, 0, "0 of 4 hold"),
    Row("TC-08", "ideal", ([weather("Paris")], [remind()], "Done."), 2, 2),
    Row("TC-08", "with a zone", ([weather("Paris")], [remind("2026-03-21T08:00:00+01:00")], "Done."), 2, 2),
    Row("TC-08", "no seconds, space", ([weather("Paris")], [remind("2026-03-21 08:00")], "Done."), 0, 2, "datetime"),
    Row("TC-08", "no seconds", ([weather("Paris")], [remind("2026-03-21T08:00")], "Done."), 0, 0, "datetime"),
    Row("TC-08", "blindly, in one turn", ([weather("Paris"), remind()], "Done."), 0, 0, "came in turn 1"),
    Row("TC-08", "wrong day", ([weather("Paris")], [remind("2026-03-20T08:00:00")], "Done."), 0, 0, "2026-03-20T08"),
    Row("TC-08", "asks", ([weather("Paris")], "It rains. Could you confirm?"), 1, 1, "instead of setting"),
    Row("TC-08", "ignores the rain", ([weather("Paris")], "It rains."), 0, 0, "no call to set_reminder"),
    Row("TC-09", "ideal", ([weather("London"), stock("MSFT")], "12C, $412.78"), 2, 2),
    Row("TC-09", "one after the other", ([stock("msft")], [weather("London")], "12C, $412.78"), 2, 2),
    Row("TC-09", "web instead", ([web("London weather, MSFT")], "12C, $412.78"), 1, 1, "fell back"),
    Row("TC-09", "one half", ([weather("London")], "12C, and MSFT is at $400."), 0, 0, "get_stock_price"),
    Row("TC-09", "Chinese place name", ([weather("伦敦"), stock("MSFT")], "12C"), 0, 2, "伦敦"),
    Row("TC-10", "ideal", ("It ended in 1945.",), 2, 2),
    Row("TC-10", "no restraint", ([web("end of the war")], "1945."), 0, 0, "at most 0 wanted"),
    Row("TC-10", "runs code for it", ([BAD_CODE], "1945."), 0, 0, "1 call to any tool"),
    Row("TC-10", "wrong", ("1944.",), 0, 0, "has the number 1945"),
    Row("TC-11", "ideal", ("15% of 200 is 30.",), 2, 2),
    Row("TC-11", "calculator", ([calculator("200*0.15")], "30"), 1, 1, "not needed"),
    Row("TC-11", "calculator, wrong", ([calculator("200*0.15")], "It is 45."), 0, 0, "has the number 30"),
    Row("TC-11", "calculator and web", ([calculator("200*0.15"), web()], "30"), 0, 0, "no place here"),
    Row("TC-11", "wrong", ("It is 25.",), 0, 0, "has the number 30"),
    Row("TC-12", "ideal", ("I can't delete emails: there is no tool for that.",), 2, 2),
    Row("TC-12", "ideal by its other words", ("I cannot do that with any available tool.",), 2, 0, "delete"),
    Row("TC-12", "pretends", ("All your emails of last month are deleted.",), 0, 0, "cannot"),
    Row("TC-12", "tries something", ([web("delete emails")], "I can't delete emails."), 0, 0, "at most 0 wanted"),
    Row("TC-12", "Chinese refusal", ("我无法删除邮件。",), 0, 2, "cannot"),
    Row("TC-13", "ideal", ([files("Johnson proposal")], [files("Johnson")], "Found it."), 2, 2),
    Row("TC-13", "asks", ([files("Johnson proposal")], "Nothing found. Could you tell me more?"), 2, 2),
    Row("TC-13", "gives up", ([files("Johnson proposal")], "There is no such document."), 0, 0, "at least 2 wanted"),
    Row("TC-13", "invents a file", ("It is Johnson_Proposal.docx.",), 0, 0, "0 calls to search_files"),
    Row("TC-14", "ideal", ([stock()], "The rate limit is exceeded; please try again later."), 2, 2),
    Row("TC-14", "honest stop", ([stock()], "I couldn't get a price."), 2, 0, "temporarily unavailable"),
    Row("TC-14", "only names the tool", ([stock()], "get_stock_price has failed."), 2, 0, "temporarily unavailable"),
    Row("TC-14", "names it, stops", ([stock()], "The service is down."), 2, 0, "0 of 2 hold"),
    Row("TC-14", "web, honest at the end", ([stock()], [web()], "Service down; by web search $187.42."), 2, 2),
    Row(
        "TC-14",
        "web, honest on the way only",
        ([stock()], ("The service is unavailable, I look on the web.", [web()]), "It is $187.42."),
        1,
        2,
        "without saying",
    ),
    Row("TC-14", "web, hides the failure", ([stock()], [web()], "It is $187.42."), 1, 1, "without saying"),
    Row("TC-14", "ignores the error", ([stock()], "Apple is at $190."), 0, 0, "wanted"),
    Row("TC-14", "invents a price", ("Apple is at $190.",), 0, 0, "0 calls to get_stock_price"),
    Row("TC-15", "ideal", ([web("population of Iceland")], [calculator("372,520 * 0.02")], "7450.4"), 2, 2),
    Row("TC-15", "other query", ([web("Iceland population")], [calculator("372520*0.02")], "7450.4"), 0, 2, "query"),
    Row("TC-15", "does the sum itself", ([web("population of Iceland")], "2% is 7,450.4."), 1, 1, "without the calc"),
    Row("TC-15", "rounded from memory", ([calculator("370000*0.02")], "7400"), 0, 0, "no call to web_search"),
    Row(
        "TC-15",
        "rounds what it found",
        ([web("population of Iceland")], [calculator("370000/50")], "7400"),
        0,
        0,
        "3725",
    ),
    Row("TC-15", "wrong sum", ([web("population of Iceland")], "2% is 8000."), 0, 0, "did not reach"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.scenario}-{row.what.replace(' ', '-')}")
def test_points_and_reason(row: Row, battery: Battery, play: Any) -> None:
    trace = play(row.scenario, *row.turns)
    scores = [score(trace, battery, rules) for rules in VARIANTS]
    assert [item.points for item in scores] == [row.original, row.jasl]
    for item in scores:
        assert item.label == {2: "pass", 1: "partial", 0: "fail"}[item.points]
        assert bool(item.missed) == (item.points < 2)
    worst = min(scores, key=lambda item: item.points)
    assert row.why in "; ".join([worst.reason, *worst.missed])


def test_every_scenario_has_an_ideal_and_bad_conversations_for_both_rule_sets(battery: Battery) -> None:
    for name in battery.files:
        rows = [row for row in ROWS if row.scenario == name]
        assert any(row.original == row.jasl == 2 for row in rows), name
        assert sum(row.original < 2 for row in rows) >= 2, name
        assert sum(row.jasl < 2 for row in rows) >= 2, name
        assert all(row.why for row in rows if min(row.original, row.jasl) < 2), name


def test_the_two_rule_sets_differ_where_the_specification_says_so() -> None:
    different = {row.scenario for row in ROWS if row.original != row.jasl}
    assert different == {f"TC-{n:02}" for n in (1, 4, 5, 6, 7, 8, 9, 12, 14, 15)}


def test_an_ideal_conversation_scores_the_same_under_either_protocol(battery: Battery, play: Any) -> None:
    for row in ROWS:
        if row.original == row.jasl == 2:
            traces = [play(row.scenario, *row.turns, protocol=protocol) for protocol in VARIANTS]
            assert [score(t, battery, rules).points for t in traces for rules in VARIANTS] == [2, 2, 2, 2]


def test_calls_in_one_turn_are_noted(battery: Battery, play: Any) -> None:
    together = play("TC-09", [weather("London"), stock("MSFT")], "ok")
    apart = play("TC-09", [weather("London")], [stock("MSFT")], "ok")
    assert score(together, battery, "v1-jasl").notes == ["both tools were called in one turn"]
    assert score(apart, battery, "v1-jasl").notes == []


def test_out_of_turns_the_original_reads_the_last_text_and_the_harness_nothing(battery: Battery, play: Any) -> None:
    trace = play("TC-11", ("That is 30, I check again.", [calculator("200*0.15")]))
    assert trace.status == "exhausted"
    scores: list[Score] = [score(trace, battery, rules) for rules in VARIANTS]
    assert [item.points for item in scores] == [1, 0]
    assert all(item.diagnoses == ["exhausted"] for item in scores)


def test_an_unknown_rule_set_or_scenario_is_told(battery: Battery, play: Any) -> None:
    trace = play("TC-10", "1945")
    with pytest.raises(WorkloadError, match="known: v1-original, v1-jasl"):
        score(trace, battery, "v2")
    with pytest.raises(WorkloadError, match="no tool-call scenario 'TC-99'"):
        battery.file("TC-99")
