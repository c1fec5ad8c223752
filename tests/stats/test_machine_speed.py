"""A machine counts as equally fast only where that is shown."""

from __future__ import annotations

import pytest

from ds4bench.stats.machine_speed import speed

STEADY, CHANGING = [10.0, 10.2, 9.9, 10.1, 10.0, 9.8, 10.1, 9.9], [9.7, 16.0, 9.8, 16.5, 12.0, 9.9, 15.5, 10.4]


@pytest.mark.parametrize("slower", [1.0, 1.03, 0.97])
def test_a_steady_machine_is_shown_to_be_as_fast(slower: float) -> None:
    assert speed([slower * probe for probe in STEADY], STEADY).within(0.08)


@pytest.mark.parametrize("slower", [1.2, 0.8])
def test_one_that_has_become_slower_or_faster_is_not(slower: float) -> None:
    found = speed([slower * probe for probe in STEADY], STEADY)
    assert found.beyond(0.08) and not found.within(0.08)


def test_equal_means_of_probes_that_come_and_go_show_nothing() -> None:
    found = speed(CHANGING, CHANGING[::-1])
    assert found.ratio == pytest.approx(1) and not found.beyond(0.08) and not found.within(0.08)


def test_two_probes_are_compared_as_they_are() -> None:
    found = speed([11.0], [10.0])
    assert (found.ratio, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))


def test_without_a_probe_nothing_is_compared() -> None:
    with pytest.raises(ValueError, match="no probe"):
        speed([], [10.0])
