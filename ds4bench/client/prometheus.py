"""A serve's own counters, from the Prometheus text of ``/metrics``."""

from __future__ import annotations

from ds4bench.errors import TargetDiedError, TargetError

_GROWING = ("counter", "histogram", "summary", "unknown", "untyped")


def parse_counters(text: str) -> dict[str, float]:
    """Samples that only grow, by name, summed over labels but ``le`` of a bucket and ``position`` of a draft token.

    These two stay in the name: ``name_bucket{le="0.1"}``, ``name{position="0"}``. Gauges, quantiles and creation times are
    left out. Raises TargetError if the text is not Prometheus text.
    """
    from prometheus_client.parser import text_string_to_metric_families

    totals: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples if family.type in _GROWING else ():
                if sample.name.endswith("_created") or "quantile" in sample.labels:
                    continue
                label = "le" if sample.name.endswith("_bucket") else "position"
                value = sample.labels.get(label)
                name = sample.name if value is None else f'{sample.name}{{{label}="{value}"}}'
                totals[name] = totals.get(name, 0.0) + sample.value
    except ValueError as error:
        raise _not_prometheus(error) from error
    return totals


def _not_prometheus(error: ValueError) -> TargetError:
    return TargetError(f"/metrics is not Prometheus text: {error}; is the base URL right?")


def labels_of(text: str, name: str) -> list[dict[str, str]]:
    """The labels of every sample of a name. Raises TargetError if the text is not Prometheus text."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        raise _not_prometheus(error) from error
    return [dict(sample.labels) for family in families for sample in family.samples if sample.name == name]


def delta(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What each counter of both grew by. Raises TargetDiedError when one went backwards: who answers now is another process
    than the one that was measured."""
    grown = {name: after[name] - value for name, value in before.items() if name in after}
    for name, value in grown.items():
        if value < 0:
            raise TargetDiedError(
                f"the counter {name} went backwards by {-value:g}: the serve restarted during the batch"
            )
    return grown
