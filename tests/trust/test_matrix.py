"""The table of expectations names things that exist; outcomes are graded by reason; the file can be taken up again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ds4bench.core import CheckResult, CheckStatus, GateVerdict, RuleResult, Verdict
from ds4bench.embedded.faults.table import FAULTS
from ds4bench.embedded.faults.table import choose as choose_engine
from ds4bench.errors import SpecError, StoreError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.load import load_gate
from ds4bench.spec.suite import load_suite
from ds4bench.trust import expectations, grading
from ds4bench.trust.broken_serve import BrokenServe
from ds4bench.trust.expectations import Row
from ds4bench.trust.grading import Grade, Matrix, Seen
from ds4bench.trust.matrix import MatrixRun
from ds4bench.trust.matrix_gates import MatrixGates, gate_hash
from ds4bench.trust.proxy_faults import PROXY_FAULTS, choose


def seen(verdict: str, *reasons: str, busy: bool = False, gate: str | None = "now") -> Seen:
    return Seen(
        verdict=verdict, reasons=list(reasons), sentence="", run="r", seconds=1.0, measurement="h", busy=busy, gate=gate,
        commit="abc",
    )  # fmt: skip


def now(gate: str) -> str:
    """The hash of every gate."""
    return "now"


ROW = Row(name="r", proxy=["other-model"], expected={"needle": ["model_identity"]}, holds=["mt-bench"])


def test_every_fault_of_the_engine_and_of_the_proxy_has_a_row() -> None:
    rows = expectations.load()
    assert {item.fault.name for row in rows for item in choose_engine(row.engine)} == set(FAULTS)
    assert {item.fault.name for row in rows for item in choose(row.proxy or [])} == set(PROXY_FAULTS)


def switched_off(spec: GateSpec) -> set[str]:
    """Checks and rules of a gate that cannot fail, whatever is measured."""
    validity = spec.validity
    off = {
        "replies_not_cut": validity.max_cut_share >= 1,
        "completions_whole": validity.max_cut_share >= 1,
        "cold_verified": not validity.cold,
        "length_within": validity.length_tolerance >= 1,
        "delivered_concurrency": validity.min_delivered_concurrency <= 0,
        "machine_quiet": validity.max_foreign_cpu_share >= 1,
        "machine_steady": validity.machine_drift >= 1,
    }
    rules = {rule.name for rule in spec.rules if rule.kind in ("score", "recall") and rule.threshold <= 0}
    return {name for name, so in off.items() if so} | rules


def test_every_expected_reason_can_be_given_by_its_gate_as_the_matrix_measures_it() -> None:
    gates = MatrixGates(load_suite("smoke"))
    for row in expectations.load():
        for gate, reasons in row.expected.items():
            spec = gates.prepared(gate).gate.spec
            known = {*spec.declared.checks, *(rule.name for rule in spec.rules)}
            assert set(reasons) <= known, f"{row.name}: {gate}"
            assert not set(reasons) & switched_off(spec), f"{row.name}: {gate}"


def test_a_check_whose_threshold_lets_everything_through_is_switched_off() -> None:
    for change, name in (
        ("validity.max_cut_share=1.0", "replies_not_cut"),
        ("validity.cold=false", "cold_verified"),
        ("rules.called.threshold=0", "called"),
    ):
        spec = load_gate("toolcall-15", profile="smoke", overrides=[change]).spec
        assert name in switched_off(spec)
    assert switched_off(load_gate("toolcall-15", profile="smoke").spec) == set()


def test_a_harmless_fault_is_expected_nowhere() -> None:
    for row in expectations.load():
        if row.proxy and all(chosen.fault.harmless for chosen in choose(row.proxy)):
            assert not row.expected and row.holds


@pytest.mark.parametrize(
    ("gate", "outcome", "grade"),
    [
        ("needle", seen("INVALID", "model_identity"), Grade.CAUGHT),
        ("needle", seen("FAIL", "needle"), Grade.OTHER),
        ("needle", seen("PASS"), Grade.MISSED),
        ("needle", seen("INCONCLUSIVE"), Grade.OPEN),
        ("needle", None, Grade.OPEN),
        ("mt-bench", seen("PASS"), Grade.HELD),
        ("mt-bench", seen("FAIL", "tpot"), Grade.BLAMED),
        ("mt-bench", seen("INCONCLUSIVE"), Grade.OPEN),
        ("soak", seen("FAIL", "itl"), Grade.SEEN),
    ],
)
def test_grades(gate: str, outcome: Seen | None, grade: Grade) -> None:
    assert grading.grade(ROW, gate, outcome) is grade


def test_a_row_is_a_defect_when_no_gate_catches_it_or_one_blames_it_wrongly() -> None:
    assert grading.row_state(ROW, {})[0] == "open"
    assert grading.row_state(ROW, {"needle": seen("PASS")})[0] == "defect"
    assert grading.row_state(ROW, {"needle": seen("FAIL", "needle")})[0] == "defect"
    caught = {"needle": seen("INVALID", "model_identity")}
    assert grading.row_state(ROW, caught | {"mt-bench": seen("PASS")}) == ("ok", "caught by needle")
    assert grading.row_state(ROW, caught | {"mt-bench": seen("FAIL")})[0] == "defect"
    healthy = Row(name="healthy", holds="all")
    assert grading.row_state(healthy, {"needle": seen("PASS"), "soak": seen("FAIL", "itl")})[0] == "defect"
    assert grading.row_state(healthy, {"needle": seen("PASS")})[0] == "ok"


@pytest.mark.parametrize("held", [{}, {"mt-bench": seen("INCONCLUSIVE")}])
def test_a_row_whose_fault_is_caught_is_open_while_a_gate_that_must_hold_is_undecided(held: dict[str, Seen]) -> None:
    caught = {"needle": seen("INVALID", "model_identity")}
    assert grading.row_state(ROW, caught | held) == ("open", "caught by needle; not decided: mt-bench")


def test_a_row_that_all_gates_hold_cannot_expect_a_failure() -> None:
    with pytest.raises(ValueError, match="cannot both hold"):
        Row(name="r", proxy=["other-model"], expected={"needle": ["model_identity"]}, holds="all")


def test_what_another_gate_said_decides_no_row_and_is_marked(tmp_path: Path) -> None:
    held = {"mt-bench": seen("PASS")}
    for gate in ("before", None):
        cells = {"needle": seen("INVALID", "model_identity", gate=gate)} | held
        state, why = grading.row_outcome(ROW, cells, now)
        assert state == "stale" and "caught by needle" in why
    table = grading.matrix_table([ROW], Matrix(cells={"r": cells}), now)
    assert "needle INVALID (model_identity) [stale, commit abc]**; **mt-bench PASS**" in table
    fresh = {"needle": seen("INVALID", "model_identity")} | held
    assert grading.row_outcome(ROW, fresh, now) == ("ok", "caught by needle")
    assert "stale" not in grading.matrix_table([ROW], Matrix(cells={"r": fresh}), now)
    healthy = Row(name="healthy", holds="all")
    some = {"needle": seen("PASS"), "soak": seen("PASS", gate="before")}
    assert grading.row_outcome(healthy, some, now)[0] == "stale"


def test_a_file_without_commit_and_gate_is_read_and_stale(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text(
        '{"schema": 1, "machine": "m", "cells": {"r": {"needle": {"verdict": "INVALID", "reasons": ["model_identity"], '
        '"sentence": "", "run": "r", "seconds": 1.0, "measurement": "h", "busy": false}}}}'
    )
    cells = grading.load(path).cells["r"]
    assert cells["needle"].commit is None and cells["needle"].stale("needle", now)
    assert [job.gate for job in MatrixRun([ROW], [], load_suite("smoke"), path).jobs()] == ["needle", "mt-bench"]


def verdict_of(word: Verdict, rule: str) -> GateVerdict:
    check = CheckResult(name="all_requests_ok", status=CheckStatus.OK, detail="")
    return GateVerdict(
        verdict=word, sentence="s", checks=[check], rules=[RuleResult(rule=rule, verdict=word, sentence="s")]
    )


def test_on_a_busy_machine_a_rule_about_times_is_no_reason() -> None:
    spec = load_gate("mt-bench", profile="smoke").spec
    for busy, word in ((False, "FAIL"), (True, "INCONCLUSIVE")):
        found = grading.seen_of(
            verdict_of(Verdict.FAIL, "tpot"), spec, run="r", seconds=1.0, measurement="h", busy=busy
        )
        assert found.verdict == word and found.reasons == ([] if busy else ["tpot"])


def asked(path: Path, *gates: str, **options: bool) -> list[str]:
    """The gates that a call of the matrix would measure on the row."""
    return [job.gate for job in MatrixRun([ROW], gates, load_suite("smoke"), path, **options).jobs()]


def keep(path: Path, **cells: Seen) -> None:
    grading.save(Matrix(cells={"r": {name.replace("_", "-"): cell for name, cell in cells.items()}}), path)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    assert asked(path) == ["needle", "mt-bench"]
    hashed = MatrixGates(load_suite("smoke")).hash_of("needle")
    found = seen("INVALID", "model_identity", busy=True, gate=hashed)
    keep(path, needle=found)
    assert asked(path) == ["mt-bench"]
    assert asked(path, "soak") == ["mt-bench", "soak"]
    open_ = msgspec.structs.replace(found, verdict="INCONCLUSIVE", reasons=[])
    keep(path, needle=open_)
    assert asked(path, busy=True) == ["mt-bench"]
    assert asked(path) == ["needle", "mt-bench"]
    keep(path, needle=msgspec.structs.replace(found, gate="another gate"))
    assert asked(path) == ["needle", "mt-bench"]


def test_once_a_gate_has_caught_the_fault_the_gates_that_must_hold_are_still_measured(tmp_path: Path) -> None:
    path, gates = tmp_path / "faults.json", MatrixGates(load_suite("smoke"))
    caught = seen("INVALID", "model_identity", gate=gates.hash_of("needle"))
    keep(path, needle=caught)
    assert asked(path, "soak", until_caught=True) == ["mt-bench"]
    keep(path, needle=caught, mt_bench=seen("PASS", gate="another gate"))
    assert asked(path, "soak", until_caught=True) == ["mt-bench"]
    keep(path, needle=caught, mt_bench=seen("PASS", gate=gates.hash_of("mt-bench")))
    assert asked(path, "soak", until_caught=True) == []
    keep(path, needle=seen("INVALID", "model_identity", gate="another gate"))
    assert asked(path, until_caught=True) == ["needle", "mt-bench"]


@pytest.mark.parametrize(
    "override", ["rules.needle.threshold=0.5", "validity.max_cut_share=0.5", "repeats.count=7", "request.deadline_s=9"]
)
def test_rules_validity_and_repeats_make_another_gate_of_the_same_measurement(override: str) -> None:
    one, other = load_gate("needle", profile="smoke"), load_gate("needle", profile="smoke", overrides=[override])
    assert one.measurement_hash == other.measurement_hash
    assert gate_hash(one) != gate_hash(other)


def test_words_and_a_busy_machine_make_no_other_gate() -> None:
    suite = load_suite("smoke")
    words = load_gate("needle", profile="smoke", overrides=["title=Another", "purpose=the same"])
    assert gate_hash(load_gate("needle", profile="smoke")) == gate_hash(words)
    assert MatrixGates(suite, busy=True).hash_of("needle") == MatrixGates(suite).hash_of("needle")
    assert MatrixGates(suite).hash_of("a-gate-that-is-gone") == ""


def test_a_damaged_file_and_wrong_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"faults\.json"):
        grading.load(path)
    for text in ("rows: [{name: a}]", "rows: [{name: a, holds: all, proxy: [nonsense]}]", "rows: 1"):
        path.write_text(text)
        with pytest.raises(SpecError, match=r"faults\.json"):
            expectations.load(path)


def test_the_healthy_serve_of_a_row_has_its_flags_and_its_way_but_no_fault() -> None:
    row = Row(name="r", engine=["drop-sink"], proxy=["no-usage"], serve_args=["--threads=1"], holds="all")
    broken, healthy = BrokenServe.of(row), BrokenServe.of(row, healthy=True)
    assert broken.serve_args == ("--threads=1", "--fault=drop-sink") and broken.proxy == ("no-usage",)
    assert healthy.serve_args == ("--threads=1",) and healthy.proxy == ()


def test_the_table_shows_every_row_and_what_was_expected() -> None:
    matrix = Matrix(cells={"r": {"needle": seen("INVALID", "model_identity"), "soak": seen("PASS")}})
    table = grading.matrix_table([ROW, Row(name="other", holds="all")], matrix, now)
    assert "**needle INVALID (model_identity)**; soak PASS" in table
    assert "| other | not run | open" in table


def test_gates_of_times_are_repeated_as_the_table_asks(tmp_path: Path) -> None:
    table = expectations.table()
    run = MatrixRun(table.rows, [], load_suite("smoke"), tmp_path / "faults.json", repeats=table.repeats)
    for gate, repeats in table.repeats.items():
        assert run._gate(gate).gate.spec.repeats.count == repeats
    assert run._gate("needle").gate.spec.repeats.count == load_gate("needle", profile="smoke").spec.repeats.count


def test_what_every_gate_must_hold_is_asked_of_every_gate_of_the_suite_even_when_quick(tmp_path: Path) -> None:
    suite = load_suite("smoke")
    run = MatrixRun([Row(name="whole", holds="all"), ROW], [], suite, tmp_path / "faults.json")
    asked = [(job.row.name, job.gate) for job in run.jobs()]
    assert asked == [
        *(("whole", entry.gate) for entry in suite.gates),
        *((ROW.name, gate) for gate in ROW.named_gates()),
    ]
