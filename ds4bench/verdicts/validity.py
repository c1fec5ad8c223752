"""Does the measurement measure what it says? One small function a check, named as the report shows it.

Each takes the evidence and returns a CheckResult. FAILED makes the run INVALID; UNVERIFIED keeps it from a
PASS; NOT_APPLICABLE is shown as that and never as passed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from ds4bench.core import CheckResult, CheckStatus, RequestResult, RequestRow
from ds4bench.verdicts.cold import cold_verified
from ds4bench.verdicts.evidence import Batch, Evidence, cells_of
from ds4bench.verdicts.wording import percent

if TYPE_CHECKING:
    from ds4bench.spec.gate import ValiditySpec

_ENOUGH_GAPS = 8
"""Fewer chunk gaps than this have no median worth comparing with."""


def run_checks(evidence: Evidence) -> list[CheckResult]:
    """All checks, the ones that explain others first."""
    if not evidence.batches:
        nothing = "nothing was measured"
        rest = [_not_applicable(check.__name__, nothing) for check in CHECKS[1:]]
        return [server_alive(evidence), *rest]
    return [check(evidence) for check in CHECKS]


def server_alive(evidence: Evidence) -> CheckResult:
    """The serve did not die before the last batch was measured."""
    died = evidence.run.died
    if died and not evidence.complete:
        return _failed("server_alive", f"server died ({died}): {evidence.interruption}", [])
    if died:
        return _ok("server_alive", f"died once ({died}); the run was resumed and is complete")
    return _ok("server_alive", "answered to the end" if evidence.complete else "did not die")


def all_requests_ok(evidence: Evidence) -> CheckResult:
    """No measured request failed and none is missing."""
    bad, errors, total = [], Counter[str](), 0
    for batch in evidence.batches:
        words = [row.result.error or "failed" for row in batch.requests if not row.result.ok]
        words += ["missing"] * (batch.row.requests - len(batch.requests))
        errors.update(words)
        total += max(batch.row.requests, len(batch.requests))
        if words:
            bad.append(batch)
    if bad:
        kinds = ", ".join(f"{word} x{n}" for word, n in errors.most_common())
        example = next(
            (
                f": {row.result.error_detail}"
                for batch in bad
                for row in batch.requests
                if not row.result.ok and row.result.error_detail
            ),
            "",
        )
        detail = f"{errors.total()} of {total} requests failed ({kinds}) in {_names(bad)}{example}"
        return _failed("all_requests_ok", detail, bad)
    return _ok("all_requests_ok", f"{total} of {total} requests answered")


def model_identity(evidence: Evidence) -> CheckResult:
    """Every reply names the model that the run is about."""
    fingerprint = evidence.run.manifest.fingerprint
    if fingerprint is None:
        return _unverified("model_identity", "the serve was not identified before the run")
    wrong = [b for b, row in evidence.answered() if row.result.model not in (None, fingerprint.model)]
    if wrong:
        other = {row.result.model for _, row in evidence.answered()} - {None, fingerprint.model}
        names = ", ".join(sorted(map(str, other)))
        return _failed(
            "model_identity",
            f"replies came from model {names}, asked for was {fingerprint.model}, in {_names(wrong)}",
            wrong,
        )
    silent = sum(row.result.model is None for _, row in evidence.answered())
    if silent:
        return _unverified("model_identity", f"{silent} replies do not name the model that answered")
    return _ok("model_identity", f"all replies are from {fingerprint.model}")


def no_truncation(evidence: Evidence) -> CheckResult:
    """No prompt was cut: the serve counted as many prompt tokens as were sent, less the tolerance."""
    tolerance = evidence.spec.validity.length_tolerance
    cut = [
        (batch, got, expected)
        for batch, got, expected in _prompt_lengths(evidence)
        if got is not None and got < expected * (1 - tolerance)
    ]
    if cut:
        batch, got, expected = min(cut, key=lambda item: item[1] / item[2])
        return _failed(
            "no_truncation",
            f"{len(cut)} prompts were truncated, worst {got:,} of {expected:,} tokens in {batch.cell.id}; "
            "raise the serve's maximum length or lower matrix.prompt_tokens",
            [item[0] for item in cut],
        )
    return _ok("no_truncation", "no prompt was cut")


def length_within(evidence: Evidence) -> CheckResult:
    """Prompts have the length that their cell names, by the serve's own count."""
    tolerance = evidence.spec.validity.length_tolerance
    lengths = _prompt_lengths(evidence)
    if any(got is None for _, got, _ in lengths):
        return _unverified("length_within", "the serve does not tell prompt_tokens in usage")
    off = [(abs((got or 0) / expected - 1), b, got, expected) for b, got, expected in lengths]
    outside = [item for item in off if item[0] > tolerance]
    if outside:
        _, batch, got, expected = max(outside, key=lambda item: item[0])
        return _failed(
            "length_within",
            f"{len(outside)} prompts miss their length by more than {percent(tolerance, 1)}, worst {got:,} "
            f"instead of {expected:,} tokens in {batch.cell.id}",
            [item[1] for item in outside],
        )
    most = max((item[0] for item in off), default=0.0)
    return _ok("length_within", f"within {percent(most, 2)} of the cell's length")


def delivered_concurrency(evidence: Evidence) -> CheckResult:
    """As many requests were in flight at once as the cell asks for."""
    least = evidence.spec.validity.min_delivered_concurrency
    short = [b for b in evidence.batches if b.row.delivered_concurrency < least * b.cell.concurrency]
    if short:
        worst = min(short, key=lambda b: b.row.delivered_concurrency / b.cell.concurrency)
        return _failed(
            "delivered_concurrency",
            f"only {worst.row.delivered_concurrency:g} of {worst.cell.concurrency} requests were in flight "
            f"together in {worst.cell.id} (at least {percent(least)} must be)",
            short,
        )
    return _ok("delivered_concurrency", "all requests of a cell were in flight together")


def possible_values(evidence: Evidence) -> CheckResult:
    """No time is zero, negative, not a number, or against another; no chunk without a token."""
    found = [(b, row.index, why) for b, row in evidence.answered() if (why := impossible(row.result))]
    if found:
        batch, index, why = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        detail = f"impossible value: {why} (request {index} of {batch.cell.id}{more})"
        return _failed("possible_values", detail, [item[0] for item in found])
    return _ok("possible_values", "all times and counts are possible")


def impossible(result: RequestResult) -> str | None:
    """What about an answered request cannot be, or None."""
    times = {
        name: getattr(result, name)
        for name in ("ttft_s", "ttfa_s", "e2e_s", "tpot_ms", "tpot_decode_ms", "first_byte_s")
    }
    for name, value in times.items():
        if value is not None and not math.isfinite(value):
            return f"{name} is {value}"
        if value is not None and value < 0:
            return f"{name} is negative ({value:g})"
    if result.ttft_s is None or result.ttft_s == 0:
        return "ttft_s is missing" if result.ttft_s is None else "ttft_s is 0"
    if result.tpot_ms == 0 or result.tpot_decode_ms == 0:
        return "time per output token is 0"
    if result.e2e_s is not None and result.ttft_s > result.e2e_s:
        return f"ttft_s {result.ttft_s:g} is after the last token at {result.e2e_s:g} s"
    tokens, chunks = result.completion_tokens, len(result.chunk_times_s)
    if tokens is not None and tokens < max(chunks, 1):
        return f"{tokens} tokens in {chunks} chunks"
    return None


def client_not_starved(evidence: Evidence) -> CheckResult:
    """The client itself was quick enough to be believed: its lag is small against what it measured.

    Compared are the 99th percentile of the event loop's lag and the latest start of a request with the
    batch's median TTFT, and the lag with the median gap between chunks where there are enough gaps. A lag
    that only the gaps cannot bear fails the run where a rule judges them; elsewhere it is said.
    """
    limits, judged = evidence.spec.validity, _judges_gaps(evidence)
    lags = [(batch, *lag) for batch in evidence.batches for lag in _client_lags(batch, limits)]
    starved = [lag for lag in lags if lag[1] > 1]
    fatal = [lag for lag in starved if judged or not lag[2]]
    if fatal:
        batch, _, _, detail = max(fatal, key=lambda lag: lag[1])
        sentence = f"the client was starved: {detail} in {batch.cell.id}; free some CPU for it"
        return _failed("client_not_starved", sentence, [lag[0] for lag in fatal])
    worst = max((lag[1] for lag in lags if judged or not lag[2]), default=0.0)
    sentence = f"client lag at most {percent(worst)} of what is allowed"
    if starved:
        batch, _, _, detail = max(starved, key=lambda lag: lag[1])
        sentence += f"; single chunk gaps of {batch.cell.id} are not to be trusted ({detail}), no rule judges them"
    return _ok("client_not_starved", sentence)


def _judges_gaps(evidence: Evidence) -> bool:
    """Whether a rule's metric is made of the times of single chunks, not of the first or of the whole reply."""
    metrics = {rule.metric for rule in evidence.spec.rules if rule.kind == "ratio"}
    return bool(metrics & {"tpot_ms", "tpot_decode_ms"})


def _client_lags(batch: Batch, limits: ValiditySpec) -> Iterator[tuple[float, bool, str]]:
    """(lag / allowed lag, whether chunk gaps are concerned, in words) of each way in which a client can be late."""
    health, ttft_ms, gap_ms = batch.row.health, _ttft_ms(batch), _gap_ms(batch)
    by_ttft, by_gap = limits.max_client_lag_share_ttft, limits.max_client_lag_share_gap
    for lag_ms, what, scale_ms, name, limit in (
        (health.heartbeat_lag_p99_ms, "event-loop lag", ttft_ms, "TTFT", by_ttft),
        (health.lateness_max_ms, "late start", ttft_ms, "TTFT", by_ttft),
        (health.heartbeat_lag_p99_ms, "event-loop lag", gap_ms, "chunk gap", by_gap),
    ):
        if scale_ms is not None:
            allowed = f"{percent(limit)} of the {name} of {scale_ms:.1f} ms"
            yield lag_ms / scale_ms / limit, name != "TTFT", f"{lag_ms:.1f} ms {what} against {allowed} allowed"


def machine_steady(evidence: Evidence) -> CheckResult:
    """This machine is as fast as when the baseline was measured, by a fixed CPU probe.

    A drift makes no run INVALID, but it forbids the comparison: a slower machine would look like a slower
    build, and a faster one would hide one. Only a serve on this machine is concerned.
    """
    name, baseline = "machine_steady", evidence.baseline
    fingerprint = evidence.run.manifest.fingerprint
    if fingerprint is None or not fingerprint.local:
        return _not_applicable(name, "the serve does not run on this machine")
    probes = [batch.row.probe_ms for batch in evidence.batches if batch.row.probe_ms]
    if baseline is None or not baseline.probe_ms or not probes:
        return _not_applicable(name, "no CPU probe of a comparable baseline")
    slower = median(probes) / baseline.probe_ms - 1
    word = "slower" if slower >= 0 else "faster"
    drift = percent(abs(slower))
    sentence = f"this machine runs the fixed CPU probe {drift} {word} than when the baseline was measured"
    if max(slower, 1 / (1 + slower) - 1) > evidence.spec.validity.machine_drift:
        return _unverified(name, sentence)
    return _ok(name, sentence)


def machine_quiet(evidence: Evidence) -> CheckResult:
    """Nothing else used this machine's CPU while the launched serve was measured.

    A busy neighbour slows serve and client alike, and no statistics over the repeats of one session can tell it from a
    slower build. The run is not INVALID, but neither it nor a comparison with it decides anything.
    """
    name, fingerprint = "machine_quiet", evidence.run.manifest.fingerprint
    cores = fingerprint.hardware.get("cores") if fingerprint is not None else None
    known = [(batch.row.foreign_cores, batch.row.wall_s) for batch in evidence.batches]
    busy = [(foreign, wall) for foreign, wall in known if foreign is not None]
    if not cores or not busy:
        return _not_applicable(name, "the serve was not launched by ds4bench on this machine")
    foreign = sum(f * wall for f, wall in busy) / sum(wall for _, wall in busy)
    sentence = f"other processes used {foreign:.2f} of {cores} cores while this was measured"
    if foreign / cores > evidence.spec.validity.max_foreign_cpu_share:
        return _unverified(name, f"{sentence}; stop them and measure again")
    return _ok(name, sentence)


CHECKS: tuple[Callable[[Evidence], CheckResult], ...] = (
    server_alive,
    all_requests_ok,
    model_identity,
    cold_verified,
    no_truncation,
    length_within,
    delivered_concurrency,
    possible_values,
    client_not_starved,
    machine_quiet,
    machine_steady,
)


def _prompt_lengths(evidence: Evidence) -> list[tuple[Batch, int | None, int]]:
    """(batch, prompt tokens by the serve, prompt tokens meant) of every answered request."""
    return [(batch, row.result.prompt_tokens, _meant(batch, row)) for batch, row in evidence.answered()]


def _meant(batch: Batch, row: RequestRow) -> int:
    """Prompt tokens that the workload built, else those of the cell."""
    return int(row.expect.get("prompt_tokens") or batch.cell.params["prompt_tokens"])


def _ttft_ms(batch: Batch) -> float | None:
    ttft = batch.median_ttft_s()
    return 1000 * ttft if ttft and ttft > 0 else None


def _gap_ms(batch: Batch) -> float | None:
    """Median time between two chunks that did not arrive together; None when there are too few."""
    gaps = [
        1000 * (later - earlier)
        for row in batch.answered
        for earlier, later in pairwise(row.result.chunk_times_s)
        if later > earlier
    ]
    return median(gaps) if len(gaps) >= _ENOUGH_GAPS else None


def _names(batches: Iterable[Batch]) -> str:
    return ", ".join(cells_of(batches))


def _ok(name: str, detail: str) -> CheckResult:
    return CheckResult(name=name, status=CheckStatus.OK, detail=detail)


def _failed(name: str, detail: str, batches: Iterable[Batch]) -> CheckResult:
    return CheckResult(name=name, status=CheckStatus.FAILED, detail=detail, cells=cells_of(batches))


def _unverified(name: str, detail: str) -> CheckResult:
    return CheckResult(name=name, status=CheckStatus.UNVERIFIED, detail=detail)


def _not_applicable(name: str, detail: str) -> CheckResult:
    return CheckResult(name=name, status=CheckStatus.NOT_APPLICABLE, detail=detail)
