"""Run folders: append-only, safe against a kill at any moment, resumable.

``run.json`` (what was asked), ``requests.jsonl`` and ``batches.jsonl`` (one finished request or batch a line, each written
by a single append), ``scripts.jsonl`` (scripts that ended, where a workload reads whole scripts), ``died.txt`` (why the serve
was lost), ``died-before.txt`` (the same, where the run went on), ``stopped.txt`` (why the run ended before its plan),
``verdict.json``, ``serve.log``. A line is complete or, at the end of a file that a kill cut off, not there: readers drop such
an end and ``reopen`` removes it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from ds4bench import env
from ds4bench.core import BatchRow, Fingerprint, GateVerdict, RequestRow, RunData, RunManifest, ScriptRow
from ds4bench.errors import StoreError
from ds4bench.paths import runs_dir
from ds4bench.store import documents, ids

SCHEMA = 1
MANIFEST = "run.json"
REQUESTS = "requests.jsonl"
BATCHES = "batches.jsonl"
SCRIPTS = "scripts.jsonl"
DIED = "died.txt"
DIED_BEFORE = "died-before.txt"
STOPPED = "stopped.txt"
VERDICT = "verdict.json"

_T = TypeVar("_T")


@dataclass(frozen=True)
class RunSummary:
    """One line of ``ds4bench runs list``. ``damaged`` says what is wrong with a folder that cannot be read."""

    run_id: str
    path: Path
    created: str = ""
    gate: str = ""
    profile: str = ""
    target: str = ""
    verdict: str = ""
    sentence: str = ""
    damaged: str | None = None


def utc_now() -> str:
    """Now, as ISO 8601 in UTC to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run_id(gate: str, profile: str) -> str:
    """A name that sorts by time: ``20261121-031500-long-context-smoke-ab12``."""
    return ids.new_id(gate, profile)


def run_folder(run_id_or_path: str) -> Path:
    """The folder of a run id or path; need not exist."""
    return Path(run_id_or_path) if "/" in run_id_or_path else runs_dir() / run_id_or_path


class RunWriter:
    """Writes one run. Holds a lock, so that no second process writes the same run; a context manager."""

    def __init__(self, folder: Path, manifest: RunManifest) -> None:
        self.path = folder
        self.manifest = manifest
        self._secrets = [value.encode() for value in env.secrets()]
        self._lock = _locked(folder)
        self._requests = _append_only(folder / REQUESTS)
        self._scripts = _append_only(folder / SCRIPTS)
        self._batches = _append_only(folder / BATCHES)

    @classmethod
    def create(cls, manifest: RunManifest) -> RunWriter:
        """Begin a run. Raises StoreError if it exists already."""
        folder = run_folder(manifest.run_id)
        folder.mkdir(parents=True, exist_ok=True)  # the serve's log may be there already
        if (folder / MANIFEST).exists():
            raise StoreError(f"run {manifest.run_id} exists already in {folder}; use --resume to go on with it")
        writer = cls(folder, manifest)
        writer._write_manifest()
        return writer

    @classmethod
    def reopen(cls, run_id: str) -> RunWriter:
        """Go on with a run: cut torn ends off, make a death of the serve history. Raises StoreError if it cannot be read."""
        folder = run_folder(run_id)
        writer = cls(folder, _manifest(folder))
        for name in (REQUESTS, SCRIPTS, BATCHES):
            _cut_torn_end(folder / name)
        died = folder / DIED
        if died.exists():
            with (folder / DIED_BEFORE).open("a", encoding="utf-8") as before:
                before.write(" ".join(died.read_text().split()) + "\n")
            died.unlink()
        (folder / VERDICT).unlink(missing_ok=True)
        return writer

    def append_request(self, row: RequestRow) -> None:
        """Keep a finished request."""
        self._append(self._requests, row)

    def append_script(self, row: ScriptRow) -> None:
        """Keep what a workload made of a script."""
        self._append(self._scripts, row)

    def append_batch(self, row: BatchRow) -> None:
        """Keep the end of a batch; only now its requests count."""
        self._append(self._batches, row)

    def set_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Note who answers."""
        self.manifest = msgspec.structs.replace(self.manifest, fingerprint=fingerprint)
        self._write_manifest()

    def record_death(self, reason: str) -> None:
        """Note that and how the serve was lost."""
        documents.write_whole(self.path / DIED, self._scrub(reason.encode()) + b"\n")

    def record_stop(self, reason: str) -> None:
        """Note why the run ends before its plan: the gate is decided."""
        documents.write_whole(self.path / STOPPED, self._scrub(reason.encode()) + b"\n")

    def close(self) -> None:
        """Release files and lock."""
        for descriptor in (self._requests, self._scripts, self._batches, self._lock):
            os.close(descriptor)

    def __enter__(self) -> RunWriter:
        """The writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _append(self, descriptor: int, row: RequestRow | ScriptRow | BatchRow) -> None:
        line = self._scrub(msgspec.json.encode(row)) + b"\n"
        written = os.write(descriptor, line)
        if written != len(line):
            raise StoreError(f"{self.path}: the disk took {written} of {len(line)} bytes of a line; is it full?")

    def _write_manifest(self) -> None:
        documents.write_whole(self.path / MANIFEST, self._scrub(documents.encode(self.manifest)))

    def _scrub(self, data: bytes) -> bytes:
        for value in self._secrets:
            data = data.replace(value, b"***")
        return data


def load_run(run_id_or_path: str) -> RunData:
    """Read a run back. Raises StoreError that names the file when something is missing or damaged."""
    folder = run_folder(run_id_or_path)
    manifest = _manifest(folder)
    died, before = folder / DIED, folder / DIED_BEFORE
    stopped, verdict = folder / STOPPED, folder / VERDICT
    return RunData(
        manifest=manifest,
        requests=list(_lines(folder / REQUESTS, RequestRow)),
        batches=list(_lines(folder / BATCHES, BatchRow)),
        verdict=documents.decode(verdict.read_bytes(), GateVerdict, verdict) if verdict.exists() else None,
        died=died.read_text().strip() if died.exists() else None,
        deaths_before=before.read_text().splitlines() if before.exists() else [],
        scripts=list(_lines(folder / SCRIPTS, ScriptRow)),
        stopped=stopped.read_text().strip() if stopped.exists() else None,
    )


def load_begun(run_id: str | None) -> RunData | None:
    """A run that was begun; None before. Suites and attributions note an id before its folder is made, so that a kill loses
    no run, and a gate that is refused never gets one. Raises StoreError for a damaged run."""
    if run_id is None or not (run_folder(run_id) / MANIFEST).exists():
        return None
    return load_run(run_id)


def write_verdict(run_id: str, verdict: GateVerdict) -> None:
    """Keep a run's verdict."""
    documents.write_whole(run_folder(run_id) / VERDICT, documents.encode(verdict))


def list_runs() -> list[RunSummary]:
    """Every run, newest first; folders that cannot be read are listed as damaged."""
    root = runs_dir()
    folders = sorted((p for p in root.iterdir() if p.is_dir()), reverse=True) if root.is_dir() else []
    return [_summary(folder) for folder in folders]


def _summary(folder: Path) -> RunSummary:
    try:
        manifest = _manifest(folder)
        file = folder / VERDICT
        verdict = documents.decode(file.read_bytes(), GateVerdict, file) if file.exists() else None
    except StoreError as error:
        return RunSummary(folder.name, folder, damaged=str(error))
    return RunSummary(
        folder.name,
        folder,
        manifest.created,
        manifest.gate,
        manifest.profile,
        str(manifest.target.get("name", "")),
        verdict.verdict.value if verdict else "unfinished",
        verdict.sentence if verdict else "",
    )


def _manifest(folder: Path) -> RunManifest:
    try:
        return documents.read(folder / MANIFEST, RunManifest, SCHEMA)
    except FileNotFoundError:
        raise StoreError(f"no run in {folder} (it has no {MANIFEST}); `ds4bench runs list` shows the runs") from None


def _lines(path: Path, kind: type[_T]) -> Iterator[_T]:
    if not path.exists():
        return
    data = path.read_bytes()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        yield documents.decode(line, kind, f"{path}:{number}")


def _cut_torn_end(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)


def _append_only(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _locked(folder: Path) -> int:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreError(f"another process writes to {folder}; wait for it or stop it") from None
    return descriptor
