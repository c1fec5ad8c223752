"""JUnit XML and the step summary of a suite."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from ds4bench.core import RuleResult, Verdict
from ds4bench.errors import StoreError
from ds4bench.report.junit import junit_xml, write_junit
from ds4bench.report.promotion import promotion_document, render_promotion
from ds4bench.report.summary import append_summary, summary_markdown
from ds4bench.verdicts.promotion import Promotion, SuiteLine, promotion


@pytest.fixture
def outcome() -> Promotion:
    rule = RuleResult(
        rule="ttft", verdict=Verdict.FAIL, sentence="TTFT is 20 % slower than <base> | x\x1b: FAIL", p=1e-5
    )
    return promotion([
        SuiteLine("random", "smoke", Verdict.PASS, "fine: PASS", "run-1", 3.25),
        SuiteLine("long-context", "smoke", Verdict.FAIL, rule.sentence, "run-2", 10.0, rules=(rule,)),
        SuiteLine("soak", "smoke", Verdict.INVALID, "server died", "run-3", 1.0),
        SuiteLine("needle", "smoke", Verdict.INCONCLUSIVE, "noise: INCONCLUSIVE", "run-4"),
        SuiteLine("oracle", "smoke"),
    ])  # fmt: skip


def test_junit_has_a_case_a_gate_and_says_what_each_verdict_is(outcome: Promotion) -> None:
    suite = ElementTree.fromstring(junit_xml(outcome, "smoke"))[0]
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "2", "time": "14.250"}
    children = {case.get("name"): [child.tag for child in case] for case in suite}
    assert children["random.smoke"] == ["system-out"]
    assert children["long-context.smoke"] == ["failure", "system-out"]
    assert children["soak.smoke"] == ["error", "system-out"]
    assert children["oracle.smoke"] == ["skipped", "system-out"]
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "FAIL: TTFT is 20 % slower than <base> | x?: FAIL"


def test_the_summary_has_a_row_a_gate_and_breaks_no_table(outcome: Promotion) -> None:
    text = summary_markdown(outcome, {"suite": "smoke"})
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert len(rows) == 6
    assert "slower than &lt;base> \\| x" in text
    assert text.startswith("## 🚫 ds4bench: INVALID")


def test_files_are_written_and_a_summary_is_appended(outcome: Promotion, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    append_summary(str(summary), outcome, {})
    assert summary.read_text().startswith("before\n## ")
    write_junit(str(tmp_path / "junit.xml"), outcome, "smoke")
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"
    with pytest.raises(StoreError, match=r"--junit .*cannot be written"):
        write_junit(str(tmp_path / "none" / "junit.xml"), outcome, "smoke")
    with pytest.raises(StoreError, match=r"--summary .*cannot be written"):
        append_summary(str(tmp_path / "none" / "s.md"), outcome, {})


def test_the_table_ends_with_one_verdict_line(outcome: Promotion, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    render_promotion(outcome, {"suite": "smoke"}, Console(width=160), quiet=False)
    out = capsys.readouterr().out
    assert out.strip().splitlines()[-1] == "INVALID soak: server died"
    assert "not run" in out
    document = promotion_document(outcome, {"suite": "smoke"})
    assert [gate["verdict"] for gate in document["gates"]][:2] == [Verdict.PASS, Verdict.FAIL]
