"""What an attribution proved, in words: the verdict, one sentence, and a row for every op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds4bench.attribution.search import Culprit, Effect, Findings, OpSet
from ds4bench.core import Estimate, Verdict
from ds4bench.store.attributions import AttributionRun, Step
from ds4bench.verdicts.wording import percent

_SHOWN = 6


@dataclass(frozen=True)
class OpRow:
    """One op: its verdict in words, the ratio that its own step measured where there is one, and the step that shows it."""

    op: str
    group: str
    verdict: str
    estimate: Estimate | None
    because: str


@dataclass(frozen=True)
class Attribution:
    """The outcome. ``verdict`` gives the exit code: FAIL where an op was named as worse."""

    verdict: Verdict
    sentence: str
    rows: list[OpRow]


def conclude(state: AttributionRun, found: Findings) -> Attribution:
    """Findings and steps in words."""
    verdict, sentence = _verdict(state, found)
    return Attribution(verdict, sentence, _rows(state, found))


def confirmed(state: AttributionRun, found: Findings) -> list[Culprit]:
    """The culprits; of those that were measured again at the end, the ones that showed the effect again."""
    again = {frozenset(step.ops): step.effect for step in state.closing}
    return [c for c in found.culprits if again.get(c.ops, state.wanted) == state.wanted]


def _verdict(state: AttributionRun, found: Findings) -> tuple[Verdict, str]:
    whole, wanted = state.steps[0], Effect(state.wanted)
    if found.whole is Effect.INVALID:
        return Verdict.INVALID, f"with all ops on the bundle: {whole.sentence}"
    if found.whole is Effect.UNSURE:
        return Verdict.INCONCLUSIVE, f"with all ops on the bundle: {whole.sentence}"
    if found.whole is not wanted:
        kind = "no difference" if found.whole is Effect.SAME else f"the bundle is {found.whole.value}"
        return _without_blame(found.whole), f"{kind}: {whole.sentence}"
    culprits = confirmed(state, found)
    sure = [culprit for culprit in culprits if culprit.sure]
    if not sure:
        return Verdict.INCONCLUSIVE, _not_named(state, found, culprits)
    named = "; ".join(_named(culprit, state) for culprit in sure)
    suspects = [culprit for culprit in culprits if not culprit.sure]
    more = "".join(f"; also one of {_list(culprit.ops)}" for culprit in suspects)
    verdict = Verdict.FAIL if wanted is Effect.WORSE else Verdict.PASS
    return verdict, f"{named}{more}{_rest(state, found)}{_moved(state)}"


def _without_blame(whole: Effect) -> Verdict:
    """The bundle shows something else than was looked for."""
    return Verdict.FAIL if whole is Effect.WORSE else Verdict.PASS


def _named(culprit: Culprit, state: AttributionRun) -> str:
    step = _step_of(culprit.ops, state)
    how = step.sentence if step is not None else "see the steps"
    if len(culprit.ops) == 1:
        return f"{_list(culprit.ops)} is {state.wanted} alone on the bundle: {how}"
    return f"{_list(culprit.ops)} are {state.wanted} only together: {how}"


def _rest(state: AttributionRun, found: Findings) -> str:
    """What the ops that were not named did together."""
    blamed = frozenset(op for culprit in found.culprits for op in culprit.ops)
    left = _searched(state) - blamed
    step = _step_of(left, state)
    if not left:
        return ""
    if step is None or not step.effect:
        return f"; the {len(left)} other ops were not measured by themselves"
    return f"; the {len(left)} other ops together: {step.effect}"


def _not_named(state: AttributionRun, found: Findings, culprits: Sequence[Culprit]) -> str:
    whole = state.steps[0]
    if found.culprits and not culprits:
        blamed = _list(frozenset(op for culprit in found.culprits for op in culprit.ops))
        return (
            f"{blamed} showed a difference, but not again beside the engine's own kernels measured anew (these against "
            f"themselves: {state.closing_sentence}): no op is named"
        )
    if culprits:
        which = "; ".join(_list(culprit.ops) for culprit in culprits)
        return f"the bundle is {state.wanted} ({whole.sentence}) by one of: {which}; too much noise to say which"
    return f"the bundle is {state.wanted} ({whole.sentence}), but no smaller set of ops showed it again: no op is named"


def _moved(state: AttributionRun) -> str:
    if not state.closing:
        return ""
    return f"; measured again beside the engine's own kernels, these against themselves: {state.closing_sentence}"


def _rows(state: AttributionRun, found: Findings) -> list[OpRow]:
    if found.whole in (Effect.INVALID, Effect.UNSURE):
        return []  # nothing is known of any op
    culprits = confirmed(state, found)
    rows = [_row(op, group.name, state, found, culprits) for group in state.groups for op in group.ops]
    return rows + [
        OpRow(op, "", "never called", None, "the engine has no use for it here") for op in state.never_called
    ]


def _row(op: str, group: str, state: AttributionRun, found: Findings, culprits: Sequence[Culprit]) -> OpRow:
    alone = _step_of(frozenset([op]), state)
    estimate = alone.estimate if alone is not None else None
    culprit = next((c for c in culprits if op in c.ops), None)
    if culprit is not None:
        step = _step_of(culprit.ops, state)
        others = _list(culprit.ops - {op})
        words = state.wanted if len(culprit.ops) == 1 else f"{state.wanted} only together with {others}"
        if not culprit.sure:
            words = f"suspect, or {others}"
        shown = estimate if len(culprit.ops) == 1 or step is None else step.estimate
        return OpRow(op, group, words, shown, _place(step, state))
    if op in found.cleared:
        clearing = next(
            s for s in reversed(state.steps) if op in s.ops and s.effect in _CLEARS and s.effect != state.wanted
        )
        return OpRow(op, group, Effect.SAME.value, estimate, _place(clearing, state))
    return OpRow(op, group, "open", estimate, "no step says anything about it")


_CLEARS = frozenset({Effect.SAME.value, Effect.BETTER.value, Effect.WORSE.value})


def _place(step: Step | None, state: AttributionRun) -> str:
    if step is None:
        return ""
    if step in state.closing:
        return "measured again at the end"
    return f"step {state.steps.index(step) + 1}, {len(step.ops)} on the bundle"


def _step_of(ops: OpSet, state: AttributionRun) -> Step | None:
    """The last step with exactly these of the searched ops on the bundle."""
    searched = _searched(state)
    steps = [*state.steps, *state.closing]
    return next((s for s in reversed(steps) if s.done and frozenset(s.ops) & searched == ops), None)


def _searched(state: AttributionRun) -> OpSet:
    return frozenset(op for group in state.groups for op in group.ops)


def _list(ops: OpSet) -> str:
    names = sorted(ops)
    shown = names[:_SHOWN]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 and not more else ", ".join(shown) + more


def ratio_text(estimate: Estimate | None) -> str:
    """``+12.3 % (+8.1 .. +16.7)``; empty without a ratio."""
    if estimate is None:
        return ""
    low, value, high = (ratio - 1 for ratio in (estimate.low, estimate.ratio, estimate.high))
    return f"{_signed(value)} ({_signed(low)} .. {_signed(high)})"


def _signed(change: float) -> str:
    return f"{'+' if change >= 0 else '-'}{percent(abs(change), 1)}"
