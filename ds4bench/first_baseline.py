"""The first run of a gate on a machine: its baseline and its candidate, on two serves of one build, in turns.

Both must be measured anyway. One after the other, a neighbour who comes in between leaves the verdict open; in turns he costs
both sides as much. What is kept is an ordinary baseline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds4bench.errors import SpecError
from ds4bench.paired_gate import GatePair
from ds4bench.report.pair_progress import SideProgress
from ds4bench.run_session import Outcome, Prepared, RunInterruptedError, Started, TargetOptions, fit_for_baseline
from ds4bench.store import baselines, runs
from ds4bench.store.provenance import ram_gib

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress

_TWO_SERVES_GIB = 8.0
"""Physical memory from which two embedded serves and the client have room: 2.3 GiB each at 8K tokens (make bench-engine)."""


def room_for_two(target: TargetOptions) -> bool:
    """Whether a second serve can be launched beside the first without either being in the way of the other.

    Only the embedded engine on the CPU: serves on GPUs share their memory and their time, and one that is attached to is
    the only one.
    """
    flags = {flag.partition("=")[0] for flag in target.serve_args}
    return target.name == "embedded" and not flags & {"--device", "--port"} and (ram_gib() or 0) >= _TWO_SERVES_GIB


def refuse_faults(serve: Started, options: TargetOptions) -> None:
    """Raises SpecError for a serve that is wrong on purpose: every later run would be compared with it."""
    faults = serve.endpoint.fingerprint.faults
    if faults:
        how = "without its --serve-arg" if options.serve_args else "on the serve as it should be"
        raise SpecError(
            f"this serve has injected faults ({', '.join(faults)}) and cannot become this machine's baseline, of which there "
            f"is none yet: run this once {how} first"
        )


async def measure_both(
    prepared: Prepared, base: Started, head: Started, progress: Progress, run_ids: tuple[str, str]
) -> Outcome:
    """The candidate's outcome, and the base run kept as this machine's baseline; the outcome of the base run where that is
    no measurement. ``run_ids`` are those of base and head.

    Raises RunInterruptedError with the base's run id: that one can go on alone, half a pair cannot. Raises SpecError,
    WorkloadError.
    """
    sides = SideProgress(progress, "baseline"), SideProgress(progress, "candidate")
    cells = prepared.gate.spec.matrix.cells()
    progress.start([cell for side in sides for cell in side.cells(cells)], prepared.gate.spec.repeats.count)
    pair = GatePair(
        prepared, base, head, baselines.HERE, progress, same_build=True, run_ids=run_ids, sides=sides
    )  # fmt: skip
    try:
        found = await pair.measure()
    except RunInterruptedError:
        raise RunInterruptedError(run_ids[0]) from None
    finally:
        progress.finish()
    first = _judged_alone(run_ids[0])
    if fit_for_baseline(prepared.gate, first):
        baselines.save_here(first.run)
    if found.unfit is not None:
        return first
    return Outcome(runs.load_run(found.run_id), found.baseline, found.verdict)


def _judged_alone(run_id: str) -> Outcome:
    """The base run with the verdict that the pair has stored for it."""
    run = runs.load_run(run_id)
    assert run.verdict is not None
    return Outcome(run, None, run.verdict)
