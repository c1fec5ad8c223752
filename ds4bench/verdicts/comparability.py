"""May two runs be compared at all? Everything that changes what is measured must be equal; the reasons say
what is not.

Engine, its version, flags and commit may differ: these are what is being tested.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ds4bench.core import Baseline, Fingerprint, RunManifest
from ds4bench.spec.workloads import WORKLOADS

_SAME_SERVE = {
    "model": "model",
    "model_revision": "model revision",
    "weights": "weights",
    "prefix_caching": "prefix caching",
    "speculative": "speculative decoding",
}
_HOW_IT_SERVES = ("prefix_caching", "speculative")
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
    declared = WORKLOADS.get(str(measurement.get("workload")))
    model_alone = declared is not None and not declared.machine_matters
    reasons = [
        _differs(words, getattr(ours, field), getattr(theirs, field))
        for field, words in _SAME_SERVE.items()
        if not (model_alone and field in _HOW_IT_SERVES) and getattr(ours, field) != getattr(theirs, field)
    ]
    if not model_alone:
        reasons += [_differs(f"hardware {k}", a, b) for k, a, b in differences(ours.hardware, theirs.hardware)]
    if theirs.faults:
        reasons.append(f"the baseline was measured with injected faults ({', '.join(theirs.faults)})")
    return reasons


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
