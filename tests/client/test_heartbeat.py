"""The heartbeat notices a blocked event loop."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from ds4bench.client.heartbeat import Heartbeat, percentile


async def test_a_blocked_loop_shows_as_lag() -> None:
    heartbeat = Heartbeat()
    heartbeat.start()
    await asyncio.sleep(0.02)
    time.sleep(0.1)  # noqa: ASYNC251 - blocking is what is tested
    await asyncio.sleep(0.02)
    await heartbeat.stop()
    assert max(heartbeat.lags_ms) >= 90
    beats = len(heartbeat.lags_ms)
    await asyncio.sleep(0.02)
    assert len(heartbeat.lags_ms) == beats


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.0, 1.0))
def test_percentile_is_a_value_with_its_share_at_or_below(values: list[float], share: float) -> None:
    value = percentile(values, share)
    assert value in values
    assert sum(v <= value for v in values) >= share * len(values) - 1e-9
    assert sum(v < value for v in values) <= share * len(values)


def test_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.5) == 0.0
