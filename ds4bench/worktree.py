"""Another revision of this repository, checked out beside it for as long as it is needed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ds4bench.errors import SpecError

_ENGINE = Path("ds4bench") / "embedded" / "__main__.py"


@dataclass(frozen=True)
class Tree:
    """A folder with a checkout; ``label`` is its short commit, with ``-dirty`` where files are changed."""

    path: Path
    label: str


def working_tree(start: Path) -> Tree:
    """The checkout that ``start`` lies in, as it is now. Raises SpecError outside a git repository."""
    root = Path(_git(start, "rev-parse", "--show-toplevel"))
    label = _git(root, "rev-parse", "--short", "HEAD")
    dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return Tree(_with_engine(root, "the working tree"), f"{label}-dirty" if dirty else label)


@contextlib.contextmanager
def checked_out(repository: Path, revision: str) -> Iterator[Tree]:
    """``revision`` in a temporary git worktree, removed again whatever happens. Raises SpecError for an unknown one."""
    try:
        commit = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except SpecError:
        raise SpecError(f"{repository} has no revision {revision!r}: name a commit, branch or tag (--base)") from None
    folder = Path(tempfile.mkdtemp(prefix="ds4bench-base-"))
    try:
        _git(repository, "worktree", "add", "--detach", "--quiet", str(folder / "tree"), commit)
        path = _with_engine(folder / "tree", f"revision {revision}")
        yield Tree(path, _git(repository, "rev-parse", "--short", commit))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(SpecError):
            _git(repository, "worktree", "prune")


def _with_engine(root: Path, what: str) -> Path:
    if not (root / _ENGINE).is_file():
        raise SpecError(f"{what} has no {_ENGINE}: ds4bench ci compares two revisions of a ds4bench checkout")
    return root


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SpecError(f"git cannot be run: {error}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SpecError(f"git {' '.join(arguments[:2])}: {last}")
    return done.stdout.strip()
