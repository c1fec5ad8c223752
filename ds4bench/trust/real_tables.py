"""What real promotions of known builds said, as Markdown, and which promise they break."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from ds4bench.trust.real_runs import UNCHANGED, RealRun, RealRuns

_WORDS = ("PASS", "INCONCLUSIVE", "FAIL", "INVALID")
_OTHER = "other"


def table(runs: RealRuns) -> str:
    """A line for the whole and one a gate, for each change."""
    if not runs.runs:
        return "No runs yet.\n"
    parts = []
    for suite, change in dict.fromkeys((run.suite, run.change) for run in runs.runs):
        chosen = [run for run in runs.runs if (run.suite, run.change) == (suite, change)]
        parts += [f"### {_title(runs.kind, suite, change)}: {len(chosen)} runs\n", _about(chosen), _counts(chosen)]
    return "\n".join(parts)


def broken_promises(runs: RealRuns) -> list[str]:
    """An unchanged build that FAILs, a slower prefill that does not, a command that came to no verdict."""
    lines = []
    for run in runs.runs:
        if run.verdict == "ERROR":
            lines.append(f"{run.id} came to no verdict: {run.sentence}")
        elif run.change == UNCHANGED and run.verdict == "FAIL":
            lines.append(f"{run.id} FAILs an unchanged build: {run.sentence}")
        elif run.change != UNCHANGED and run.verdict != "FAIL":
            lines.append(f"{run.id} ({run.change}) is {run.verdict}, not FAIL: {run.sentence}")
    return lines


def _title(kind: str, suite: str, change: str) -> str:
    command = "promote --baseline here" if kind == "aa" else "ci --base HEAD~1"
    return f"`ds4bench {command} --suite {suite}`, {change}"


def _about(runs: Sequence[RealRun]) -> str:
    seconds = [run.seconds for run in runs]
    machines = ", ".join(sorted({run.machine for run in runs}))
    commits = ", ".join(sorted({run.commit for run in runs}))
    times = f"{median(seconds) / 60:.1f} min in the median, {max(seconds) / 60:.1f} at most"
    return f"On {machines}, commit {commits}; {times}.\n"


def _counts(runs: Sequence[RealRun]) -> str:
    lines = ["| gate | " + " | ".join(_WORDS) + f" | {_OTHER} |", "|" + "---|" * (len(_WORDS) + 2)]
    lines.append(_line("**the promotion**", Counter(run.verdict for run in runs)))
    for gate in dict.fromkeys(gate for run in runs for gate in run.gates):
        said = Counter(run.gates[gate].verdict or "not run" for run in runs if gate in run.gates)
        lines.append(_line(gate, said))
    return "\n".join(lines) + "\n"


def _line(name: str, said: Counter[str]) -> str:
    cells = [str(said[word] or "") for word in _WORDS]
    other = ", ".join(f"{word} {count}" for word, count in said.items() if word not in _WORDS)
    return f"| {name} | " + " | ".join(cells) + f" | {other} |"
