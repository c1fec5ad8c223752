"""``agreement``: greedy replies against a stored reference, place by place, up to the first low-margin fork.

Two sound engines differ in rounding, so where two tokens are nearly as likely they may choose differently, and everything
behind such a fork differs for no fault of theirs. A place counts while the replies before it are equal. Where the tokens
differ and the reference's best two are at least ``fork_margin_nats`` apart, it is a disagreement; nearer, it is a fork, which
is no evidence. Either way the comparison of this reply ends there. Where an engine names tokens by their text, two of one
text (special tokens have none) leave a list shorter than the others: its margin is unknown, so a difference there is a fork.

A reply that ends where the other goes on differs at that place, by the margin of the one that tells what stood there. Both
sides were asked for as many tokens, so the shorter one was not cut at ``max_tokens``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from ds4bench.core import RuleResult, ScriptRow, Verdict
from ds4bench.spec.workloads.oracle import OPENING_WORDS
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.wording import percent

if TYPE_CHECKING:
    from ds4bench.spec.rules import AgreementRule

_ROUNDING = 1e-9
_END_TOKEN = 1
"""Some engines tell the token that ends a reply and some do not: a reply longer by this much has the same end."""
_AGAIN = "prompts sent again"
_BY_ID = "token_id:"


class Agreement(NamedTuple):
    """One reply: places that count, how many of them agree, and of each place overlap (0..1) and logprob error (nats)."""

    places: int
    agreed: int
    overlaps: list[float]
    errors: list[float]
    forked: bool
    length: int


def judge(rule: AgreementRule, evidence: Evidence) -> list[RuleResult]:
    """Top-1 agreement, overlap of the likeliest tokens and error of their logprobs over all replies, then each cell's."""
    baseline = evidence.baseline
    if baseline is None:
        return [_undecided(rule, "; ".join(evidence.refusal) or "no baseline")]
    reference = {script.key: script for script in baseline.scripts if script.repeat == 0}
    pairs = [(script, reference.get(script.key)) for script in evidence.scripts()]
    other = [ours.key for ours, theirs in pairs if theirs is None or _text(ours) != _text(theirs)]
    if other or not pairs:
        return [_undecided(rule, f"{baseline.name} has no reply to the same text for {', '.join(other[:3]) or 'any'}")]
    if (naming := _naming(pairs)) is not None:
        return [_undecided(rule, naming)]
    told = _told(pairs)
    short = {
        c.id for c in evidence.spec.matrix.cells() if int(c.params.get("words", OPENING_WORDS + 1)) <= OPENING_WORDS
    }
    cells: dict[str, list[Agreement]] = {}
    again: list[Agreement] = []
    for ours, theirs in pairs:
        wanted = _detail(theirs).get("replies", []) if theirs is not None else []
        replies = zip(_detail(ours)["replies"], wanted, strict=False)
        found = [compare(a, b, rule.fork_margin_nats, told) for a, b in replies]
        cells.setdefault(ours.cell, []).extend(found)
        again += found[1:] if ours.cell not in short else []
    single = [_result(rule, replies, baseline.name, cell, opening=cell in short) for cell, replies in cells.items()]
    if again:  # apart, since replies to prompts that were cold would dilute what goes wrong behind a cache hit
        single.append(_result(rule, again, baseline.name, _AGAIN))
    long = [reply for cell, replies in cells.items() if cell not in short for reply in replies]
    return [_result(rule, long, baseline.name, None), *single] if long else single


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], fork_margin_nats: float, told: int) -> Agreement:
    """Two replies to one prompt, each ``tokens`` and ``top`` (token -> logprob in nats, ``told`` of them) of every place."""
    agreed = 0
    overlaps: list[float] = []
    errors: list[float] = []
    places = list(zip(ours["tokens"], theirs["tokens"], ours["top"], theirs["top"], strict=False))
    length = max(len(theirs["tokens"]), 1)
    for token, wanted, top, reference in places:
        overlaps.append(overlap(top, reference))
        errors.append(logprob_error(top, reference))
        if token == wanted:
            agreed += 1
            continue
        forked = margin(reference) < fork_margin_nats or min(len(top), len(reference)) < told
        return Agreement(agreed + (not forked), agreed, overlaps, errors, forked, length)
    if abs(len(ours["tokens"]) - len(theirs["tokens"])) <= _END_TOKEN:
        return Agreement(agreed, agreed, overlaps, errors, forked=False, length=length)
    longer = theirs if len(theirs["tokens"]) > len(ours["tokens"]) else ours
    going_on = longer["top"][len(places)]
    forked = margin(going_on) < fork_margin_nats or len(going_on) < told
    return Agreement(agreed + (not forked), agreed, overlaps, errors, forked, length)


def overlap(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Share of the likeliest tokens that both name."""
    return len(ours.keys() & theirs.keys()) / max(len(ours), len(theirs), 1)


def logprob_error(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Mean |difference| of the logprobs of common tokens in nats, weighted by the reference's probabilities."""
    common = ours.keys() & theirs.keys()
    weight = math.fsum(math.exp(theirs[token]) for token in common)
    if weight <= 0:
        return math.inf
    return math.fsum(math.exp(theirs[token]) * abs(ours[token] - theirs[token]) for token in common) / weight


def margin(top: Mapping[str, float]) -> float:
    """How far the best token is above the second, in nats."""
    best = sorted(top.values(), reverse=True)
    return best[0] - best[1] if len(best) > 1 else math.inf


def _result(
    rule: AgreementRule, replies: Iterable[Agreement], name: str, cell: str | None, *, opening: bool = False
) -> RuleResult:
    replies = list(replies)
    places, agreed = sum(a.places for a in replies), sum(a.agreed for a in replies)
    seen = places / max(sum(a.length for a in replies), 1)
    overlaps = [value for a in replies for value in a.overlaps]
    errors = [value for a in replies for value in a.errors]
    top1 = agreed / places if places else 0.0
    shared, error = (fmean(overlaps), fmean(errors)) if overlaps else (0.0, math.inf)
    broken = _broken(rule, top1 if places else None, shared, error, opening=opening)
    verdict = Verdict.FAIL if broken else Verdict.PASS
    note = ""
    if not broken and seen < rule.least_compared:
        verdict = Verdict.INCONCLUSIVE
        note = f"; at least {percent(rule.least_compared)} must be compared"
    forks = sum(a.forked for a in replies)
    lead = f"{cell}: " if cell else ""
    sentence = (
        f"{lead}top-1 agrees with {name} in {percent(top1, 1)} of {places} places ({percent(seen)} of all, {forks} of "
        f"{len(replies)} replies fork at a low margin), top-k overlap {percent(shared, 1)}, logprobs off by {error:.3f} nat"
        f"{'; ' + ', '.join(broken) if broken else ''}{note}: {verdict}"
    )
    return RuleResult(rule=rule.name, verdict=verdict, sentence=sentence, cell=cell, primary=cell is None)


def _broken(rule: AgreementRule, top1: float | None, shared: float, error: float, *, opening: bool) -> list[str]:
    most = rule.opening_error_at_most_nats if opening else rule.error_at_most_nats
    found: Sequence[tuple[bool, str]] = (
        (
            top1 is not None and top1 < rule.top1_at_least - _ROUNDING,
            f"top-1 at least {percent(rule.top1_at_least, 1)}",
        ),
        (shared < rule.overlap_at_least - _ROUNDING, f"overlap at least {percent(rule.overlap_at_least, 1)}"),
        (error > most + _ROUNDING, f"logprobs within {most:g} nat"),
    )
    return [f"asked is {words}" for is_broken, words in found if is_broken]


def _told(pairs: Iterable[tuple[ScriptRow, ScriptRow | None]]) -> int:
    """How many likely tokens places come with on both sides where none hides another; it may be fewer than asked."""
    longest = [0, 0]
    for pair in pairs:
        for side, script in enumerate(pair):
            replies = _detail(script)["replies"] if script is not None else []
            longest[side] = max([longest[side], *(len(top) for reply in replies for top in reply["top"])])
    return min(longest)


def _naming(pairs: Iterable[tuple[ScriptRow, ScriptRow | None]]) -> str | None:
    """Why the two sides' tokens cannot be compared: one names them by id, the other by their text."""
    for ours, theirs in pairs:
        sides = [_detail(side)["replies"] for side in (ours, theirs) if side is not None]
        by_id = {token.startswith(_BY_ID) for replies in sides for reply in replies for token in reply["tokens"]}
        if len(by_id) > 1:
            return "one side names tokens by id, the other by their text; measure both with --set options.tokens=text"
    return None


def _detail(script: ScriptRow) -> Mapping[str, Any]:
    return script.answer.detail if script.answer is not None else {"replies": []}


def _text(script: ScriptRow) -> object:
    return _detail(script).get("text")


def _undecided(rule: AgreementRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{why}: INCONCLUSIVE")
