"""From the verdicts of a suite's gates to one promotion verdict. Pure.

INVALID > FAIL > INCONCLUSIVE > PASS. SKIPPED counts as INCONCLUSIVE unless the suite lets the gate be skipped. The gates'
primary comparisons are a family of tests: a FAIL that rests on them alone stands only after Holm's correction over the
family (``stats/holm.py``), so that a suite of ten gates blames an unchanged build as seldom as one gate does. A rule that
states its own level is held to that. A FAIL by an absolute limit, a floor among them, has no p and no part in this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ds4bench.core import GateVerdict, RuleResult, Verdict
from ds4bench.stats.decision import levels
from ds4bench.stats.holm import holm_adjust
from ds4bench.verdicts.exit_codes import worst


@dataclass(frozen=True)
class SuiteLine:
    """One gate of a suite: ``verdict`` None while it has not been run. ``looks`` of its comparisons were declared."""

    gate: str
    profile: str
    verdict: Verdict | None = None
    sentence: str = ""
    run_id: str | None = None
    seconds: float | None = None
    may_skip: bool = False
    looks: int = 1
    rules: tuple[RuleResult, ...] = ()

    def with_verdict(self, verdict: GateVerdict, run_id: str) -> SuiteLine:
        """The line once its gate has been judged."""
        return replace(
            self, verdict=verdict.verdict, sentence=verdict.sentence, rules=tuple(verdict.rules), run_id=run_id
        )


@dataclass(frozen=True)
class Promotion:
    """The outcome of a suite. ``lines`` are after Holm's correction."""

    verdict: Verdict
    sentence: str
    lines: list[SuiteLine]


def promotion(lines: Sequence[SuiteLine]) -> Promotion:
    """The verdict over all lines; a gate that was not run leaves it INCONCLUSIVE at best."""
    corrected = after_holm(lines)
    verdict = worst(_counts_as(line) for line in corrected)
    deciding = [line for line in corrected if _counts_as(line) is verdict]
    if verdict is Verdict.PASS:
        skipped = [line.gate for line in corrected if line.verdict is Verdict.SKIPPED]
        allowed = f" ({', '.join(skipped)} skipped, which the suite allows)" if skipped else ""
        ran = len(corrected) - len(skipped)
        return Promotion(verdict, f"{ran} of {len(corrected)} gates pass{allowed}: PASS", corrected)
    more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
    return Promotion(verdict, f"{_blame(deciding[0])}{more}: {verdict}", corrected)


def after_holm(lines: Sequence[SuiteLine]) -> list[SuiteLine]:
    """The lines with each FAIL that does not outlive the correction turned to INCONCLUSIVE."""
    family = [(i, rule) for i, line in enumerate(lines) for rule in line.rules if _in_family(rule)]
    adjusted = holm_adjust([rule.p for _, rule in family if rule.p is not None])
    corrected = list(lines)
    for place, line in enumerate(lines):
        failed = [rule for rule in line.rules if rule.verdict is Verdict.FAIL]
        if line.verdict is not Verdict.FAIL or not failed or not all(_in_family(rule) for rule in failed):
            continue
        found = [
            (p, _level(rule, line.looks))
            for (i, rule), p in zip(family, adjusted, strict=True)
            if i == place and rule in failed
        ]
        if all(p > level for p, level in found):
            p, level = min(found, key=lambda pair: pair[0] / pair[1])
            why = (
                f"{failed[0].sentence.removesuffix(': FAIL')}; p {p:.2g} after Holm over {len(family)} comparisons "
                f"of the suite, {level:g} is asked: INCONCLUSIVE"
            )
            corrected[place] = replace(line, verdict=Verdict.INCONCLUSIVE, sentence=why)
    return corrected


def _in_family(rule: RuleResult) -> bool:
    return rule.primary and rule.cell is None and rule.p is not None


def _level(rule: RuleResult, looks: int) -> float:
    """The level that a rule's FAIL is held to: its own, else that of one of the gate's looks."""
    return levels(looks).fail_level if rule.fail_alpha is None else rule.fail_alpha


def _counts_as(line: SuiteLine) -> Verdict:
    if line.verdict is Verdict.SKIPPED:
        return Verdict.PASS if line.may_skip else Verdict.INCONCLUSIVE
    return Verdict.INCONCLUSIVE if line.verdict is None else line.verdict


def _blame(line: SuiteLine) -> str:
    if line.verdict is None:
        return f"{line.gate} was not run" + (f": {line.sentence}" if line.sentence else "")
    return f"{line.gate}: {line.sentence.removesuffix(f': {line.verdict}')}"
