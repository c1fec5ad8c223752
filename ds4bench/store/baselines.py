"""Baselines: promoted runs in small, in files that a person can review.

A promoted baseline is ``results/baselines/NAME/GATE-PROFILE.json``: head indented, one row a line. This machine's own,
``here``, is kept under ``.ds4bench/baselines/here`` by gate, profile, measurement, machine and model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ds4bench.core import Baseline, CheckStatus, Fingerprint, Noise, RequestRow, RunData, ScriptRow, Verdict
from ds4bench.errors import StoreError
from ds4bench.measures import measured_rows, measured_scripts
from ds4bench.paths import baselines_dir, here_dir
from ds4bench.spec.gate import ValiditySpec
from ds4bench.spec.workloads import WORKLOADS
from ds4bench.store import documents
from ds4bench.store.runs import utc_now

SCHEMA = 1
HERE = "here"
_NEEDS_A_BASELINE = frozenset({"comparable", "machine_steady"})
"""Checks that a run without a baseline cannot have verified."""


def promote(run: RunData, name: str, *, force_reason: str | None = None) -> Path:
    """Write a run as baseline ``name``. Raises StoreError for a run that is invalid, incomplete or not judged, unless a
    reason is given, which is then kept in the file."""
    if force_reason is None:
        _refuse_bad(run)
    elif not force_reason.strip():
        raise StoreError('--force needs a reason, which is kept in the file: --force "REASON"')
    if not name or name in (HERE, "none") or "/" in name or name.startswith(".") or name.endswith(".json"):
        raise StoreError(f"{name!r} cannot name a baseline: no slash, no leading dot, no .json, not 'here' or 'none'")
    baseline = from_run(run, name, note=f"forced: {force_reason}" if force_reason else None)
    path = baselines_dir() / name / f"{baseline.gate}-{baseline.profile}.json"
    _write(path, _with_known_noise(baseline, path))
    return path


def store_noise(run: RunData, noise: dict[str, Noise], *, name: str = HERE) -> Path:
    """Keep calibrated noise with baseline ``name``; ``run`` is one of its sessions. Where this machine has no baseline of
    its own yet, the run becomes it. Raises StoreError when the named baseline is of another measurement, model or machine.
    """
    made = from_run(run, name)
    if name == HERE:
        path = _here_path(made.gate, made.profile, made.measurement_hash, made.fingerprint)
        baseline = _read(path) if path.exists() else made
    else:
        path = baselines_dir() / name / f"{made.gate}-{made.profile}.json"
        baseline = load_baseline(name, made.gate, made.profile)
    _refuse_foreign_noise(baseline, made)
    _write(path, msgspec.structs.replace(baseline, noise={**baseline.noise, **noise}))
    return path


def from_run(run: RunData, name: str, *, note: str | None = None) -> Baseline:
    """The baseline that a run makes: its measured rows of complete batches, without texts and chunk times."""
    manifest = run.manifest
    if manifest.fingerprint is None:
        raise StoreError(f"run {manifest.run_id} never reached its serve; there is nothing to promote")
    return Baseline(
        schema=SCHEMA,
        name=name,
        created=utc_now(),
        gate=manifest.gate,
        profile=manifest.profile,
        run_id=manifest.run_id,
        measurement_hash=manifest.measurement_hash,
        measurement=manifest.measurement,
        metric_schema=manifest.metric_schema,
        fingerprint=manifest.fingerprint,
        provenance={k: v for k, v in manifest.provenance.items() if k != "command"},
        requests=list(_kept_rows(run)),
        scripts=measured_scripts(run) if _keeps_detail(run) else [_small_script(s) for s in measured_scripts(run)],
        batches=[batch for batch in run.batches if batch.phase == "measure"],
        note=note,
    )


def load_baseline(name_or_path: str, gate: str | None = None, profile: str | None = None) -> Baseline:
    """A baseline by file path, or by name (of the given gate and profile where it has several). Raises StoreError."""
    path = Path(name_or_path)
    if path.suffix == ".json":
        return _read(path)
    folder = baselines_dir() / name_or_path
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if gate is not None:
        files = [f for f in files if f.name == f"{gate}-{profile}.json"]
    if not files:
        known = ", ".join(sorted({b.name for b in list_baselines()})) or "none yet"
        wanted = f" for gate {gate}, profile {profile}" if gate else ""
        raise StoreError(f"no baseline {name_or_path!r}{wanted} in {baselines_dir()}; stored: {known}")
    if len(files) > 1:
        raise StoreError(f"baseline {name_or_path!r} has {', '.join(f.name for f in files)}: name one by its path")
    return _read(files[0])


def list_baselines() -> list[Baseline]:
    """Every stored baseline, this machine's own last."""
    promoted = sorted(baselines_dir().glob("*/*.json")) if baselines_dir().is_dir() else []
    own = sorted(here_dir().glob("*.json")) if here_dir().is_dir() else []
    return [_read(path) for path in [*promoted, *own]]


def save_here(run: RunData, *, state: Path | None = None) -> Path:
    """Keep a run as this machine's own baseline, for those whose state folder is ``state`` (default: this user's)."""
    baseline = from_run(run, HERE)
    key = (baseline.gate, baseline.profile, baseline.measurement_hash)
    path = _here_path(*key, baseline.fingerprint, state=state)
    _write(path, _with_known_noise(baseline, path))
    return path


def lookup_here(gate: str, profile: str, measurement_hash: str, fingerprint: Fingerprint) -> Baseline | None:
    """This machine's own baseline of the same measurement of the same model; None if it was never measured."""
    path = _here_path(gate, profile, measurement_hash, fingerprint)
    return _read(path) if path.exists() else None


def _here_path(
    gate: str, profile: str, measurement_hash: str, fingerprint: Fingerprint, *, state: Path | None = None
) -> Path:
    digest = hashlib.sha256(json.dumps(_measured(fingerprint), sort_keys=True).encode()).hexdigest()[:8]
    return here_dir(state) / f"{gate}-{profile}-{measurement_hash[:8]}-{digest}.json"


def _identity(baseline: Baseline) -> tuple[object, ...]:
    """What noise was measured of: not the build, which may change, but what is sent, to which model, on which machine."""
    return (baseline.measurement_hash, *_measured(baseline.fingerprint))


def _measured(fingerprint: Fingerprint) -> tuple[object, ...]:
    """What makes a measurement another one, but not what is being tested: version and flags may differ."""
    return (
        fingerprint.engine,
        fingerprint.model,
        fingerprint.model_revision,
        fingerprint.prefix_caching,
        fingerprint.speculative,
        fingerprint.hardware,
    )


def _with_known_noise(baseline: Baseline, path: Path) -> Baseline:
    """The baseline with the noise that its predecessor in this file had, where that is of the same thing."""
    before = _read(path) if path.exists() else None
    if before is None or _identity(before) != _identity(baseline):
        return baseline
    return msgspec.structs.replace(baseline, noise=before.noise)


def _refuse_foreign_noise(baseline: Baseline, made: Baseline) -> None:
    if _identity(baseline) != _identity(made):
        raise StoreError(
            f"baseline {baseline.name} is of another measurement, model or machine than run {made.run_id}: "
            "its noise would be another one"
        )


def _refuse_bad(run: RunData) -> None:
    verdict = run.verdict
    hint = 'promote it all the same with --force "REASON"'
    if verdict is None:
        raise StoreError(f"run {run.manifest.run_id} has no verdict yet; finish it with --resume, or {hint}")
    if verdict.verdict is Verdict.INVALID:
        raise StoreError(f"run {run.manifest.run_id} is INVALID ({verdict.sentence}); {hint}")
    allowed = _NEEDS_A_BASELINE | _may_stay_unverified(run)
    unsure = [c for c in verdict.checks if c.status is CheckStatus.UNVERIFIED and c.name not in allowed]
    if unsure:
        raise StoreError(f"run {run.manifest.run_id}: {unsure[0].name} is not verified ({unsure[0].detail}); {hint}")
    if verdict.sentence.startswith("interrupted"):
        raise StoreError(f"run {run.manifest.run_id} is incomplete ({verdict.sentence}), or {hint}")


def _may_stay_unverified(run: RunData) -> frozenset[str]:
    """By the gate that is stored with the run, which this version need not know in all its parts."""
    validity = run.manifest.effective_gate.get("spec", {}).get("validity", {})
    allowed = bool(validity.get("allow_unverified_cold"))
    return ValiditySpec(allow_unverified_cold=allowed).may_stay_unverified


def _kept_rows(run: RunData) -> Iterable[RequestRow]:
    for row in measured_rows(run):
        result = msgspec.structs.replace(
            row.result, content="", reasoning="", chunk_times_s=[], tool_calls=[], logprobs=[]
        )
        answer = None if row.answer is None else msgspec.structs.replace(row.answer, detail={})
        yield msgspec.structs.replace(row, result=result, answer=answer, expect=_small(row.expect))


def _keeps_detail(run: RunData) -> bool:
    declared = WORKLOADS.get(str(run.manifest.measurement.get("workload")))
    return declared is not None and declared.keeps_detail


def _small_script(script: ScriptRow) -> ScriptRow:
    answer = None if script.answer is None else msgspec.structs.replace(script.answer, detail={})
    return msgspec.structs.replace(script, answer=answer)


def _small(expect: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in expect.items() if k != "codes"}


_LISTS = ("requests", "scripts", "batches")


def _write(path: Path, baseline: Baseline) -> None:
    plain = msgspec.to_builtins(baseline)
    lists = {name: plain.pop(name) for name in _LISTS}
    text = json.dumps(plain, indent=2, ensure_ascii=False).removesuffix("\n}")
    for name, rows in lists.items():
        body = ",\n    ".join(_row_line(row) for row in rows)
        text += f',\n  "{name}": [\n    {body}\n  ]' if rows else f',\n  "{name}": []'
    path.parent.mkdir(parents=True, exist_ok=True)
    documents.write_whole(path, f"{text}\n}}\n".encode())


def _row_line(row: dict[str, Any]) -> str:
    """A row without what is empty or a default."""
    plain = dict(row)
    if "result" in plain:
        plain["result"] = {k: _rounded(v) for k, v in plain["result"].items() if v not in (None, [], "", {})}
    return json.dumps({k: _rounded(v) for k, v in plain.items() if v not in (None, {})}, separators=(", ", ": "))


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


def _read(path: Path) -> Baseline:
    try:
        return documents.read(path, Baseline, SCHEMA)
    except FileNotFoundError:
        raise StoreError(f"no baseline file {path}") from None
