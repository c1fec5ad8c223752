"""What is said of a finished search: verdict, sentence, a row an op; and how it is shown."""

from __future__ import annotations

import json

import pytest

from ds4bench.attribution.findings import conclude, ratio_text
from ds4bench.attribution.search import Culprit, Effect, Findings
from ds4bench.core import Estimate, Verdict
from ds4bench.report.attribution import report_attribution
from ds4bench.store.attributions import AttributionRun, BaselineRun, GroupRow, Step

ESTIMATE = Estimate(
    ratio=1.3, low=1.25, high=1.35, noise_cv=0.01, candidate=1.3, baseline=1.0, candidate_repeats=4, baseline_repeats=4
)


def step(*ops: str, effect: Effect, estimate: Estimate | None = None) -> Step:
    return Step(
        kernels=f"ops={','.join(ops)}", words=", ".join(ops), ops=list(ops), run="r", baseline_run="b", done=True,
        effect=effect.value, sentence=f"{len(ops)} on: {effect.value}", estimate=estimate,
    )  # fmt: skip


def state(*steps: Step, closing: list[Step] | None = None, wanted: Effect = Effect.WORSE) -> AttributionRun:
    groups = [GroupRow(name="attn", ops=["a", "b"]), GroupRow(name="moe", ops=["c"])]
    return AttributionRun(
        schema=1, run_id="id", gate="g", profile="full", wanted=wanted.value, asked={}, groups=groups, called=True,
        never_called=["z"], baselines=[BaselineRun(run="b", done=True)], steps=list(steps), closing=closing or [],
        closing_effect="no difference", closing_sentence="0 % slower",
    )  # fmt: skip


ALL = step("a", "b", "c", effect=Effect.WORSE)
A = step("a", effect=Effect.WORSE, estimate=ESTIMATE)
REST = step("b", "c", effect=Effect.SAME)
A_ALONE = Findings(Effect.WORSE, [Culprit(frozenset("a"), sure=True)], frozenset("bc"))
ONE_OF = Findings(Effect.WORSE, [Culprit(frozenset("ab"), sure=False)], frozenset("c"))


def test_a_culprit_is_named_with_its_own_measurement() -> None:
    outcome = conclude(state(ALL, A, REST), A_ALONE)
    assert outcome.verdict is Verdict.FAIL
    assert outcome.sentence == ("a is worse alone on the bundle: 1 on: worse; the 2 other ops together: no difference")
    rows = {row.op: row for row in outcome.rows}
    assert {op: row.verdict for op, row in rows.items()} == {
        "a": "worse", "b": "no difference", "c": "no difference", "z": "never called",
    }  # fmt: skip
    assert rows["a"].estimate == ESTIMATE
    assert rows["b"].because == "step 3, 2 on the bundle"


def test_ops_that_only_do_harm_together_are_said_to() -> None:
    found = Findings(Effect.WORSE, [Culprit(frozenset("ab"), sure=True)], frozenset("c"))
    outcome = conclude(state(ALL, step("a", "b", effect=Effect.WORSE), step("c", effect=Effect.SAME)), found)
    assert outcome.verdict is Verdict.FAIL
    assert outcome.sentence.startswith("a and b are worse only together")
    assert outcome.rows[0].verdict == "worse only together with b"


def test_suspects_are_not_a_verdict() -> None:
    outcome = conclude(state(ALL, step("a", "b", effect=Effect.WORSE), REST), ONE_OF)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert "by one of: a and b; too much noise to say which" in outcome.sentence
    assert outcome.rows[0].verdict == "suspect, or b"


def test_what_does_not_show_again_beside_the_engine_is_not_named() -> None:
    outcome = conclude(state(ALL, A, REST, closing=[step("a", effect=Effect.SAME)]), A_ALONE)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert outcome.sentence.startswith("a showed a difference, but not again")
    again = conclude(state(ALL, A, REST, closing=[step("a", effect=Effect.WORSE)]), A_ALONE)
    assert again.verdict is Verdict.FAIL
    assert "these against themselves: 0 % slower" in again.sentence


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (Effect.SAME, Verdict.PASS),
        (Effect.BETTER, Verdict.PASS),
        (Effect.UNSURE, Verdict.INCONCLUSIVE),
        (Effect.INVALID, Verdict.INVALID),
    ],
)
def test_all_ops_together_may_settle_it(effect: Effect, verdict: Verdict) -> None:
    outcome = conclude(state(step("a", "b", "c", effect=effect)), Findings(effect))
    assert outcome.verdict is verdict
    assert effect.value in outcome.sentence


def test_what_makes_it_better_is_good_news_and_worse_is_never_hidden_by_it() -> None:
    better = step("a", "b", "c", effect=Effect.BETTER), step("a", effect=Effect.BETTER), REST
    found = Findings(Effect.BETTER, [Culprit(frozenset("a"), sure=True)], frozenset("bc"))
    assert conclude(state(*better, wanted=Effect.BETTER), found).verdict is Verdict.PASS
    assert conclude(state(ALL, wanted=Effect.BETTER), Findings(Effect.WORSE)).verdict is Verdict.FAIL


def test_a_difference_that_no_smaller_set_shows_names_nobody() -> None:
    outcome = conclude(state(ALL), Findings(Effect.WORSE))
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert "no op is named" in outcome.sentence


@pytest.mark.parametrize("form", ["json", "quiet", "table"])
def test_it_is_shown_in_every_form(form: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    outcome = conclude(state(ALL, A, REST), A_ALONE)
    rows = [(r.op, r.group, r.verdict, ratio_text(r.estimate), r.because) for r in outcome.rows]
    report_attribution(
        state(ALL, A, REST), outcome.verdict, outcome.sentence, rows, as_json=form == "json", quiet=form == "quiet"
    )  # fmt: skip
    out = capsysbinary.readouterr().out.decode()
    assert "a is worse alone on the bundle" in out
    if form == "json":
        document = json.loads(out)
        assert document["ops"][0]["effect"] == "+30.0 % (+25.0 % .. +35.0 %)"
        assert [s["effect"] for s in document["steps"]] == ["worse", "worse", "no difference"]
    if form == "table":
        assert "+30.0 %" in out
        assert "never called" in out
