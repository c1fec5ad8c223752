"""What a person reads: every number where it belongs, nothing that looks better than it is."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from ds4bench.core import (
    Answer,
    Cell,
    CheckResult,
    CheckStatus,
    Estimate,
    Fingerprint,
    GateVerdict,
    RequestResult,
    RequestRow,
    RuleResult,
    RunData,
    Verdict,
)
from ds4bench.measures import cell_measures
from ds4bench.report.progress import Estimate as TimeLeft
from ds4bench.report.progress import LiveProgress, PlainProgress
from ds4bench.report.terminal import render_report
from tests.records import batch_row, request_row, run_manifest


def row(cell: str, repeat: int, index: int, ttft: float, **result: Any) -> RequestRow:
    base: dict[str, Any] = {"ok": True, "ttft_s": ttft, "tpot_decode_ms": 25.0, "prompt_tokens": 8192}
    return request_row(
        cell,
        repeat=repeat,
        index=index,
        result=RequestResult(**{**base, **result}),
        answer=Answer(scores={"recall": 0.5}),
    )


def run(weights: str) -> RunData:
    manifest = run_manifest(
        run_id="run-1", gate="long-context", profile="smoke",
        measurement={"matrix": {"prompt_tokens": [8192, 124080], "concurrency": [1, 2]}},
        fingerprint=Fingerprint(engine="vllm", engine_version="0.33", model="m", weights=weights, hardware={"gpus": ["X"]}),
    )  # fmt: skip
    rows = [row("p8192-c1", r, 0, 2.0 + r) for r in range(3)]
    rows += [row("p124080-c2", 0, i, 10.0 * (i + 1), prompt_tokens=124080) for i in range(2)]
    rows.append(row("p8192-c2", 0, 0, 1.0, ok=False, error="deadline"))
    batches = [batch_row("p8192-c1", repeat=r) for r in range(3)] + [batch_row("p124080-c2"), batch_row("p8192-c2")]
    return RunData(manifest=manifest, requests=rows, batches=batches)


def verdict(kind: Verdict = Verdict.PASS) -> GateVerdict:
    estimate = Estimate(
        ratio=1.021,
        low=0.99,
        high=1.05,
        noise_cv=0.01,
        candidate=1,
        baseline=1,
        candidate_repeats=3,
        baseline_repeats=3,
    )
    return GateVerdict(
        verdict=kind,
        sentence="TTFT is 2.1 % (+-1.4) slower than base; margin 5 %; noise 0.9 %: PASS",
        checks=[
            CheckResult(name="cold_verified", status=CheckStatus.OK, detail="0 cached tokens"),
            CheckResult(name="machine_steady", status=CheckStatus.NOT_APPLICABLE, detail="another machine"),
        ],
        rules=[
            RuleResult(
                rule="ttft", verdict=Verdict.PASS, sentence="fine", cell="p8192-c1", primary=False, estimate=estimate
            ),
            RuleResult(rule="recall", verdict=Verdict.SKIPPED, sentence="recall: not applicable (random weights)"),
        ],
    )


def rendered(width: int, weights: str = "random", kind: Verdict = Verdict.PASS) -> str:
    out = io.StringIO()
    render_report(run(weights), None, verdict(kind), Console(file=out, width=width, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_cell_is_one_line_with_its_numbers_at_any_usual_width(width: int) -> None:
    line = next(line for line in rendered(width).splitlines() if line.split()[:2] == ["8,192", "1"])
    for number in ("3.000", "4.000", "1.021", "40.0"):
        assert number in line
    assert all(
        len(line) <= width for line in rendered(width).splitlines() if "run " not in line and "TTFT is" not in line
    )


@pytest.mark.parametrize("width", [80, 104, 112, 120, 140, 160, 200])
def test_columns_leave_a_narrow_terminal_one_by_one_and_no_number_is_cut(width: int) -> None:
    data = run("random")
    many = [row("p124080-c2", 0, i, 10.0 * (i + 1), prompt_tokens=124080) for i in range(2, 6)]
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    render_report(msgspec.structs.replace(data, requests=[*data.requests, *many]), None, verdict(), console)
    table = out.getvalue()[: out.getvalue().index("TTFT:")]
    assert "\u2026" not in table
    assert {"prompt", "c"} <= set(table.split())
    assert ("by rank" in table) == (width >= 160)


def test_a_failed_request_is_counted_in_its_cell() -> None:
    line = next(line for line in rendered(120).splitlines() if line.split()[:2] == ["8,192", "2"])
    assert line.split()[-2] == "1"


def test_what_does_not_apply_never_looks_passed() -> None:
    text = rendered(120)
    steady = next(line for line in text.splitlines() if "machine_steady" in line)
    recall = next(line for line in text.splitlines() if "not applicable" in line)
    assert steady.startswith("n/a")
    assert recall.startswith("n/a")
    cell = next(line for line in text.splitlines() if line.split()[:2] == ["8,192", "1"])
    assert cell.split()[-1] == "n/a"


def test_recall_is_a_number_when_the_weights_can_recall() -> None:
    cell = next(line for line in rendered(120, weights="trained").splitlines() if line.split()[:2] == ["8,192", "1"])
    assert cell.split()[-1] == "0.50"


@pytest.mark.parametrize("kind", list(Verdict))
def test_the_verdict_is_the_first_word_of_its_line(kind: Verdict) -> None:
    assert any(line.startswith(f"{kind.value} TTFT is 2.1 %") for line in rendered(120, kind=kind).splitlines())


def test_prefill_rate_of_a_concurrent_cell_is_all_its_tokens_over_the_last_first_token() -> None:
    cell = Cell("p124080-c2", 2, {"prompt_tokens": 124080})
    measures = cell_measures([cell], [r for r in run("random").requests if r.cell == cell.id])[0]
    assert measures.prefill_tok_s == pytest.approx(2 * 124080 / 20.0)
    assert (measures.ttft_mean_s, measures.ttft_max_s) == (15.0, 20.0)


def test_time_left_weighs_cells_by_their_tokens() -> None:
    cells = [Cell("p1", 1, {"prompt_tokens": 100}), Cell("p2", 2, {"prompt_tokens": 400})]
    left = TimeLeft()
    left.plan(cells, 2)
    assert left.seconds_left() is None
    left.account(batch_row("p1"))
    assert left.seconds_left() == pytest.approx(17.0)  # 100 tokens took 1 s; 100 + 2 x 800 are left


def test_plain_progress_is_a_line_a_batch_with_ttft_and_failures() -> None:
    out = io.StringIO()
    progress = PlainProgress(Console(file=out, width=120))
    cell = Cell("p8192-c1", 1, {"prompt_tokens": 8192})
    progress.start([cell], 1)
    progress.batch_started(cell, 0, "measure", 2)
    progress.request_done(cell, 0, RequestResult(ok=True, ttft_s=2.5))
    progress.request_done(cell, 1, RequestResult(ok=False, error="deadline", error_detail="too slow"))
    progress.batch_done(batch_row("p8192-c1"))
    last = out.getvalue().splitlines()[-1]
    assert "p8192-c1 repeat 1: TTFT 2.50 s, deadline: too slow, 0 s left" in last


def test_live_progress_shows_cells_requests_done_and_the_current_ttft() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True)
    progress = LiveProgress(console)
    cell = Cell("p8192-c2", 2, {"prompt_tokens": 8192})
    progress.start([cell], 3)
    progress.batch_started(cell, 0, "measure", 2)
    progress.first_token(cell, 0, 1.25)
    progress.request_done(cell, 0, RequestResult(ok=True, ttft_s=1.25))
    with console.capture() as shown:
        console.print(progress._render())
    progress.finish()
    assert "1 of 2 done" in shown.get()
    assert "1.25 s" in shown.get()
    assert "0 of 3" in shown.get()
