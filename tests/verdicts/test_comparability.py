"""What may be compared: what is tested may differ, what is measured may not."""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.verdicts.comparability import comparable


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
        ({"speculative": "mtp-1"}, "speculative decoding is mtp-1, in the baseline unknown"),
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
