"""The search against simulated engines: any one or two culprits among any ops are found, and never an innocent op."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.attribution.plan import expected, steps
from ds4bench.attribution.search import Culprit, Effect, Findings, Group, OpSet, follow, search

Engine = Callable[[OpSet], Effect]


def grouped(sizes: Collection[int]) -> list[Group]:
    return [Group(f"g{n}", tuple(f"g{n}.op{i}" for i in range(size))) for n, size in enumerate(sizes)]


def names(groups: Collection[Group]) -> list[str]:
    return [op for group in groups for op in group.ops]


def engine_with(*culprits: Collection[str]) -> Engine:
    """Worse where all ops of a culprit are on the bundle."""
    return lambda ops: Effect.WORSE if any(set(c) <= ops for c in culprits) else Effect.SAME


def run(groups: list[Group], engine: Engine, wanted: Effect = Effect.WORSE) -> tuple[Findings, dict[OpSet, Effect]]:
    """Play a search to its end as the runner does, and give what was measured."""
    known: dict[OpSet, Effect] = {}
    while not isinstance(following := follow(search(groups, wanted), known), Findings):
        assert following not in known, "a configuration was asked for twice"
        assert following, "the baseline itself was asked for"
        known[following] = engine(following)
    return following, known


@st.composite
def tables(draw: st.DrawFn, least: int = 2) -> list[Group]:
    sizes = draw(st.lists(st.integers(1, 11), min_size=1, max_size=8).filter(lambda s: sum(s) >= least))
    return grouped(sizes)


@given(tables(), st.data())
def test_one_culprit_is_found_and_no_innocent_op(groups: list[Group], data: st.DataObject) -> None:
    culprit = data.draw(st.sampled_from(names(groups)))
    found, known = run(groups, engine_with({culprit}))
    assert found.culprits == [Culprit(frozenset({culprit}), sure=True)]
    assert found.cleared == frozenset(names(groups)) - {culprit}
    assert known[frozenset({culprit})] is Effect.WORSE  # it was measured alone, not inferred


@given(tables(), st.data())
def test_two_culprits_that_each_do_harm_are_both_found(groups: list[Group], data: st.DataObject) -> None:
    pair = data.draw(st.lists(st.sampled_from(names(groups)), min_size=2, max_size=2, unique=True))
    found, _ = run(groups, engine_with({pair[0]}, {pair[1]}))
    assert {c.ops for c in found.culprits} == {frozenset({op}) for op in pair}
    assert all(culprit.sure for culprit in found.culprits)
    assert found.cleared == frozenset(names(groups)) - set(pair)


@given(tables(), st.data())
def test_two_ops_that_do_harm_only_together_are_one_finding(groups: list[Group], data: st.DataObject) -> None:
    pair = data.draw(st.lists(st.sampled_from(names(groups)), min_size=2, max_size=2, unique=True))
    found, known = run(groups, engine_with(pair))
    assert found.culprits == [Culprit(frozenset(pair), sure=True)]
    assert all(known[frozenset({op})] is Effect.SAME for op in pair)  # each alone was measured


@given(tables(least=3), st.data())
def test_a_culprit_and_a_pair_are_told_apart(groups: list[Group], data: st.DataObject) -> None:
    a, b, c = data.draw(st.lists(st.sampled_from(names(groups)), min_size=3, max_size=3, unique=True))
    found, _ = run(groups, engine_with({a}, {b, c}))
    assert {culprit.ops for culprit in found.culprits} == {frozenset({a}), frozenset({b, c})}


@given(tables(), st.data())
def test_noise_that_hides_answers_never_blames_an_innocent_op(groups: list[Group], data: st.DataObject) -> None:
    """Any step may be inconclusive or invalid; what is named as sure is still right, and what is cleared is innocent."""
    culprits = data.draw(
        st.lists(st.frozensets(st.sampled_from(names(groups)), min_size=1, max_size=2), min_size=1, max_size=2)
    )
    true = engine_with(*culprits)
    whole = frozenset(names(groups))

    def engine(ops: OpSet) -> Effect:
        hidden = ops != whole and data.draw(st.integers(0, 2)) == 0
        return data.draw(st.sampled_from([Effect.UNSURE, Effect.INVALID])) if hidden else true(ops)

    found, known = run(groups, engine)
    for culprit in found.culprits:
        assert true(culprit.ops) is Effect.WORSE
        if culprit.sure:
            assert all(true(culprit.ops - {op}) is Effect.SAME for op in culprit.ops)
    for op in found.cleared:
        assert true(frozenset({op})) is Effect.SAME
        assert any(op in ops and effect is Effect.SAME for ops, effect in known.items())


@given(tables())
def test_without_a_difference_one_configuration_is_enough(groups: list[Group]) -> None:
    for effect in (Effect.SAME, Effect.BETTER, Effect.UNSURE, Effect.INVALID):
        found, known = run(groups, lambda _, effect=effect: effect)
        assert list(known) == [frozenset(names(groups))]
        assert (found.whole, found.culprits) == (effect, [])


@given(tables(), st.data())
def test_what_makes_it_better_is_found_the_same_way(groups: list[Group], data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(names(groups)))
    found, _ = run(groups, lambda ops: Effect.BETTER if good in ops else Effect.SAME, Effect.BETTER)
    assert [culprit.ops for culprit in found.culprits] == [frozenset({good})]


def test_an_effect_that_another_op_hides_is_not_blamed_on_a_guess() -> None:
    """Not every interaction can be halved: here the whole is worse and no smaller set is."""
    groups = grouped([2, 2])
    whole = frozenset(names(groups))
    found, _ = run(groups, lambda ops: Effect.WORSE if ops == whole else Effect.SAME)
    assert found.culprits == [Culprit(whole, sure=True)]
    flipping = iter([Effect.WORSE, *[Effect.SAME] * 99])
    found, _ = run(groups, lambda _: next(flipping))  # a first measurement that never repeats
    assert not [culprit for culprit in found.culprits if len(culprit.ops) < len(whole)]


def test_a_large_set_that_is_needed_as_a_whole_is_only_suspected() -> None:
    groups = grouped([6])
    found, known = run(groups, engine_with(names(groups)))
    assert [culprit.sure for culprit in found.culprits] == [False]
    assert len(known) < 2**6 / 2


def test_groups_are_switched_before_single_ops() -> None:
    groups = grouped([4, 4, 4, 4])
    _, known = run(groups, engine_with({"g2.op1"}))
    whole_groups = [all(len(ops & set(g.ops)) in (0, 4) for g in groups) for ops in known]
    assert whole_groups[:3] == [True, True, True]


@pytest.mark.parametrize("sizes", [(11, 9, 9, 2, 3, 6, 3, 2), (1,), (4, 4)])
def test_the_plan_says_what_the_search_will_need(sizes: tuple[int, ...]) -> None:
    groups = grouped(sizes)
    plan = expected(groups, closing=False)
    assert plan.nothing == 2
    needed = [1 + steps(groups, [frozenset({op})]) for op in names(groups)]
    assert plan.one_most == max(needed)
    assert plan.one_usual <= plan.one_most <= plan.two_most
    assert expected(groups, closing=True).one_most == plan.one_most + 1


def test_one_culprit_of_the_whole_table_costs_about_its_logarithm() -> None:
    plan = expected(grouped((11, 9, 9, 2, 3, 6, 3, 2)), closing=False)
    assert plan.one_most <= 1 + 1 + 7 + 1 + 1  # baseline, all, halvings of 45 ops, alone, the rest
