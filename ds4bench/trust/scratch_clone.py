"""A clone of this repository with one more commit, whose truth is known: nothing changed, or prefill is slower."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ds4bench.errors import SpecError

RUNNER = Path("ds4bench") / "embedded" / "runner.py"
_PARTS = ("ds4bench", "gates", "kernels", "prompts", "pyproject.toml")
"""What a serve and its gates need."""
_WHO = ("-c", "user.name=ds4bench trust", "-c", "user.email=trust@localhost", "-c", "commit.gpgsign=false")
_STEP = "            streams = self.model.streams(batch, self.caches)\n"
_SLOWER = """            import time

            begun = time.perf_counter()
            streams = self.model.streams(batch, self.caches)
            if not decodes:
                time.sleep((time.perf_counter() - begun) * {share})
"""


@contextmanager
def scratch_clone(repository: Path, slower: float) -> Iterator[Path]:
    """A clone of HEAD (no uncommitted changes) with a second commit on top, gone again afterwards. Where the project was
    copied without its history, all its files are the first commit.

    The commit makes every step with prefill ``slower`` (a share of its time) by an edit of the engine, or is empty at 0.
    Raises SpecError where git or the edit does not work.
    """
    with tempfile.TemporaryDirectory(prefix="ds4bench-ci-") as folder:
        clone = Path(folder) / "clone"
        if (repository / ".git").exists():
            _git(repository, "clone", "--quiet", str(repository), str(clone))
        else:
            _first_commit(repository, clone)
        if slower:
            path = clone / RUNNER
            path.write_text(slowed_source(path.read_text(), slower))
        what = f"Prefill {slower:.0%} slower" if slower else "Nothing changed"
        _git(clone, *_WHO, "commit", "--quiet", "--all", "--allow-empty", "--no-verify", "-m", what)
        yield clone


def slowed_source(source: str, share: float) -> str:
    """The runner's source with a slower prefill. Raises SpecError when the step is not written as it was."""
    if source.count(_STEP) != 1:
        raise SpecError(f"{RUNNER}: cannot make prefill slower, the line {_STEP.strip()!r} is not there once")
    return source.replace(_STEP, _SLOWER.format(share=share))


def _first_commit(tree: Path, clone: Path) -> None:
    clone.mkdir()
    for name in _PARTS:
        source = tree / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, clone / name)
    _git(clone, "init", "--quiet")
    _git(clone, "add", "--all", "--force")
    _git(clone, *_WHO, "commit", "--quiet", "--no-verify", "-m", "As it is")


def _git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except OSError as error:
        raise SpecError(f"git cannot be run: {error}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SpecError(f"{' '.join(command)}: {last}")
