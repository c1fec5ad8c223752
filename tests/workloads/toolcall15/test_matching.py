"""The language of the checks: what each key of a match means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ds4bench.workloads.toolcall15.matching import Match, describe, matches


@pytest.mark.parametrize(
    ("match", "yes", "no"),
    [
        ({"contains": ["berlin", "柏林"]}, ["BERLIN, DE", "柏林"], ["Munich", "", None, 5, ["berlin"]]),
        ({"contains_all": ["a", "b"]}, ["B and A"], ["a", None]),
        ({"equals": ["aapl"]}, [" AAPL\n", "aapl"], ["AAPL.", "", None, ["aapl"]]),
        ({"starts_with": ["2026-03-21T08:00:00"]}, [" 2026-03-21T08:00:00Z"], ["2026-03-21T08:00", "at 2026", None]),
        ({"digits": "7450.4"}, ["7,450.40", "is 7450.4."], ["7450", None]),
        ({"digits": "30"}, ["130", "30 %", "3,0"], ["3", 30]),
        ({"items": ["alex", "jamie"]}, [["Alex S", "jamie@x"], ["alex jamie"]], [["alex"], "alex jamie", [1], None]),
        ({"exact": 30}, [30, 30.0], ["30", True, None, [30]]),
        ({"exact": "09:30"}, ["09:30"], ["9:30", " 09:30", 930]),
        ({"exact": 1}, [1], [True, "1"]),
        ({"number": 30}, [30, 30.0, "30", " 30.0 "], ["thirty", True, None, [30], "nan", ""]),
        ({"absent": True}, [None, ""], [" ", 0, False, []]),
        ({"any_of": [{"contains": ["x"]}, {"digits": "64"}]}, ["X", "64F"], ["46", None]),
        ({"contains": ["a"], "starts_with": ["b"]}, ["ba"], ["ab", "b"]),
    ],
)
def test_what_fits_and_what_does_not(match: dict[str, Any], yes: list[Any], no: list[Any]) -> None:
    wanted = Match.model_validate(match)
    assert [value for value in yes if not matches(wanted, value)] == []
    assert [value for value in no if matches(wanted, value)] == []
    assert describe(wanted)


@given(st.text(max_size=20), st.text(min_size=1, max_size=3))
def test_contains_is_containment_without_case(text: str, word: str) -> None:
    assert matches(Match(contains=[word]), text) == (word.casefold() in text.casefold())


def test_a_match_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one of"):
        Match.model_validate({})
