"""Baselines: only good runs, reviewable files, this machine's own kept apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ds4bench.core import (
    Answer,
    BatchRow,
    Fingerprint,
    GateVerdict,
    RequestRow,
    RunData,
    RunManifest,
    ScriptRow,
    Verdict,
)
from ds4bench.errors import StoreError
from ds4bench.store import baselines


@pytest.fixture
def run(
    manifest: Callable[..., RunManifest],
    request_row: Callable[..., RequestRow],
    batch_row: Callable[..., BatchRow],
    verdict: Callable[..., GateVerdict],
) -> RunData:
    rows = [request_row(r) for r in range(3)]
    torn = request_row(2, attempt=1)  # of a batch that never completed
    warmup = request_row(0, phase="warmup")
    return RunData(
        manifest=manifest(), requests=[warmup, *rows, torn], batches=[batch_row(r) for r in range(3)], verdict=verdict()
    )


def test_a_promoted_baseline_holds_what_the_statistics_need_and_no_texts(state: Path, run: RunData) -> None:
    path = baselines.promote(run, "good")
    stored = baselines.load_baseline("good", "small", "smoke")
    assert path.name == "small-smoke.json"
    assert [row.result.ttft_s for row in stored.requests] == [1.0, 1.01, 1.02]
    assert [batch.probe_ms for batch in stored.batches] == [50.0, 51.0, 52.0]
    assert (stored.measurement, stored.fingerprint) == (run.manifest.measurement, run.manifest.fingerprint)
    assert "long text" not in path.read_text()
    assert "codes" not in path.read_text()


def test_a_baseline_file_has_one_request_a_line(state: Path, run: RunData) -> None:
    text = baselines.promote(run, "good").read_text()
    assert sum('"ttft_s"' in line for line in text.splitlines()) == 3
    assert max(len(line) for line in text.splitlines()) < 600


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": None}, "no verdict yet"),
        ({"verdict": ("INVALID", "the prompts are not cold")}, "is INVALID"),
        ({"verdict": ("INCONCLUSIVE", "interrupted: 3 of 12")}, "is incomplete"),
    ],
)
def test_a_bad_run_is_not_promoted_unless_forced_with_a_reason(
    state: Path,
    run: RunData,
    verdict: Callable[..., GateVerdict],
    changes: dict[str, tuple[str, str] | None],
    words: str,
) -> None:
    kind = changes["verdict"]
    bad = msgspec.structs.replace(run, verdict=None if kind is None else verdict(Verdict(kind[0]), kind[1]))
    with pytest.raises(StoreError, match=words):
        baselines.promote(bad, "bad")
    baselines.promote(bad, "bad", force_reason="the only one we have")
    assert baselines.load_baseline("bad").note == "forced: the only one we have"


@pytest.mark.parametrize("name", ["", "here", "none", "a/b", ".hidden"])
def test_names_that_would_confuse_are_refused(state: Path, run: RunData, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a baseline"):
        baselines.promote(run, name)


def test_here_is_found_for_the_same_measurement_machine_and_model_only(state: Path, run: RunData) -> None:
    baselines.save_here(run)
    fingerprint = run.manifest.fingerprint
    assert fingerprint is not None
    key = ("small", "smoke", run.manifest.measurement_hash)
    newer = msgspec.structs.replace(fingerprint, engine_version="2", flags={"x": 1}, faults=["slow"])
    assert baselines.lookup_here(*key, newer) is not None
    for other in (
        {"model_revision": "other"},
        {"hardware": {"cpu": "c", "cores": 4}},
        {"prefix_caching": False},
    ):
        changed: Fingerprint = msgspec.structs.replace(fingerprint, **other)
        assert baselines.lookup_here(*key, changed) is None
    assert baselines.lookup_here("small", "smoke", "another hash", fingerprint) is None


def test_an_unknown_name_lists_what_there_is(state: Path, run: RunData) -> None:
    baselines.promote(run, "good")
    with pytest.raises(StoreError, match=r"no baseline 'bad'.*stored: good"):
        baselines.load_baseline("bad")


def test_a_damaged_file_is_named(state: Path, run: RunData) -> None:
    path = baselines.promote(run, "good")
    path.write_text(path.read_text().replace('"requests"', '"requestz"'))
    with pytest.raises(StoreError, match=r"small-smoke.json: damaged"):
        baselines.load_baseline("good")


def test_scores_of_items_and_counters_of_batches_are_kept_and_traces_are_not(state: Path, run: RunData) -> None:
    answer = Answer(scores={"points": 0.5}, detail={"trace": "a long trace"})
    script = ScriptRow(
        cell="p600-c1", repeat=0, attempt=0, phase="measure", script=0, key="TC-01", requests=1, answer=answer
    )
    torn = msgspec.structs.replace(script, attempt=7)
    counted = [msgspec.structs.replace(batch, counters={"prefix_cache_hits": 3.0}) for batch in run.batches]
    path = baselines.promote(msgspec.structs.replace(run, scripts=[script, torn], batches=counted), "good")
    stored = baselines.load_baseline("good", "small", "smoke")
    assert [(s.key, s.answer.scores) for s in stored.scripts if s.answer] == [("TC-01", {"points": 0.5})]
    assert [batch.counters for batch in stored.batches] == [{"prefix_cache_hits": 3.0}] * 3
    assert "a long trace" not in path.read_text()


def test_a_run_becomes_the_own_baseline_of_those_with_another_state_folder(
    state: Path, run: RunData, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    path = baselines.save_here(run, state=other)
    assert path.parent == other / "baselines" / "here"
    assert not (state / "baselines" / "here").exists()
