"""Where things are: the project's data, and this user's state."""

from __future__ import annotations

import sys
from pathlib import Path

from ds4bench import env
from ds4bench.errors import StoreError


def project_root() -> Path:
    """The folder that holds gates/: ``DS4BENCH_HOME``, the working folder or one above it, the source checkout, or what
    an installation brought along. Raises StoreError when there is none."""
    named = env.home()
    if named is not None:
        if not (named / "gates").is_dir():
            raise StoreError(f"{env.HOME}={named} has no folder gates/; point it at a ds4bench checkout")
        return named
    here = Path.cwd()
    checkout = Path(__file__).resolve().parents[1]
    for folder in [here, *here.parents, checkout, Path(sys.prefix) / "share" / "ds4bench"]:
        if (folder / "gates").is_dir() and (folder / "prompts").is_dir():
            return folder
    raise StoreError(f"no folder gates/ in {here} or above it: run ds4bench in its checkout, or set {env.HOME}")


def gates_dir() -> Path:
    """Gate definitions."""
    return project_root() / "gates"


def prompts_dir() -> Path:
    """Prompt data."""
    return project_root() / "prompts"


def baselines_dir() -> Path:
    """Promoted baselines."""
    return project_root() / "results" / "baselines"


def published_dir() -> Path:
    """Published tables."""
    return project_root() / "results" / "published"


def state_dir() -> Path:
    """``.ds4bench`` in the working folder, or ``DS4BENCH_STATE_DIR``. Not created here."""
    return env.state_dir() or Path.cwd() / ".ds4bench"


def runs_dir() -> Path:
    """Run folders."""
    return state_dir() / "runs"


def serves_dir() -> Path:
    """Logs of serves that ``ds4bench serve`` has started."""
    return state_dir() / "serves"


def here_dir(state: Path | None = None) -> Path:
    """This machine's own baselines; ``state`` is a state folder that is not this user's."""
    return (state or state_dir()) / "baselines" / "here"


def imports_dir() -> Path:
    """Results of other tools that this user imported."""
    return state_dir() / "imports"
