"""Did the mode that was asked for take effect?"""

from __future__ import annotations

from ds4bench.core import CheckResult, RequestResult
from ds4bench.verdicts.checks.results import failed, not_applicable, ok
from ds4bench.verdicts.evidence import Evidence

_LEAST_THINKING = 0.5
"""A model that may think does so in most replies; a switch that is ignored leaves none (or all) of them thinking."""


def mode_effective(evidence: Evidence) -> CheckResult:
    """Where thinking was switched on most replies carry reasoning, where it was switched off none does.

    A switch in another engine's dialect is ignored in silence: only the replies show it.
    """
    name, wanted = "mode_effective", evidence.spec.request.thinking
    answered = [(batch, row) for batch, row in evidence.answered() if row.expect.get("thinking", wanted) is not None]
    if not answered:
        return not_applicable(name, "the gate leaves thinking as the serve has it")
    on = [(batch, row) for batch, row in answered if row.expect.get("thinking", wanted)]
    off = [(batch, row) for batch, row in answered if not row.expect.get("thinking", wanted)]
    silent = [batch for batch, row in on if not reasoned(row.result)]
    if on and len(silent) > (1 - _LEAST_THINKING) * len(on):
        detail = f"thinking was asked for, but {len(silent)} of {len(on)} replies carry no reasoning"
        return failed(name, f"{detail}; is the serve's dialect another one?", silent)
    loud = [batch for batch, row in off if reasoned(row.result)]
    if loud:
        detail = f"thinking was switched off, but {len(loud)} of {len(off)} replies carry reasoning"
        return failed(name, f"{detail}; is the serve's dialect another one?", loud)
    parts = [f"{len(on) - len(silent)} of {len(on)} replies reasoned"] if on else []
    return ok(name, ", ".join([*parts, f"{len(off)} replies without thinking"] if off else parts))


def reasoned(result: RequestResult) -> bool:
    """Whether a reply carries reasoning, as text or counted in usage."""
    return bool(result.reasoning.strip()) or bool(result.reasoning_tokens)
