"""Items of the hub: what is asked for, what becomes of the rows, and what a person is told who has no hub or no client."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.load import load_gate
from ds4bench.workloads import gsm8k_data
from ds4bench.workloads.registry import read_data

ROOT = Path(__file__).parents[2]
GSM8K = [{"question": f"What is {n} + 1?", "answer": f"It is one more.\n#### {n + 1}"} for n in range(5)]
MT_BENCH = [
    {"question_id": 81, "category": "writing", "turns": ["Write.", "Write again."]},
    {"question_id": 82, "category": "math", "turns": ["Count."]},
]


class Hub:
    """Stands for ``datasets.load_dataset``: gives what it has and keeps what it was asked for."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *names: Any, **options: Any) -> Any:
        self.asked.append((names, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Hub:
    made = Hub(answer)
    monkeypatch.setattr(datasets, "load_dataset", made)
    return made


def table(rows: list[dict[str, Any]], **columns: str) -> Any:
    """A data set of the hub's client; ``columns`` are more of them, which the project does not read."""
    return datasets.Dataset.from_list([{**row, **columns} for row in rows])


def mt_bench() -> GateSpec:
    """The gate as promoted, which reads the hub's questions."""
    return load_gate("mt-bench", profile="full", directory=ROOT / "gates").spec


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_gsm8k_asks_for_its_main_set_and_reads_both_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = datasets.DatasetDict({"train": table(GSM8K[:3], source="web"), "test": table(GSM8K[3:], source="web")})
    made = hub(monkeypatch, splits)
    rows = gsm8k_data.read_rows("gsm8k", None)
    assert made.asked == [(("openai/gsm8k", "main"), {})]
    assert rows == gsm8k_data.Gsm8kRows("gsm8k", GSM8K[:3], GSM8K[3:])


def test_gsm8k_of_the_hub_is_its_local_copy_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, datasets.DatasetDict({"train": table(GSM8K[:3]), "test": table(GSM8K[3:])}))
    write(tmp_path / "train.jsonl", GSM8K[:3])
    write(tmp_path / "test.jsonl", GSM8K[3:])
    assert gsm8k_data.read_rows("gsm8k", None) == gsm8k_data.read_rows("gsm8k", str(tmp_path))


def test_mt_bench_asks_for_its_only_split_and_is_its_local_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = hub(monkeypatch, table(MT_BENCH, reference="none"))
    write(tmp_path / "question.jsonl", MT_BENCH)
    there, here = read_data(mt_bench(), None), read_data(mt_bench(), str(tmp_path / "question.jsonl"))
    assert made.asked == [(("philschmid/mt-bench",), {"split": "train"})]
    assert there is not None
    assert here is not None
    assert there.items == MT_BENCH
    assert (there.identity.name, there.identity.items) == ("mt-bench", 2)
    assert there.identity.sha256 == here.identity.sha256


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("Couldn't reach the Hub\n  a second line\n"), "Couldn't reach the Hub"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_hub_out_of_reach_is_told_in_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    hub(monkeypatch, error)
    with pytest.raises(WorkloadError) as gsm8k:
        gsm8k_data.read_rows("gsm8k", None)
    with pytest.raises(WorkloadError) as questions:
        read_data(mt_bench(), None)
    assert str(gsm8k.value) == (
        f"openai/gsm8k cannot be read: {reason}; give a local copy with --data DIR, or take the project's own with "
        "--set options.data=gsm8k-nano"
    )
    assert str(questions.value) == (
        f"philschmid/mt-bench cannot be read: {reason}; give a local copy with --data question.jsonl, or take the "
        "project's own with --set options.data=mt-bench-ds4"
    )


def test_without_the_hubs_client_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WorkloadError, match=re.escape("needs 'ds4bench[accuracy]'; or give a local copy with --data")):
        gsm8k_data.read_rows("gsm8k", None)
    with pytest.raises(WorkloadError, match=re.escape("(pip install datasets); or give a local copy with --data")):
        read_data(mt_bench(), None)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "How many?", "answer": "Four."}, "the answer has no '#### N'"),
        ({"question": " ", "answer": "#### 4"}, "question or answer is no text"),
        ({"question": "How many?"}, "'answer'"),
    ],
)
def test_gsm8k_rows_of_another_form_are_refused(monkeypatch: pytest.MonkeyPatch, row: Any, words: str) -> None:
    hub(monkeypatch, datasets.DatasetDict({"train": table([row]), "test": table([row])}))
    with pytest.raises(WorkloadError, match=f"openai/gsm8k cannot be read: {re.escape(words)}"):
        gsm8k_data.read_rows("gsm8k", None)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question_id": 81, "category": "writing"}, "'turns'"),
        ({"question_id": 81, "category": "writing", "turns": []}, "turns is no list of texts"),
        ({"question_id": "x", "category": "writing", "turns": ["Hi"]}, "invalid literal"),
    ],
)
def test_mt_bench_rows_of_another_form_are_refused(monkeypatch: pytest.MonkeyPatch, row: Any, words: str) -> None:
    hub(monkeypatch, table([row]))
    with pytest.raises(WorkloadError, match=f"philschmid/mt-bench has a row of another form: {re.escape(words)}"):
        read_data(mt_bench(), None)
