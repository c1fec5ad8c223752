"""May two runs be compared at all? Everything that changes what is measured must be equal; the reasons say
what is not.

Engine, its version, flags and commit may differ: these are what is being tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ds4bench.core import UNKNOWN_METHOD, Baseline, Fingerprint, RunManifest
from ds4bench.spec.workloads import WORKLOADS

_SAME_SERVE = {
    "model": "model",
    "model_revision": "model revision",
    "weights": "weights",
    "prefix_caching": "prefix caching",
    "speculation": "speculative decoding",
}
_HOW_IT_SERVES = ("prefix_caching", "speculation")
MACHINE = "machine"
_NOTHING = object()


def comparable(manifest: RunManifest, baseline: Baseline) -> list[str]:
    """Why the run and the baseline cannot be compared, one short clause a reason; empty when they can.

    The tokenizer counts by what ``measurement`` holds of it.
    """
    reasons = []
    if manifest.gate != baseline.gate:
        reasons.append(_differs("gate", manifest.gate, baseline.gate))
    if manifest.metric_schema != baseline.metric_schema:
        reasons.append(_differs("metric definitions", manifest.metric_schema, baseline.metric_schema))
    reasons += [_differs(*item) for item in differences(manifest.measurement, baseline.measurement)]
    if manifest.fingerprint is None:
        return [*reasons, "the serve of this run was not identified"]
    return reasons + _serve_reasons(manifest.fingerprint, baseline.fingerprint, manifest.measurement)


def comparable_baselines(first: Baseline, second: Baseline) -> list[str]:
    """The same for two baselines."""
    reasons = []
    if first.gate != second.gate:
        reasons.append(_differs("gate", first.gate, second.gate))
    if first.metric_schema != second.metric_schema:
        reasons.append(_differs("metric definitions", first.metric_schema, second.metric_schema))
    reasons += [_differs(*item) for item in differences(first.measurement, second.measurement)]
    return reasons + _serve_reasons(first.fingerprint, second.fingerprint, first.measurement)


def _serve_reasons(ours: Fingerprint, theirs: Fingerprint, measurement: Mapping[str, Any]) -> list[str]:
    reasons = [
        _differs(words, getattr(ours, field), getattr(theirs, field))
        for field, words in _what_matters(measurement).items()
        if getattr(ours, field) != getattr(theirs, field)
        and not (field == "speculation" and _same_but_for_the_method(ours, theirs))
    ]
    if not _model_alone(measurement):
        reasons += [_differs(f"hardware {k}", a, b) for k, a, b in differences(ours.hardware, theirs.hardware)]
    if theirs.faults:
        reasons.append(f"the baseline was measured with injected faults ({', '.join(theirs.faults)})")
    return reasons


def untold(ours: Fingerprint, theirs: Fingerprint, measurement: Mapping[str, Any]) -> list[str]:
    """What of two comparable serves could not be compared, because neither tells it, or one not all of it."""
    told_by_neither = [
        words
        for field, words in _what_matters(measurement).items()
        if getattr(ours, field) is None and getattr(theirs, field) is None
    ]
    if not _model_alone(measurement):
        if any((side.speculation or "").startswith(UNKNOWN_METHOD) for side in (ours, theirs)):
            told_by_neither.append(f"method of {_SAME_SERVE['speculation']}")
        if not ours.hardware and not theirs.hardware:
            told_by_neither.append(MACHINE)
    return told_by_neither


def _model_alone(measurement: Mapping[str, Any]) -> bool:
    """Whether the workload asks about the model only, however it is served."""
    declared = WORKLOADS.get(str(measurement.get("workload")))
    return declared is not None and not declared.machine_matters


def _what_matters(measurement: Mapping[str, Any]) -> dict[str, str]:
    alone = _model_alone(measurement)
    return {field: words for field, words in _SAME_SERVE.items() if not (alone and field in _HOW_IT_SERVES)}


def _same_but_for_the_method(ours: Fingerprint, theirs: Fingerprint) -> bool:
    """Whether both draft as many tokens, and one does not tell by what."""
    (a, _, a_depth), (b, _, b_depth) = ((side.speculation or "").rpartition("-") for side in (ours, theirs))
    return UNKNOWN_METHOD[:-1] in (a, b) and a_depth == b_depth


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, our value, their value) wherever two nested mappings differ."""
    for key in sorted({*ours, *theirs}):
        a, b = ours.get(key, _NOTHING), theirs.get(key, _NOTHING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from ((f"{key}.{below}", x, y) for below, x, y in differences(a, b))
        elif a != b:
            yield key, a, b


def _differs(what: str, ours: Any, theirs: Any) -> str:
    return f"{what} is {_shown(ours)}, in the baseline {_shown(theirs)}"


def _shown(value: Any) -> str:
    if value is None or value is _NOTHING:
        return "unknown" if value is None else "absent"
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)
