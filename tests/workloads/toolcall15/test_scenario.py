"""The files under prompts/toolcall15, and what happens to bad ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ds4bench.errors import Ds4BenchError
from ds4bench.paths import prompts_dir
from ds4bench.workloads.toolcall15.scenario import LANGUAGES, VARIANTS, Battery, load_battery


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped files."""
    return Path(shutil.copytree(prompts_dir() / "toolcall15", tmp_path / "toolcall15"))


def test_there_are_fifteen_scenarios_three_a_category(battery: Battery) -> None:
    assert list(battery.files) == [f"TC-{n:02}" for n in range(1, 16)]
    assert [file.category for file in battery.files.values()] == [c for c in "ABCDE" for _ in range(3)]


def test_the_twelve_tools_have_the_arguments_of_the_specification(battery: Battery) -> None:
    required = {tool.name: tool.required for tool in battery.tools}
    optional = {tool.name: [p for p in tool.parameters if p not in tool.required] for tool in battery.tools}
    assert required == {
        "web_search": ["query"],
        "get_weather": ["location"],
        "calculator": ["expression"],
        "send_email": ["to", "subject", "body"],
        "search_files": ["query"],
        "read_file": ["file_id"],
        "create_calendar_event": ["title", "date", "time"],
        "get_contacts": ["query"],
        "translate_text": ["text", "source_language", "target_language"],
        "get_stock_price": ["ticker"],
        "set_reminder": ["message", "datetime"],
        "run_code": ["language", "code"],
    }
    assert {name: left for name, left in optional.items() if left} == {
        "web_search": ["max_results"],
        "get_weather": ["units"],
        "send_email": ["attachments"],
        "search_files": ["file_type"],
        "create_calendar_event": ["duration_minutes", "attendees"],
    }


def test_a_scenarios_digest_changes_with_whatever_is_sent(battery: Battery) -> None:
    digests = [s.digest for p in VARIANTS for lang in LANGUAGES for s in battery.scenarios(p, lang)]
    assert len(set(digests)) == len(digests) == 60
    assert load_battery().scenario("TC-01", "v1-jasl").digest == battery.scenario("TC-01", "v1-jasl").digest


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("tc-01.yaml", "title: Direct", "titel: Direct", ["tc-01.yaml:2: titel", "tc-01.yaml:1: 'title' is missing"]),
        ("tc-01.yaml", "points: 1", "points: 3", ["tc-01.yaml:19: rules.v1-original[1].points"]),
        (
            "tc-01.yaml",
            "only: [web_search]",
            "onyl: [web_search]",
            ["tc-01.yaml:22: rules.v1-original[1].all[0].onyl: "],
        ),
        ("tc-01.yaml", "only: [web_search]", "only: [web_serch]", ["no tool 'web_serch'", "web_search, get_weather"]),
        ("tc-01.yaml", "{location: {contains: [berlin]", "{place: {contains: [berlin]", ["no argument 'place'"]),
        (
            "tc-01.yaml",
            "contains: [berlin]",
            "contains: []",
            ["tc-01.yaml:17: rules.v1-original[0].all[0].calls.with.location.contains: ", "at least 1 item"],
        ),
        ("tc-01.yaml", "contains: [berlin]", "has: [berlin]", ["tc-01.yaml:17: ", "location.has: "]),
        ("tc-01.yaml", "contains: [berlin]", "", ["tc-01.yaml:17: ", "a match needs at least one of contains"]),
        ("tc-01.yaml", "id: TC-01", "id: TC-02", ["call the file tc-02.yaml"]),
        ("tc-01.yaml", "  zh: 柏", "  fr: 柏", ["tc-01.yaml"]),
        ("tc-02.yaml", "v1-jasl: v1-original", "v1-jasl: []", ["the last outcome, and only the last"]),
        ("tc-02.yaml", "title: D", "title: [", ["tc-02.yaml:", "not valid YAML"]),
        ("tc-11.yaml", "- answer: {digits", "- calls: {max: 0}\n      answer: {digits", ["exactly one of calls"]),
        (
            "tc-14.yaml",
            "result: {error",
            "compute: query\n    result: {error",
            ["a mock needs either result or compute"],
        ),
        ("tc-15.yaml", "compute: expression", "compute: formula", ["no argument 'formula'"]),
        ("battery.yaml", '"*":', "fly:", ["fallback: needs a case '*'"]),
        ("battery.yaml", "max_turns: 8", "max_turns: many", ["battery.yaml:6: max_turns"]),
        ("tools.yaml", "- name: web_search", "- nam: web_search", ["tools.yaml:3", "nam"]),
    ],
)
def test_mistakes_are_told_with_file_and_line(folder: Path, file: str, old: str, new: str, words: list[str]) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Ds4BenchError) as told:
        load_battery(folder)
    for word in words:
        assert word in str(told.value)
    assert len(str(told.value).splitlines()) <= 2


def test_a_missing_file_or_no_scenarios_are_told(folder: Path) -> None:
    for path in folder.glob("tc-*.yaml"):
        path.unlink()
    with pytest.raises(Ds4BenchError, match="no scenario files"):
        load_battery(folder)
    (folder / "tools.yaml").unlink()
    with pytest.raises(Ds4BenchError, match=r"tools\.yaml: cannot be read"):
        load_battery(folder)
