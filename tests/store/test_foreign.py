"""Results of other tools: read into rows, kept, found by --beside, never judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ds4bench.errors import StoreError
from ds4bench.store.foreign import read_foreign, save_foreign
from ds4bench.store.published import load_published

DATA = Path(__file__).with_name("data")

SGLANG: dict[str, Any] = {
    "backend": "sglang", "dataset_name": "random", "request_rate": float("inf"), "max_concurrency": 4, "duration": 10.0,
    "completed": 8, "total_input_tokens": 8192, "total_output_tokens": 4096, "output_throughput": 409.6,
    "mean_ttft_ms": 120.5, "median_ttft_ms": 110.0, "p99_ttft_ms": 300.0, "mean_tpot_ms": 9.5, "median_tpot_ms": 9.4,
    "accept_length": 2.4,
}  # fmt: skip
LM_EVAL: dict[str, Any] = {
    "results": {"gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.955, "exact_match_stderr,strict-match": 0.0146,
                          "exact_match,flexible-extract": 0.96}},
    "n-shot": {"gsm8k": 5}, "n-samples": {"gsm8k": {"original": 1319, "effective": 200}},
    "config": {"model": "local-completions"}, "date": 1779148800.0,
}  # fmt: skip


def successful(mean: float) -> dict[str, Any]:
    return {"successful": {"mean": mean, "median": mean - 1, "percentiles": {"p50": mean - 1, "p99": mean + 9}}}


GUIDELLM: dict[str, Any] = {
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent", "streams": 2}},
            "metrics": {
                "request_totals": {"successful": 20, "errored": 1, "incomplete": 0, "total": 21},
                "request_concurrency": successful(2.0),
                "time_to_first_token_ms": successful(50.0),
                "time_per_output_token_ms": successful(10.0),
                "output_tokens_per_second": successful(190.0),
            },
        }
    ]
}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path / "state"))


def written(folder: Path, *documents: Any) -> Path:
    path = folder / "result file.json"
    path.write_text("\n".join(json.dumps(document) for document in documents))
    return path


def test_a_file_that_vllm_bench_serve_wrote() -> None:
    published = read_foreign(DATA / "vllm-bench-0.32.json", hardware="2 cores")
    [row] = published.tables["random"]
    assert row["model"] == "tiny-qwen3"
    assert (row["concurrency"], row["requests"], row["failures"]) == (2, 6, 0)
    assert row["output_tokens"] == 8.0
    assert row["ttft_median_ms"] > 0
    assert (published.date, published.hardware, published.engine) == ("2026-11-21", "2 cores", "vllm bench serve")


def test_sglangs_jsonl_has_a_row_a_line(tmp_path: Path) -> None:
    published = read_foreign(written(tmp_path, SGLANG, SGLANG | {"max_concurrency": 8}))
    rows = published.tables["random"]
    assert [row["concurrency"] for row in rows] == [4, 8]
    assert rows[0]["input_tokens"] == 1024.0
    assert rows[0]["acceptance_length"] == 2.4


def test_lm_evals_metrics_keep_their_filter(tmp_path: Path) -> None:
    published = read_foreign(written(tmp_path, LM_EVAL))
    [row] = published.tables["gsm8k"]
    assert row["exact_match (strict-match)"] == 0.955
    assert row["exact_match (flexible-extract)"] == 0.96
    assert (row["shots"], row["items"], published.date) == (5, 200, "2026-05-19")


def test_guidellms_benchmarks(tmp_path: Path) -> None:
    [row] = read_foreign(written(tmp_path, GUIDELLM)).tables["random"]
    assert (row["strategy"], row["requests"], row["failures"], row["ttft_p99_ms"]) == ("concurrent", 20, 1, 59.0)


def test_an_import_is_found_by_its_name_and_can_stand_beside_another_gate(tmp_path: Path) -> None:
    path = save_foreign(read_foreign(written(tmp_path, SGLANG), name="old-run", gate="mt-bench"))
    assert path.parent.name == "imports"
    assert load_published("old-run").tables["mt-bench"][0]["tpot_mean_ms"] == 9.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "not a result that ds4bench knows"),
        ("[1, 2]", "holds no JSON object"),
        ('{"a": 1}\n{broken', ":2: not JSON"),
        ('{"benchmarks": []}', "without a single row"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=words):
        read_foreign(path)


def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot name an import"):
        read_foreign(written(tmp_path, SGLANG), name="../x")


@pytest.mark.parametrize(
    "document",
    [
        {**LM_EVAL, "n-shot": [1]},
        {**LM_EVAL, "n-samples": {"gsm8k": 3}},
        {**LM_EVAL, "config": "x"},
        {**LM_EVAL, "date": 1e30},
        {"benchmarks": [{"metrics": {"request_totals": [1], "request_concurrency": {"successful": {"mean": 2.0}}}}]},
    ],
)
def test_a_field_of_another_form_is_left_out_not_fatal(tmp_path: Path, document: dict[str, Any]) -> None:
    published = read_foreign(written(tmp_path, document))
    assert any(published.tables.values())
    assert published.date.startswith("20")


def test_an_import_cannot_take_the_place_of_a_table_that_comes_with_us(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="give another --name"):
        read_foreign(written(tmp_path, LM_EVAL), name="vllm-41834")
