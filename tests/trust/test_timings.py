"""Stored timings: what a simulated promotion is judged by."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ds4bench.core import RequestResult, RunData
from ds4bench.errors import StoreError
from ds4bench.spec.load import load_gate
from ds4bench.trust import simulation, timings
from ds4bench.trust.timings import SCHEMA, Timings
from tests.records import batch_row, request_row, run_manifest


def stored(rule: str = "ttft") -> Timings:
    return Timings(
        schema=SCHEMA, gate="long-context", profile="smoke", rule=rule, kind="ratio", metric="ttft_s", margin=0.5,
        cell_margin=None, session_cv=0.5, repeats=99, extend_to=100, runs=["a-run"], machine="a cpu, 2 cores",
        spread=0.01, neighbours=0.01, columns=["p2048-c1"], values=[[1.0], [1.01]],
    )  # fmt: skip


def test_promotions_are_judged_by_the_gate_as_it_is_now_and_not_as_it_was(tmp_path: Path) -> None:
    read = timings.read(timings.write([stored()], tmp_path)[0])
    gate = load_gate("long-context", profile="smoke").spec
    rule = gate.rules[0]
    assert (read.margin, read.cell_margin, read.session_cv) == (rule.margin, rule.per_cell_margin, rule.session_cv)  # type: ignore[union-attr]
    assert (read.repeats, read.extend_to) == (gate.repeats.count, gate.repeats.extend_to)
    assert msgspec.to_builtins(read)["values"] == [[1.0], [1.01]]


def test_timings_of_a_rule_that_is_gone_are_refused_with_the_file(tmp_path: Path) -> None:
    [path] = timings.write([stored(rule="an-old-rule")], tmp_path)
    with pytest.raises(StoreError, match=f"{path.name}: gate long-context has no rule an-old-rule"):
        timings.read(path)


def run_of(gate_name: str, number: int, probe_ms: float | None = None) -> RunData:
    """A run of a smoke profile with one request a cell and repeat: 1 s to the first token, 3 s to the end, a little more in
    each repeat."""
    gate = load_gate(gate_name, profile="smoke")
    rows = [
        request_row(cell.id, repeat=k, result=RequestResult(ok=True, ttft_s=1 + 0.01 * k, e2e_s=3 + 0.02 * k))
        for k in range(gate.spec.repeats.count)
        for cell in gate.spec.matrix.cells()
    ]
    manifest = run_manifest(gate, run_id=f"r{number}", created=f"2026-11-21T03:1{number}:00Z")
    batches = [batch_row(row.cell, repeat=row.repeat, probe_ms=probe_ms) for row in rows]
    return RunData(manifest=manifest, requests=rows, batches=batches)


def test_timings_of_every_rule_that_compares_are_kept_and_simulated(tmp_path: Path) -> None:
    kept = timings.of_runs([run_of("mixed-arrival", number) for number in range(2)])
    assert [(one.rule, one.metric, one.values[0][0]) for one in kept] == [
        ("ttft", "ttft_s", 1.0),
        ("e2e", "e2e_s", 3.0),
    ]
    written = timings.write(kept, tmp_path)
    assert [path.name for path in written] == ["mixed-arrival-smoke.json", "mixed-arrival-smoke-e2e.json"]
    read = [timings.read(path) for path in sorted(tmp_path.glob("*.json"))]
    assert {one.rule for one in read} == {"ttft", "e2e"}
    for rows in (simulation.aa_table(read, promotions=5), simulation.power_table(read, promotions=5)):
        assert {row["rule"] for row in rows if row.get("gate") == "mixed-arrival"} == {"ttft", "e2e"}


def test_a_session_keeps_its_level_and_its_cpu_probe_where_every_session_has_one() -> None:
    [kept] = timings.of_runs([run_of("prefill-sweep", number, probe_ms=10.0 + number) for number in range(2)])
    assert (kept.levels, kept.probes_ms) == (
        [0.0, 0.0],
        [[10.0] * len(kept.probes_ms[0]), [11.0] * len(kept.probes_ms[1])],
    )
    [kept] = timings.of_runs([run_of("prefill-sweep", 0, probe_ms=10.0), run_of("prefill-sweep", 1)])
    assert kept.probes_ms == []


def test_the_stored_timings_are_read() -> None:
    folder = Path(__file__).parents[2] / "results" / "trust" / "timings"
    assert [timings.read(path).rule for path in sorted(folder.glob("*.json"))]
