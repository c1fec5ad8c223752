"""Results of other tools, read into the form of published tables: shown beside a run, never judged.

Their definitions differ from ours (client/timeline.py): ``vllm bench serve`` and SGLang take TPOT as (E2E - TTFT) /
(tokens - 1), and their clocks include opening the connection. So a row says which tool it came from, and no rule reads it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds4bench.errors import StoreError, reason_of
from ds4bench.paths import imports_dir, published_dir
from ds4bench.store import documents
from ds4bench.store.published import Published

Row = dict[str, Any]
Tables = dict[str, list[Row]]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read_foreign(
    path: Path, *, name: str | None = None, gate: str | None = None, hardware: str = "unknown"
) -> Published:
    """The file's rows. ``gate`` overrides which gate they stand beside. Raises StoreError."""
    source = name or re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")
    if not _NAME.fullmatch(source):
        raise StoreError(f"{source!r} cannot name an import: letters, digits, dot, dash and underscore; give --name")
    if (published_dir() / f"{source}.yaml").is_file():
        raise StoreError(f"{source!r} is the name of a table that comes with ds4bench; give another --name")
    documents = _documents(path)
    tool = next((name for name, (fits, _) in _READERS.items() if all(map(fits, documents))), None)
    if tool is None:
        raise StoreError(
            f"{path}: not a result that ds4bench knows: vllm bench serve --save-result, SGLang bench_serving's jsonl, "
            "lm-eval's results JSON, GuideLLM's benchmarks JSON"
        )
    tables, date = _READERS[tool][1](documents, path)
    if gate is not None:
        tables = {gate: [row for rows in tables.values() for row in rows]}
    if not any(tables.values()):
        raise StoreError(f"{path}: a result of {tool}, but without a single row")
    return Published(source, f"{path.name}, imported from {tool}", date, hardware, tool, tables)


def save_foreign(published: Published) -> Path:
    """Keep it under its source's name, in the place of an earlier import of that name."""
    import yaml

    path = imports_dir() / f"{published.source}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "source": published.source,
        "title": published.title,
        "date": published.date,
        "hardware": published.hardware,
        "engine": published.engine,
        "tables": published.tables,
    }
    documents.write_whole(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    return path


def _documents(path: Path) -> list[Mapping[str, Any]]:
    """One JSON document, or one a line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{path}: cannot be read: {reason_of(error)}; give a result file of vLLM, SGLang, lm-eval or GuideLLM"
        ) from None
    try:
        found = [json.loads(text)]
    except ValueError:
        found = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise StoreError(f"{path}:{number}: not JSON: {error}") from None
    documents: list[Mapping[str, Any]] = [document for document in found if isinstance(document, dict)]
    if not documents or len(documents) != len(found):
        raise StoreError(f"{path}: holds no JSON object")
    return documents


def _number(value: Any, digits: int = 4) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        return None
    return round(value, digits) if isinstance(value, float) else value


def _map(value: Any) -> Mapping[str, Any]:
    """What should be a mapping and, in a damaged or foreign file, is not."""
    return value if isinstance(value, Mapping) else {}


def _kept(row: Mapping[str, Any]) -> Row:
    return {key: value for key, value in row.items() if value is not None}


def _vllm(documents: list[Mapping[str, Any]], path: Path) -> tuple[Tables, str]:
    rows = [
        _kept(
            {
                "tool": "vllm bench serve",
                "model": d.get("model_id"),
                "concurrency": _number(d.get("max_concurrency")),
                "requests": _number(d.get("completed")),
                "failures": _number(d.get("failed")),
                "input_tokens": _mean(d.get("total_input_tokens"), d.get("completed")),
                "output_tokens": _mean(d.get("total_output_tokens"), d.get("completed")),
                "output_tok_s": _number(d.get("output_throughput")),
                "total_tok_s": _number(d.get("total_token_throughput")),
                **_latencies(d),
                "acceptance_length": _number(d.get("spec_decode_acceptance_length")),
            }
        )
        for d in documents
    ]
    return {"random": rows}, _vllm_date(documents[0].get("date"), path)


def _sglang(documents: list[Mapping[str, Any]], path: Path) -> tuple[Tables, str]:
    rows = [
        _kept(
            {
                "tool": "sglang bench_serving",
                "dataset": d.get("dataset_name"),
                "concurrency": _number(d.get("max_concurrency")),
                "requests": _number(d.get("completed")),
                "input_tokens": _mean(d.get("total_input_tokens"), d.get("completed")),
                "output_tokens": _mean(d.get("total_output_tokens"), d.get("completed")),
                "output_tok_s": _number(d.get("output_throughput")),
                **_latencies(d),
                "acceptance_length": _number(d.get("accept_length")),
            }
        )
        for d in documents
    ]
    return {"random": rows}, _file_date(path)


def _latencies(document: Mapping[str, Any]) -> Row:
    return {
        "ttft_mean_ms": _number(document.get("mean_ttft_ms")),
        "ttft_median_ms": _number(document.get("median_ttft_ms")),
        "ttft_p99_ms": _number(document.get("p99_ttft_ms")),
        "tpot_mean_ms": _number(document.get("mean_tpot_ms")),
        "tpot_median_ms": _number(document.get("median_tpot_ms")),
    }


def _lm_eval(documents: list[Mapping[str, Any]], path: Path) -> tuple[Tables, str]:
    tables: Tables = {}
    for document in documents:
        shots, samples = _map(document.get("n-shot")), _map(document.get("n-samples"))
        for task, found in document["results"].items():
            row: Row = {
                "tool": "lm-eval",
                "task": task,
                "model": document.get("model_name") or _map(document.get("config")).get("model"),
                "shots": _number(shots.get(task)),
                "items": _number(_map(samples.get(task)).get("effective")),
            }
            for name, value in _map(found).items():
                metric, _, group = name.partition(",")
                if _number(value) is not None:
                    row[f"{metric} ({group})" if group not in ("", "none") else metric] = _number(value)
            tables.setdefault(task, []).append(_kept(row))
    stamp = _number(documents[0].get("date"))
    if stamp is not None:
        with contextlib.suppress(OverflowError, OSError, ValueError):  # no time that a calendar has
            return tables, datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d")
    return tables, _file_date(path)


def _guidellm(documents: list[Mapping[str, Any]], path: Path) -> tuple[Tables, str]:
    rows = [_guidellm_row(benchmark) for document in documents for benchmark in document["benchmarks"]]
    return {"random": rows}, _file_date(path)


def _guidellm_row(benchmark: Mapping[str, Any]) -> Row:
    metrics = _map(benchmark["metrics"])

    def value(metric: str, statistic: str) -> float | int | None:
        of = _map(_map(metrics.get(metric)).get("successful"))
        return _number(_map(of.get("percentiles")).get(statistic) if statistic == "p99" else of.get(statistic))

    totals = _map(metrics.get("request_totals"))
    return _kept(
        {
            "tool": "guidellm",
            "strategy": _strategy(benchmark),
            "concurrency": value("request_concurrency", "mean"),
            "requests": _number(totals.get("successful")),
            "failures": _number(totals.get("errored")),
            "input_tokens": value("prompt_token_count", "mean"),
            "output_tokens": value("output_token_count", "mean"),
            "output_tok_s": value("output_tokens_per_second", "mean"),
            "ttft_mean_ms": value("time_to_first_token_ms", "mean"),
            "ttft_median_ms": value("time_to_first_token_ms", "median"),
            "ttft_p99_ms": value("time_to_first_token_ms", "p99"),
            "tpot_mean_ms": value("time_per_output_token_ms", "mean"),
            "tpot_median_ms": value("time_per_output_token_ms", "median"),
        }
    )


def _strategy(benchmark: Mapping[str, Any]) -> str | None:
    """Its place moved between GuideLLM's versions."""
    for holder in (benchmark.get("args"), benchmark.get("config"), benchmark.get("scheduler")):
        strategy = holder.get("strategy") if isinstance(holder, Mapping) else None
        if isinstance(strategy, Mapping) and "type_" in strategy:
            return str(strategy["type_"])
    return None


def _mean(total: Any, count: Any) -> float | int | None:
    if not isinstance(total, int | float) or not isinstance(count, int) or count == 0:
        return None
    return _number(total / count, 1)


def _vllm_date(stamp: Any, path: Path) -> str:
    """``20261121-131500`` as a date."""
    try:
        return datetime.strptime(str(stamp)[:8], "%Y%m%d").replace(tzinfo=UTC).strftime("%Y-%m-%d")
    except ValueError:
        return _file_date(path)


def _file_date(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d")


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda document: all(key in document for key in keys)


def _is_guidellm(document: Mapping[str, Any]) -> bool:
    found = document.get("benchmarks")
    return isinstance(found, list) and all(isinstance(b, dict) and isinstance(b.get("metrics"), dict) for b in found)


def _is_lm_eval(document: Mapping[str, Any]) -> bool:
    results = document.get("results")
    return isinstance(results, dict) and all(isinstance(metrics, dict) for metrics in results.values())


_READERS: dict[
    str, tuple[Callable[[Mapping[str, Any]], bool], Callable[[list[Mapping[str, Any]], Path], tuple[Tables, str]]]
] = {
    "vllm bench serve": (_has("mean_ttft_ms", "output_throughput", "model_id"), _vllm),
    "sglang bench_serving": (_has("mean_ttft_ms", "output_throughput", "dataset_name"), _sglang),
    "guidellm": (_is_guidellm, _guidellm),
    "lm-eval": (_is_lm_eval, _lm_eval),
}
