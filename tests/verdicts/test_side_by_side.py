"""Two runs beside each other: paired scores, latency ratios, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ds4bench.core import Answer, GateVerdict, RunData, ScriptRow, Verdict
from ds4bench.verdicts.side_by_side import side_by_side
from tests.verdicts.conftest import World, plain_ttft


def scored(run: RunData, scores: dict[str, float]) -> RunData:
    cell = run.batches[0].cell
    scripts = [
        ScriptRow(
            cell=cell, repeat=0, attempt=0, phase="measure", script=place, key=key, requests=1,
            answer=Answer(scores={"points": value}),
        )
        for place, (key, value) in enumerate(scores.items())
    ]  # fmt: skip
    return msgspec.structs.replace(run, scripts=scripts)


HOSTED: dict[str, Any] = {
    "engine": "hosted-deepseek", "engine_version": None, "model": "deepseek-v4-flash", "hardware": {}, "local": False,
}  # fmt: skip
LOCAL: dict[str, Any] = {"engine": "vllm", "model": "deepseek-ai/DeepSeek-V4-Flash"}


def test_items_are_paired_by_key_and_losses_are_named(world: World) -> None:
    gate = world.gate()
    ours = {f"item-{n}": 1.0 for n in range(20)}
    theirs = ours | {f"item-{n}": 0.0 for n in range(6)}
    found = side_by_side(
        scored(world.run(gate, fingerprint=LOCAL), ours),
        scored(world.run(gate, fingerprint=HOSTED), dict(reversed(theirs.items()))),
    )
    [points] = found.scores
    assert (points.items, points.first, points.second) == (20, 1.0, 0.7)
    assert points.lost == [f"item-{n}" for n in range(6)]
    assert points.won == []
    assert points.p == pytest.approx(2 * 0.5**6)
    assert points.interval is not None
    assert points.interval.low < -0.3 < points.interval.high < 0


def in_modes(run: RunData, modes: dict[str, list[float]]) -> RunData:
    """The run with one script a mode and item; every mode asks the same items."""
    scripts = [
        ScriptRow(
            cell=mode, repeat=0, attempt=0, phase="measure", script=place, key=f"TC-{place:02}", requests=1,
            answer=Answer(scores={"points": value}),
        )
        for mode, values in modes.items()
        for place, value in enumerate(values)
    ]  # fmt: skip
    batches = [msgspec.structs.replace(run.batches[0], cell=mode, repeat=0) for mode in modes]
    return msgspec.structs.replace(run, requests=[], batches=batches, scripts=scripts)


def test_a_loss_in_one_mode_is_not_hidden_by_a_gain_in_another(world: World) -> None:
    run = world.run(world.gate(), fingerprint=LOCAL)
    up, down = [0.0] * 8 + [1.0] * 7, [1.0] * 8 + [1.0] * 7
    ours = in_modes(run, {"think-high": up, "think-max": down})
    theirs = in_modes(run, {"think-high": down, "think-max": up})
    found = {score.cell: score for score in side_by_side(ours, theirs).scores}
    assert set(found) == {"think-high", "think-max"}
    gained, lost = found["think-high"], found["think-max"]
    eight = [f"TC-{place:02}" for place in range(8)]
    assert (gained.items, gained.won, gained.lost) == (15, eight, [])
    assert (lost.items, lost.won, lost.lost) == (15, [], eight)
    assert lost.pairs["TC-00"] == (1.0, 0.0)
    for score in (gained, lost):
        assert score.p == pytest.approx(2 * 0.5**8)
    assert lost.interval is not None
    assert lost.interval.high < 0


def test_the_modes_of_a_run_are_refused_where_the_other_has_not_all_of_them(world: World) -> None:
    run = world.run(world.gate(), fingerprint=LOCAL)
    whole = in_modes(run, {"think-high": [1.0] * 3, "think-max": [1.0] * 3})
    found = side_by_side(whole, in_modes(run, {"think-high": [1.0] * 3}))
    assert "points: 3 items are in one run only (think-max/TC-00" in found.refused["scores"][0]


def test_items_that_each_stand_in_one_batch_are_one_comparison(world: World) -> None:
    gate = world.gate()
    run = world.run(gate, fingerprint=LOCAL)
    first, second, *_ = (cell.id for cell in gate.spec.matrix.cells())
    scripts = scored(run, {f"item-{n}": 1.0 for n in range(6)}).scripts
    halves = [msgspec.structs.replace(row, cell=(first, second)[place % 2]) for place, row in enumerate(scripts)]
    run = msgspec.structs.replace(run, scripts=halves)
    [points] = side_by_side(run, run).scores
    assert (points.cell, points.items) == (None, 6)


def test_fractional_scores_get_an_interval_too(world: World) -> None:
    gate = world.gate()
    ours = {f"item-{n}": n % 3 / 2 for n in range(15)}
    run = world.run(gate, fingerprint=LOCAL)
    [points] = side_by_side(scored(run, ours), scored(run, ours)).scores
    assert points.interval is not None
    assert (points.interval.low, points.interval.high, points.p) == (0, 0, 1)


def test_latency_is_a_ratio_with_an_interval_a_cell(world: World) -> None:
    gate = world.gate()
    slow = world.run(gate, fingerprint=HOSTED, ttft=lambda *place: 2 * plain_ttft(*place))
    found = side_by_side(world.run(gate, fingerprint=LOCAL), slow)
    ttft = [item for item in found.latencies if item.metric == "ttft_s"]
    assert {item.cell for item in ttft} == {cell.id for cell in gate.spec.matrix.cells()}
    for item in ttft:
        assert item.ratio == pytest.approx(2)
        assert item.low is not None
        assert item.high is not None
        assert item.low < 2 < item.high
        assert item.rank is not None
        assert item.rank.superiority == 1  # every repeat of the second run is slower than every one of the first
        assert item.rank.p == pytest.approx(item.rank.smallest_p) == pytest.approx(0.1)
    assert any("network" in note for note in found.notes)


def test_one_repeat_has_no_rank(world: World) -> None:
    run = world.run(world.gate(repeats=1), fingerprint=LOCAL)
    assert [item.rank for item in side_by_side(run, run).latencies] == [None] * 12


def test_scores_of_a_rerouted_model_are_refused_but_its_latency_is_not(world: World) -> None:
    gate, items = world.gate(), {"a": 1.0, "b": 0.0, "c": 1.0}
    local = scored(world.run(gate, fingerprint=LOCAL), items)
    rerouted = HOSTED | {"flags": {"rerouted_to": "deepseek-v4.1-flash"}}
    hosted = scored(world.run(gate, fingerprint=rerouted), items)
    found = side_by_side(local, hosted)
    assert found.scores == []
    assert "served by deepseek-v4-flash, the second by deepseek-v4.1-flash" in found.refused["scores"][0]
    assert found.latencies
    assert len(side_by_side(local, hosted, other_model=True).scores) == 1


def test_other_items_are_refused_by_name(world: World) -> None:
    run = world.run(world.gate(), fingerprint=LOCAL)
    found = side_by_side(scored(run, {"a": 1.0, "b": 1.0}), scored(run, {"a": 1.0, "c": 1.0}))
    assert "2 items are in one run only (p2048-c1/b, p2048-c1/c)" in found.refused["scores"][0]


def test_another_measurement_is_refused_with_what_differs(world: World) -> None:
    first, second = world.run(world.gate()), world.run(world.gate("request.max_tokens=7"))
    found = side_by_side(first, second)
    assert (found.scores, found.latencies) == ([], [])
    assert any("request.max_tokens was" in reason for reason in found.refused["everything"])


def test_an_invalid_run_is_refused(world: World) -> None:
    run = world.run(world.gate())
    bad = GateVerdict(verdict=Verdict.INVALID, sentence="the prompts were warm", checks=[], rules=[])
    found = side_by_side(run, msgspec.structs.replace(run, verdict=bad))
    assert found.refused["everything"] == ["the second run is INVALID: the prompts were warm"]


def test_refused_requests_never_count_as_measured(world: World) -> None:
    run = world.run(world.gate(), fingerprint=HOSTED)
    refusal = msgspec.structs.replace(run.requests[0].result, ok=False, error="http_429", ttft_s=None)
    row = msgspec.structs.replace(run.requests[0], result=refusal, phase="refused")
    with_refusal = msgspec.structs.replace(run, requests=[row, *run.requests])
    assert side_by_side(run, with_refusal).latencies == side_by_side(run, run).latencies
