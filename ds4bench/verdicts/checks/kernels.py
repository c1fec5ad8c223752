"""Did the serve run on the kernels that were asked for? Only what its own processes report counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ds4bench.core import EMBEDDED_ENGINE, CheckResult, KernelHook, KernelProcess, KernelUse
from ds4bench.verdicts.checks.results import failed, not_applicable, ok
from ds4bench.verdicts.evidence import Evidence

NAME = "kernels_loaded"
_SHOWN = 4
_TRITON = "triton"


def kernels_loaded(evidence: Evidence) -> CheckResult:
    """Bundled kernels: every selected hook was installed, and each selected op ran in every worker of every launch.
    The engine's own: nothing was replaced. Anything else was not measured on the kernels that its name says."""
    fingerprint = evidence.run.manifest.fingerprint
    use = fingerprint.kernels if fingerprint is not None else None
    if fingerprint is None or use is None:
        return not_applicable(NAME, "the serve was launched without --kernels")
    if fingerprint.engine == EMBEDDED_ENGINE:
        return _embedded(use, fingerprint.flags.get("device"))
    if use.selection == []:
        return _nothing_replaced(use)
    workers = _expected_workers(fingerprint.flags)
    faults = [fault for launch in use.launches for fault in _faults(use, launch, workers)]
    if faults or not use.launches:
        return failed(NAME, f"--kernels {use.choice}: {_listed(faults) or 'no serve was launched'}", [])
    processes = [p for launch in use.launches for p in launch if _is_worker(p)]
    ran = Counter[str]()
    selected = [hook for hook in use.selected(processes) if hook.computes]
    for hook in selected:
        ran[hook.op] += hook.calls
    idle = sorted({hook.op for hook in selected} - {op for op, n in ran.items() if n})
    unused = f"; never called by the engine: {', '.join(idle)}" if idle else ""
    own = sum(_to_the_engine(hook) for hook in selected if hook.calls)
    shared = f"; {own} calls of these went to the engine's own kernel" if own else ""
    names = ", ".join(op for op, n in sorted(ran.items()) if n)
    return ok(NAME, f"{len(processes)} {'worker' if len(processes) == 1 else 'workers'} ran {names}{shared}{unused}")


def _faults(use: KernelUse, launch: Sequence[KernelProcess], expected: int) -> Iterable[str]:
    """What keeps one launch from being a serve on the selected kernels, in words."""
    if not launch:
        yield "no process of the engine reports its kernels; install ds4-kernels into the engine's environment"
        return
    wrong = [p for p in launch if p.mode not in ("force", "auto") or _parts(p.ops) != _parts_of(use.selection)]
    if wrong:
        yield f"process {wrong[0].pid} was told DS4_KERNELS={wrong[0].mode}, DS4_KERNELS_OPS={wrong[0].ops}"
    shadowed = [process.pid for process in launch if process.shadow]
    if shadowed:
        yield f"process {shadowed[0]} ran with DS4_KERNELS_SHADOW=1: the results that it used are the engine's own"
    hooks = list(use.selected(launch))
    if not hooks:
        notes = list(dict.fromkeys(process.note for process in launch if process.note))
        yield "no hook was selected" + (f" ({'; '.join(notes)})" if notes else "")
        return
    bad = {
        f"{hook.hook} was {hook.state} ({hook.reason})": None for hook in hooks if hook.state in ("skipped", "failed")
    }
    yield from bad
    workers = [process for process in launch if _is_worker(process)]
    if len(workers) < expected:
        yield f"bundled kernels ran in {len(workers)} of {expected} workers"
    for worker in workers:
        yield from _missing(worker, use)


def _missing(worker: KernelProcess, use: KernelUse) -> Iterable[str]:
    """Selected parts that never ran in a worker. Of all ops, those that the engine never called are no fault."""
    hooks = [hook for hook in use.selected([worker]) if hook.computes]
    for hook in hooks:
        other = _to_the_engine(hook)
        if not hook.calls and other:
            traced = "compiled by torch.compile from the engine's code"
            why = ", ".join(hook.declined) or (traced if hook.traced else "inactive on this device")
            yield f"all {other} calls of {hook.hook} in process {worker.pid} went to the engine's own kernel ({why})"
    for part in use.selection or []:
        if not any(hook.calls for hook in hooks if part in (hook.op, hook.group)):
            yield f"{part} never ran in process {worker.pid}"


def _nothing_replaced(use: KernelUse) -> CheckResult:
    ran = [
        (process, hook)
        for launch in use.launches
        for process in launch
        for hook in process.hooks
        if hook.state == "installed" or hook.calls
    ]
    if ran:
        process, hook = ran[0]
        return failed(NAME, f"--kernels engine: {hook.hook} was installed in process {process.pid} all the same", [])
    return ok(NAME, "the engine's own kernels: no process reports that one was replaced")


def _embedded(use: KernelUse, device: object) -> CheckResult:
    if use.backends is None:
        why = "the embedded engine ran its fused CPU model, which has no ops to switch: --serve-arg=--backend=ops"
        return failed(NAME, f"--kernels {use.choice}: {why}", [])
    bundled = [op for op, backend in use.backends.items() if backend == _TRITON]
    if use.selection == [] and bundled:
        return failed(NAME, f"--kernels engine: the op table has Triton for {_listed(bundled)}", [])
    if use.selection == []:
        return ok(NAME, "every op ran on its PyTorch reference")
    if device == "cpu":
        return not_applicable(NAME, "on a CPU an op of the bundle is its PyTorch reference")
    if not bundled:
        return failed(NAME, f"--kernels {use.choice}: the op table has Triton for no op on {device}", [])
    return ok(NAME, f"Triton for {len(bundled)} of {len(use.backends)} ops")


def _is_worker(process: KernelProcess) -> bool:
    """The API server and other helpers of an engine load the plugin too, but compute nothing."""
    return any(hook.calls or _to_the_engine(hook) for hook in process.hooks)


def _to_the_engine(hook: KernelHook) -> int:
    """Calls that the engine's own kernel got."""
    return hook.inactive + hook.traced + sum(hook.declined.values())


def _expected_workers(flags: dict[str, object]) -> int:
    """One worker a rank of tensor and pipeline parallelism, by the flags of the launch."""
    ranks = 1
    for names in (("tensor-parallel-size", "tp-size", "tp"), ("pipeline-parallel-size", "pp-size")):
        given = next((flags[name] for name in names if name in flags), 1)
        ranks *= int(str(given)) if str(given).isdigit() else 1
    return ranks


def _parts(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(filter(None, (part.strip() for part in text.split(","))))


def _parts_of(selection: list[str] | None) -> frozenset[str] | None:
    return None if selection is None else frozenset(selection)


def _listed(lines: Sequence[str]) -> str:
    more = f" (and {len(lines) - _SHOWN} more)" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more
