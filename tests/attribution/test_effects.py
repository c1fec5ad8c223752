"""From verdicts of real rules to effects, and the search on times that the real statistics judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds4bench.attribution.effects import StepEffect, drifted, effect_of
from ds4bench.attribution.search import Effect, Findings, Group, OpSet, follow, search
from ds4bench.spec.load import EffectiveGate
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.rules.comparison import judges_times
from tests.verdicts.conftest import World, plain_ttft


@pytest.fixture
def world() -> World:
    return World()


GROUPS = [Group("attn", ("a1", "a2", "a3")), Group("mhc", ("m1", "m2")), Group("moe", ("e1", "e2"))]
OPS = [op for group in GROUPS for op in group.ops]


def compared(world: World, gate: EffectiveGate, factor: float = 1.0, **changes: Any) -> StepEffect:
    """A run that takes ``factor`` of the baseline's time."""
    base = world.run(gate)
    run = world.run(gate, ttft=lambda *where: plain_ttft(*where) * factor, **changes)
    return effect_of(gate.spec, decide(gate, run, world.baseline(base)), decide(gate, base, None))


@pytest.mark.parametrize(
    ("factor", "effect"), [(1.0, Effect.SAME), (1.3, Effect.WORSE), (0.7, Effect.BETTER), (1.1, Effect.UNSURE)]
)
def test_times_are_judged_by_the_gates_own_rule(world: World, factor: float, effect: Effect) -> None:
    found = compared(world, world.gate(), factor)
    assert found.effect is effect
    assert found.estimate is not None
    assert found.estimate.ratio == pytest.approx(factor)


def test_a_limit_that_the_engine_breaks_by_itself_is_no_difference(world: World) -> None:
    """Recall below its threshold on both sides; only where it is broken with the bundle alone it is worse."""
    gate = world.gate("rules.recall.threshold=0.9")
    base, bad = world.run(gate), world.run(gate)
    alone = decide(gate, base, None)
    failing = decide(gate, bad, world.baseline(base))
    rule = next(rule for rule in alone.rules if rule.rule == "failures")
    broken = type(rule)(rule="failures", verdict=type(rule.verdict)("FAIL"), sentence="2 requests failed: FAIL")

    def with_failure(verdict: Any) -> Any:
        rules = [broken, *[r for r in verdict.rules if r.rule != "failures"]]
        return type(verdict)(verdict=type(rule.verdict)("FAIL"), sentence="s", checks=verdict.checks, rules=rules)

    assert effect_of(gate.spec, with_failure(failing), with_failure(alone)).effect is Effect.SAME
    assert effect_of(gate.spec, with_failure(failing), alone).effect is Effect.WORSE


def test_an_invalid_step_says_nothing_about_an_op(world: World) -> None:
    assert compared(world, world.gate(), 1.5, result={"cached_tokens": 512}).effect is Effect.INVALID


def test_a_machine_that_drifted_is_seen_and_blames_nobody(world: World) -> None:
    gate = world.gate()
    slow = world.run(gate, ttft=lambda *where: plain_ttft(*where) * 1.5, batch={"probe_ms": 75.0})
    verdict = decide(gate, slow, world.baseline(world.run(gate)))
    assert drifted(verdict)
    assert not drifted(decide(gate, world.run(gate), world.baseline(world.run(gate))))
    assert effect_of(gate.spec, verdict, decide(gate, world.run(gate), None)).effect is not Effect.SAME
    assert judges_times(gate.spec)


def measured(world: World, gate: EffectiveGate, slower: Mapping[str, float]) -> Findings:
    """The whole search on runs whose TTFT is the product of what the ops on the bundle cost."""
    known: dict[OpSet, Effect] = {}
    while not isinstance(following := follow(search(GROUPS), known), Findings):
        factor = 1.0
        for op in following:
            factor *= slower.get(op, 1.0)
        known[following] = compared(world, gate, factor).effect
    return following


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(culprits=st.lists(st.sampled_from(OPS), min_size=1, max_size=2, unique=True))
def test_ops_that_cost_time_are_found_by_the_real_statistics(world: World, culprits: list[str]) -> None:
    found = measured(world, world.gate(), dict.fromkeys(culprits, 1.3))
    assert {culprit.ops for culprit in found.culprits} == {frozenset({op}) for op in culprits}
    assert found.cleared == frozenset(OPS) - set(culprits)


def test_two_costs_that_only_together_break_the_margin_are_named_together(world: World) -> None:
    found = measured(world, world.gate(), {"a2": 1.08, "e1": 1.08})
    assert [culprit.ops for culprit in found.culprits] == [frozenset({"a2", "e1"})]


def test_a_faster_op_beside_a_slower_one_does_not_hide_it(world: World) -> None:
    found = measured(world, world.gate(), {"a2": 1.5, "m1": 0.9})
    assert [culprit.ops for culprit in found.culprits] == [frozenset({"a2"})]
