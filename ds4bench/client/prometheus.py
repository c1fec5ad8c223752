"""A serve's own counters, from the Prometheus text of ``/metrics``."""

from __future__ import annotations

from ds4bench.errors import TargetError

_NOT_COUNTED = ("_created", "_bucket")


def parse_counters(text: str) -> dict[str, float]:
    """Samples by name, summed over labels; histogram buckets and creation times are left out."""
    from prometheus_client.parser import text_string_to_metric_families

    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith(_NOT_COUNTED):
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


def delta(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """What each counter of both grew by. Raises TargetError when one went backwards: the serve has restarted."""
    grown = {name: after[name] - value for name, value in before.items() if name in after}
    for name, value in grown.items():
        if value < 0:
            raise TargetError(f"the counter {name} went backwards by {-value:g}: the serve restarted during the batch")
    return grown
