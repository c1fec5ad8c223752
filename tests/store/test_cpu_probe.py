"""The fixed CPU probe sees every core that we may use, and leaves the affinity as it was."""

from __future__ import annotations

import os

import pytest

from ds4bench.store import cpu_probe


def test_the_probe_takes_time_and_leaves_the_affinity_as_it_was() -> None:
    before = os.sched_getaffinity(0)
    assert cpu_probe.cpu_probe_ms() > 1
    assert os.sched_getaffinity(0) == before


def test_one_slow_core_of_two_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.append(set(cores)))
    monkeypatch.setattr(cpu_probe, "_once", lambda: 16.0 if pinned[-1] == {1} else 10.0)
    assert cpu_probe.cpu_probe_ms() == 13.0
    assert pinned == [{0}, {1}, {0, 1}]


def test_a_lucky_round_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([30.0, 16.0, 10.0, 16.0])  # the first one wakes the core up
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None)
    monkeypatch.setattr(cpu_probe, "_once", lambda: next(rounds))
    assert cpu_probe.cpu_probe_ms() == 14.0


@pytest.mark.parametrize(
    ("cores", "asked"),
    [([5], [5]), ([0, 1], [0, 1]), ([*range(8)], [*range(8)]), ([*range(128)], [*range(0, 128, 16)])],
)
def test_at_most_eight_cores_are_asked_evenly_spread(cores: list[int], asked: list[int]) -> None:
    assert cpu_probe.spread(cores, 8) == asked


def test_without_affinity_the_work_is_timed_wherever_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    assert cpu_probe.cpu_probe_ms() > 1
