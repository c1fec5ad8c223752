"""Items from files: what is read, what a person is told about a mistake, and what makes two sets the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ds4bench.errors import SpecError, WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.load import load_gate
from ds4bench.workloads.registry import read_data

ROOT = Path(__file__).parents[2]
CATEGORIES = ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"]


def spec(name: str = "mt-bench", profile: str = "smoke") -> GateSpec:
    return load_gate(name, profile=profile, directory=ROOT / "gates").spec


def question(number: int, **changes: Any) -> str:
    row = {"question_id": number, "category": "math", "turns": ["What is 2 + 2?", "And doubled?"], **changes}
    return json.dumps(row)


def test_the_built_in_set_has_ten_questions_with_two_turns_in_each_category() -> None:
    data = read_data(spec(), None)
    assert data is not None
    assert data.identity.name == "mt-bench-ds4"
    assert [item["category"] for item in data.items] == [name for name in CATEGORIES for _ in range(10)]
    assert all(len(item["turns"]) == 2 for item in data.items)
    texts = [turn for item in data.items for turn in item["turns"]]
    assert len(set(texts)) == 160
    assert len({item["question_id"] for item in data.items}) == 80


def test_a_file_is_the_real_set_by_its_items_and_not_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(question(81) + "\n" + question(82, reference=["4"]) + "\n\n")
    (tmp_path / "b.jsonl").write_text(question(81, extra=1) + "\n" + question(82))
    (tmp_path / "c.jsonl").write_text(question(81) + "\n" + question(83))
    one, two, three = (read_data(spec(), str(tmp_path / f"{name}.jsonl")) for name in "abc")
    assert one is not None
    assert two is not None
    assert three is not None
    assert (one.identity.name, one.identity.items) == ("mt-bench", 2)
    assert one.identity.sha256 == two.identity.sha256 != three.identity.sha256
    assert one.identity.source == str(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no lines"),
        ('{"question_id": 1', "bad.jsonl:1: not JSON"),
        ("[1]", "bad.jsonl:1: every line must be one JSON object"),
        (
            question(1) + "\n" + question(2, turns="one"),
            "bad.jsonl:2: no question of FastChat's form (turns is no list",
        ),
        (question(1, turns=[""]), "turns is no list of texts"),
        ('{"category": "math", "turns": ["a"]}', "'question_id'"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(WorkloadError, match=re.escape(words)):
        read_data(spec(), str(tmp_path / "bad.jsonl"))


def test_a_missing_file_and_a_gate_without_data_are_refused() -> None:
    with pytest.raises(WorkloadError, match=r"none\.jsonl: cannot be read"):
        read_data(spec(), "none.jsonl")
    with pytest.raises(SpecError, match="gate random reads no data"):
        read_data(spec("random"), "none.jsonl")
    assert read_data(spec("random"), None) is None
