"""Real promotions and real commit checks of builds whose truth is known, one ``ds4bench`` process each.

``aa``: the smoke suite against the same build, each run against the one before it, the first against a baseline of its own.
``ci``: two commits of a scratch clone, the second unchanged or with a slower prefill (``scratch_clone.py``). A file a kind
keeps what they said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from ds4bench import env
from ds4bench.core import Verdict
from ds4bench.errors import StoreError
from ds4bench.paths import project_root, state_dir
from ds4bench.store import baselines, documents, ids, provenance, runs
from ds4bench.trust.scratch_clone import scratch_clone

SCHEMA = 1
UNCHANGED = "unchanged"
Kind = Literal["aa", "ci"]

_DIRTY = "-dirty"
_LONGEST_S = 3600.0
_TYPICAL_S = {"aa": 720.0, "ci": 540.0}
_ENDING_S = 30.0


class SaidGate(msgspec.Struct, frozen=True, kw_only=True):
    """What one gate said. ``run``: its id, under the series' state folder (``python -m ds4bench.trust keep`` takes it)."""

    verdict: str | None
    sentence: str
    seconds: float | None = None
    run: str | None = None


class RealRun(msgspec.Struct, frozen=True, kw_only=True):
    """One promotion. ``change``: what the candidate truly is. ``verdict`` ERROR: the command did not come to one."""

    id: str
    suite: str
    change: str
    verdict: str
    exit_code: int
    sentence: str
    seconds: float
    machine: str
    commit: str
    gates: dict[str, SaidGate]


class RealRuns(msgspec.Struct, kw_only=True):
    """``results/trust/aa-runs.json`` or ``ci-runs.json``."""

    schema: int = SCHEMA
    kind: Kind
    runs: list[RealRun] = []


@dataclass(frozen=True)
class Series:
    """So many runs of one kind and change; those that are in ``path`` already, of this commit, count."""

    kind: Kind
    count: int
    path: Path
    change: str = UNCHANGED  # or "prefill 20 % slower"
    slower: float = 0.0  # share of a prefill step
    suite: str = "smoke"
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: T201

    def run(self) -> RealRuns:
        """Run what is left; each run is on disk before the next begins. Raises StoreError for a file of other code."""
        kept = load(self.path, self.kind)
        commit = this_commit()
        if self.kind == "ci" and commit.endswith(_DIRTY):
            self.say("the clone is of HEAD: what is changed here and not committed is not in it")
            commit = commit.removesuffix(_DIRTY)
        others = {run.commit for run in kept.runs} - {commit}
        if others:
            raise StoreError(
                f"{self.path} has runs of {', '.join(sorted(others))}, this is {commit}: remove it, or give another --results"
            )
        done = sum(run.change == self.change for run in kept.runs)
        for number in range(done, self.count):
            minutes = (self.count - number) * self._typical_s(kept) / 60
            self.say(f"{self.kind}, {self.change}: run {number + 1} of {self.count}, about {minutes:.0f} min left")
            run = self._one(commit)
            kept.runs.append(run)
            save(kept, self.path)
            self.say(f"  {run.verdict} after {run.seconds:.0f} s: {run.sentence}")
        return kept

    def _one(self, commit: str) -> RealRun:
        run_id = ids.new_id(self.kind)
        begun = time.monotonic()
        if self.kind == "aa":
            folder = state_dir() / "trust" / f"aa-{self.suite}-{commit}"
            arguments = ["promote", "--suite", self.suite, "--target", "embedded", "--baseline", "here"]
            done = _ds4bench(arguments, folder, cwd=project_root(), settings={})
            _make_baselines(done, folder)
        else:
            folder = state_dir() / "trust" / self.kind / run_id
            with scratch_clone(project_root(), self.slower) as clone:
                settings = {"PYTHONPATH": f"{clone}:{clone / 'kernels'}", env.HOME: str(clone)}
                arguments = ["ci", "--base", "HEAD~1", "--suite", self.suite]
                done = _ds4bench(arguments, folder, cwd=clone, settings=settings)
        return self._outcome(done, run_id, time.monotonic() - begun, commit)

    def _outcome(self, done: _Done, run_id: str, seconds: float, commit: str) -> RealRun:
        document = done.document
        found = document["gates"] if document is not None else []
        gates = {
            line["gate"]: SaidGate(
                verdict=line["verdict"], sentence=line["sentence"], seconds=line["seconds"], run=line["run"]
            )
            for line in found
        }
        hardware = provenance.hardware_fingerprint()
        return RealRun(
            id=run_id, suite=self.suite, change=self.change,
            verdict=str(document["verdict"]) if document is not None else "ERROR", exit_code=done.code,
            sentence=str(document["sentence"]) if document is not None else done.last_words, seconds=round(seconds, 1),
            machine=f"{hardware.get('cpu', 'unknown')}, {hardware.get('cores', '?')} cores", commit=commit, gates=gates,
        )  # fmt: skip

    def _typical_s(self, kept: RealRuns) -> float:
        known = [run.seconds for run in kept.runs]
        return sum(known) / len(known) if known else _TYPICAL_S[self.kind]


@dataclass(frozen=True)
class _Done:
    """A finished command."""

    code: int
    document: Mapping[str, Any] | None
    last_words: str


def _ds4bench(arguments: Sequence[str], folder: Path, *, cwd: Path, settings: Mapping[str, str]) -> _Done:
    """Run the command with its state in ``folder``; it is ended with us, and after an hour."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ds4bench.cli", *arguments, "--json"]
    log = folder / "stderr.log"
    with (folder / "stdout.json").open("wb") as out, log.open("wb") as err:
        surroundings = {**os.environ, **settings, env.STATE_DIR: str(folder.resolve())}
        process = subprocess.Popen(command, cwd=cwd, env=surroundings, stdout=out, stderr=err)
        try:
            code = process.wait(_LONGEST_S)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            _end(process)
    lines = log.read_text(errors="replace").strip().splitlines()
    document = _document(folder / "stdout.json")
    return _Done(code, document, lines[-1] if lines else f"exit code {code} and not a word")


def _make_baselines(done: _Done, folder: Path) -> None:
    """This machine's baselines, in the state under ``folder``, are from now on what was just measured, where it is valid."""
    for line in done.document["gates"] if done.document is not None else []:
        if line["run"] is not None and line["verdict"] in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE):
            baselines.save_here(runs.load_run(str(folder / "runs" / line["run"])), state=folder)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _document(path: Path) -> Mapping[str, Any] | None:
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return None
    return document if isinstance(document, dict) and "verdict" in document else None


def this_commit() -> str:
    """Short commit of the code that is measured, with ``-dirty`` where files are changed."""
    git = provenance.collect()["git"]
    if git is None:
        return "no-git"
    return str(git["commit"])[:12] + (_DIRTY if git["dirty"] else "")


def load(path: Path, kind: Kind) -> RealRuns:
    """The file, or an empty one. Raises StoreError for a damaged file or one of another kind."""
    if not path.exists():
        return RealRuns(kind=kind)
    found = documents.read(path, RealRuns, SCHEMA, hint="; remove it to begin anew")
    if found.kind != kind:
        raise StoreError(f"{path} holds {found.kind} runs, not {kind}; give another --results")
    return found


def save(runs: RealRuns, path: Path) -> None:
    """Write the file whole or not at all."""
    documents.write(path, runs, indent=1)
