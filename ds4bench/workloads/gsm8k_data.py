"""The rows of GSM8K: of the hub, of a local folder, or the project's own small set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4bench.errors import WorkloadError
from ds4bench.paths import prompts_dir
from ds4bench.workloads.dataset import read_jsonl

HUB = "openai/gsm8k"
NANO = "gsm8k-nano"


@dataclass(frozen=True)
class Gsm8kRows:
    """``question`` and ``answer`` of every row, under the name of the set."""

    name: str
    train: list[dict[str, str]]
    test: list[dict[str, str]]


def read_rows(name: str, source: str | None) -> Gsm8kRows:
    """Rows of the folder ``source`` (train.jsonl, test.jsonl), else of the set ``name``.

    A local copy has the hub's name and, row by row, its hash. Raises WorkloadError for rows that are missing or wrong.
    """
    if source is not None:
        return _from_folder("gsm8k", Path(source))
    return _from_folder(NANO, prompts_dir() / NANO) if name == NANO else _from_hub()


def _from_folder(name: str, folder: Path) -> Gsm8kRows:
    if not folder.is_dir():
        raise WorkloadError(f"{folder}: no such folder; --data wants one that holds train.jsonl and test.jsonl")
    return Gsm8kRows(name, _from_file(folder / "train.jsonl"), _from_file(folder / "test.jsonl"))


def _from_file(path: Path) -> list[dict[str, str]]:
    rows = []
    for number, row in read_jsonl(path):
        try:
            rows.append(_row(row))
        except (KeyError, ValueError) as error:
            raise WorkloadError(
                f"{path}:{number}: no GSM8K row ({error}); needed are two texts, question and answer, the "
                "answer ending in '#### N'"
            ) from None
    return rows


def _from_hub() -> Gsm8kRows:
    hint = f"give a local copy with --data DIR, or take the project's own with --set options.data={NANO}"
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise WorkloadError(f"reading {HUB} needs 'ds4bench[accuracy]'; or {hint}") from None
    try:
        splits = load_dataset(HUB, "main")
        return Gsm8kRows("gsm8k", [_row(row) for row in splits["train"]], [_row(row) for row in splits["test"]])
    except Exception as error:  # the hub's client raises many kinds, and all mean the same here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkloadError(f"{HUB} cannot be read: {reason}; {hint}") from None


def _row(row: Any) -> dict[str, str]:
    found = {key: row[key] for key in ("question", "answer")}
    if not all(isinstance(text, str) and text.strip() for text in found.values()):
        raise ValueError("question or answer is no text")
    if "#### " not in found["answer"]:
        raise ValueError("the answer has no '#### N'")
    return found
