"""``ds4bench promote``: options that would change nothing are refused, and no report can lose a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ds4bench.commands.promote import PromoteOptions, Reports, report, run_promote
from ds4bench.core import Verdict
from ds4bench.errors import SpecError, StoreError
from ds4bench.run_session import TargetOptions
from ds4bench.store import suite_runs
from ds4bench.targets.choice import Serving
from ds4bench.verdicts.promotion import Promotion

RESUMED = PromoteOptions(None, TargetOptions("embedded"), "here", (), "s1", Reports(quiet=True))


@pytest.fixture(autouse=True)
def suite_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    asked: dict[str, object] = {
        "target": "attach", "url": "http://127.0.0.1:9", "model": "m", "serve_args": [], "engine_python": None,
        "serve_profile": None, "port": None, "kernels": None, "data": {"mt-bench": "a.jsonl"},
    }  # fmt: skip
    run = suite_runs.SuiteRun(
        schema=suite_runs.SCHEMA, run_id="s1", suite="smoke", baseline="box", asked=asked, gates=[]
    )
    suite_runs.save(run)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(RESUMED, baseline="other"), "--baseline: box;"),
        (replace(RESUMED, target=TargetOptions("vllm", model="m")), "--target: attach;"),
        (replace(RESUMED, target=TargetOptions("attach", "http://127.0.0.1:10")), "--url: http://127.0.0.1:9;"),
        (replace(RESUMED, target=TargetOptions("attach", model="n")), "--model: m;"),
        (replace(RESUMED, target=TargetOptions("embedded", serve_args=("--nice=3",))), "--serve-arg: none;"),
        (replace(RESUMED, target=TargetOptions("attach", serving=Serving(port=3))), "--port: none;"),
        (replace(RESUMED, data=("mt-bench=b.jsonl",)), "--data: {'mt-bench': 'a.jsonl'};"),
        (replace(RESUMED, suite="promotion"), "is of suite smoke, not promotion"),
    ],
)
def test_a_resumed_suite_refuses_what_it_would_ignore(options: PromoteOptions, words: str) -> None:
    with pytest.raises(SpecError) as error:
        run_promote(options)
    assert words in str(error.value)


def test_files_of_reports_are_tried_before_anything_is_measured(tmp_path: Path) -> None:
    for reports in (Reports(junit=str(tmp_path / "no" / "x")), Reports(summary=str(tmp_path))):
        with pytest.raises(SpecError, match="cannot be written"):
            run_promote(replace(RESUMED, reports=reports))
    Reports(junit=str(tmp_path / "j.xml"), summary=str(tmp_path / "s.md")).check()
    assert not (tmp_path / "j.xml").exists()  # an empty file is no report


def test_a_report_that_fails_at_the_end_does_not_hide_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Promotion(verdict=Verdict.PASS, sentence="all is well: PASS", lines=[])
    with pytest.raises(StoreError, match="--junit"):
        report(outcome, {"suite": "s", "suite_run": "s1"}, "s", Reports(quiet=True, junit=str(tmp_path / "no" / "x")))
    assert "PASS all is well" in capsys.readouterr().out
