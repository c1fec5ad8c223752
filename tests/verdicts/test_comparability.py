"""What may be compared: what is tested may differ, what is measured may not."""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.core import CheckStatus, Fingerprint, Verdict
from ds4bench.verdicts.comparability import comparable, untold
from ds4bench.verdicts.decide import decide


def reasons(world: Any, *, ours: dict[str, Any] | None = None, **theirs: Any) -> list[str]:
    run = world.run(world.gate(), **(ours or {}))
    return comparable(run.manifest, world.baseline(world.run(world.gate()), **theirs))


def test_equal_runs_are_comparable(world: Any) -> None:
    assert reasons(world) == []


def test_engine_version_flags_and_faults_of_the_candidate_may_differ(world: Any) -> None:
    changes = {"engine": "vllm", "engine_version": "0.33.0", "flags": {"x": 1}, "faults": ["prefill-delay"]}
    assert reasons(world, ours={"fingerprint": changes}) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "other"}, "model is other, in the baseline ds4-tiny"),
        ({"model_revision": "seed-1"}, "model revision is seed-1, in the baseline seed-0"),
        ({"model_revision": None}, "model revision is unknown, in the baseline seed-0"),
        ({"weights": "trained"}, "weights is trained, in the baseline random"),
        ({"prefix_caching": False}, "prefix caching is false, in the baseline true"),
        ({"speculative": "mtp-1"}, "speculative decoding is mtp-1, in the baseline off"),
    ],
)
def test_another_serve_is_refused_with_the_reason(world: Any, change: dict[str, Any], reason: str) -> None:
    assert reasons(world, ours={"fingerprint": change}) == [reason]


def test_another_machine_is_refused_part_by_part(world: Any) -> None:
    hardware = {"cpu": "a cpu", "cores": 64, "gpus": ["H200"], "driver": None}
    assert reasons(world, ours={"fingerprint": {"hardware": hardware}}) == [
        "hardware cores is 64, in the baseline 2",
        'hardware gpus is ["H200"], in the baseline []',
    ]


def test_another_measurement_is_refused_by_the_key_that_differs(world: Any) -> None:
    measurement = world.gate("request.salt=false", "seed=7").measurement
    tokenizer = {**measurement, "tokenizer": "ab12"}
    assert reasons(world, measurement=tokenizer) == [
        "request.salt is true, in the baseline false",
        "seed is 4027, in the baseline 7",
        "tokenizer is absent, in the baseline ab12",
    ]


def test_other_definitions_gate_or_faulty_baseline_are_refused(world: Any) -> None:
    assert reasons(world, metric_schema=2) == ["metric definitions is 1, in the baseline 2"]
    assert reasons(world, gate="other") == ["gate is long-context, in the baseline other"]
    faulty = world.run(world.gate(), fingerprint={"faults": ["delay"]}).manifest.fingerprint
    assert reasons(world, fingerprint=faulty) == ["the baseline was measured with injected faults (delay)"]


def test_serve_that_was_never_identified_is_refused(world: Any) -> None:
    assert reasons(world, ours={"manifest": {"fingerprint": None}}) == ["the serve of this run was not identified"]


def attached(**told: Any) -> dict[str, Any]:
    """Fields of an attached vLLM on another machine, which tells ``told``."""
    nothing = {"model_revision": None, "weights": None, "prefix_caching": None, "hardware": {}, "local": False}
    return {"fingerprint": {"engine": "vllm", **nothing, **told}}


def fingerprint(world: Any, told: dict[str, Any]) -> Fingerprint:
    found = world.run(world.gate(), **told).manifest.fingerprint
    assert isinstance(found, Fingerprint)
    return found


def test_a_serve_that_speculates_is_not_compared_with_one_that_does_not(world: Any) -> None:
    off = fingerprint(world, attached(prefix_caching=True))
    ours = attached(prefix_caching=True, speculative="unknown-2")
    assert reasons(world, ours=ours, fingerprint=off) == ["speculative decoding is unknown-2, in the baseline off"]


def test_an_unknown_method_of_the_same_depth_is_compared_and_named(world: Any) -> None:
    known = fingerprint(world, attached(prefix_caching=True, speculative="mtp-2"))
    ours = attached(prefix_caching=True, speculative="unknown-2")
    assert reasons(world, ours=ours, fingerprint=known) == []
    assert "method of speculative decoding" in untold(fingerprint(world, ours), known, world.gate().measurement)
    deeper = attached(prefix_caching=True, speculative="unknown-3")
    assert reasons(world, ours=deeper, fingerprint=known) == [
        "speculative decoding is unknown-3, in the baseline mtp-2"
    ]


@pytest.mark.parametrize(
    ("told", "detail"),
    [
        (
            {},
            "same measurement and model as here; not compared, because a serve does not tell: model revision, weights, "
            "prefix caching, speculative decoding, machine",
        ),
        (
            {"prefix_caching": True, "speculative": "unknown-2"},
            "same measurement and model as here; not compared, because a serve does not tell: model revision, weights, "
            "method of speculative decoding, machine",
        ),
        (
            {"prefix_caching": True, "model_revision": "r", "weights": "trained", "hardware": {"cpu": "a"}},
            "same measurement, model and machine as here",
        ),
    ],
)
def test_what_no_serve_tells_is_named_and_keeps_no_run_from_its_verdict(
    world: Any, told: dict[str, Any], detail: str
) -> None:
    gate = world.gate()
    run = world.run(gate, **attached(**told))
    verdict = decide(gate, run, world.baseline(run))
    [check] = [check for check in verdict.checks if check.name == "comparable"]
    assert (check.status, check.detail) == (CheckStatus.OK, detail)
    assert all("not comparable" not in rule.sentence for rule in verdict.rules)


def test_what_one_serve_tells_and_the_other_does_not_is_named_and_does_not_make_the_run_invalid(world: Any) -> None:
    gate = world.gate()
    silent, telling = world.run(gate, **attached()), world.run(gate, **attached(prefix_caching=True))
    verdict = decide(gate, silent, world.baseline(telling))
    [check] = [check for check in verdict.checks if check.name == "comparable"]
    assert check.status is CheckStatus.UNVERIFIED
    assert "prefix caching is unknown, in the baseline true" in check.detail
    assert "speculative decoding is unknown, in the baseline off" in check.detail
    assert verdict.verdict is Verdict.INCONCLUSIVE
