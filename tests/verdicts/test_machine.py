"""Checks of the machine: is it as fast as when the baseline was measured, and was it quiet?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from ds4bench.core import CheckStatus, RunData
from ds4bench.spec.rules import ABSOLUTE_KINDS
from ds4bench.verdicts.checks import run_checks
from ds4bench.verdicts.evidence import gather

OK, UNVERIFIED, NOT_APPLICABLE = CheckStatus.OK, CheckStatus.UNVERIFIED, CheckStatus.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("probe", "status", "part"),
    [
        (50.0, OK, "0 % slower"),
        (53.0, OK, "6 % slower"),
        (56.0, UNVERIFIED, "this machine runs the fixed CPU probe 12 % slower than when the baseline was"),
        (45.0, UNVERIFIED, "10 % faster"),
    ],
)
def test_drift_of_the_machine_forbids_the_comparison(world: Any, probe: float, status: CheckStatus, part: str) -> None:
    result = world.check("machine_steady", batch={"probe_ms": probe})
    assert result.status is status
    assert part in result.detail


@pytest.mark.parametrize(
    ("ours", "theirs", "status", "part"),
    [
        (
            [50.0, 80.0, 50.0],
            [80.0, 50.0, 50.0],
            UNVERIFIED,
            "when the baseline was measured, but it differs",
        ),
        ([50.0, 51.0, 50.0], [51.0, 50.0, 50.0], OK, "0 % "),
        ([80.0, 50.0, 50.0], [50.0], UNVERIFIED, "17 % slower"),
    ],
)
def test_a_machine_is_shown_to_be_as_fast_or_nothing_is_compared(
    world: Any, ours: list[float], theirs: list[float], status: CheckStatus, part: str
) -> None:
    """A neighbour who comes and goes: equal means of a probe that differs from batch to batch show nothing."""
    gate = world.gate()
    head, base = (probed(world.run(gate), probes) for probes in (ours, theirs))
    results = {result.name: result for result in run_checks(gather(gate, head, world.baseline(base)))}
    assert results["machine_steady"].status is status
    assert part in results["machine_steady"].detail


def probed(run: RunData, probes: list[float]) -> RunData:
    """The run with these CPU probes before its batches, again and again."""
    batches = [
        msgspec.structs.replace(batch, probe_ms=probes[place % len(probes)]) for place, batch in enumerate(run.batches)
    ]
    return msgspec.structs.replace(run, batches=batches)


def test_drift_does_not_matter_for_a_serve_elsewhere_or_without_a_baseline(world: Any) -> None:
    slow = {"probe_ms": 90.0}
    away = world.check("machine_steady", batch=slow, fingerprint={"local": False})
    alone = world.check("machine_steady", batch=slow, with_baseline=False)
    unprobed = world.check("machine_steady", batch={"probe_ms": None})
    assert {away.status, alone.status, unprobed.status} == {NOT_APPLICABLE}


def test_drift_does_not_matter_where_no_rule_compares_times(world: Any) -> None:
    """Limits hold or not, however fast the machine was when something else was measured (soak)."""
    gate = world.gate()
    limits = [rule for rule in gate.spec.rules if rule.kind in ABSOLUTE_KINDS]
    assert limits
    absolute = replace(gate, spec=gate.spec.model_copy(update={"rules": limits}))
    for judged, status in ((gate, UNVERIFIED), (absolute, NOT_APPLICABLE)):
        run = world.run(judged, batch={"probe_ms": 90.0})
        results = {r.name: r for r in run_checks(gather(judged, run, world.baseline(world.run(judged))))}
        assert results["machine_steady"].status is status


def test_drift_does_not_matter_where_both_sides_were_measured_in_turns(world: Any) -> None:
    gate = world.gate()
    head = world.run(gate, batch={"probe_ms": 90.0})
    baseline = world.baseline(world.run(gate), interleaved_with=head.manifest.run_id)
    results = {result.name: result for result in run_checks(gather(gate, head, baseline))}
    assert results["machine_steady"].status is NOT_APPLICABLE
    assert "in turns" in results["machine_steady"].detail


@pytest.mark.parametrize(("foreign", "status"), [(0.02, CheckStatus.OK), (0.5, CheckStatus.UNVERIFIED)])
def test_a_busy_neighbour_keeps_a_run_from_a_verdict(world: Any, foreign: float, status: CheckStatus) -> None:
    result = world.check("machine_quiet", batch={"foreign_cores": foreign})
    assert result.status is status
    assert f"{foreign:.2f} of 2 cores" in result.detail
