"""Another revision beside this one: there while it is needed, gone afterwards whatever happened."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ds4bench.errors import SpecError
from ds4bench.worktree import checked_out, working_tree


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits; the engine's main module says which."""
    module = tmp_path / "ds4bench" / "embedded" / "__main__.py"
    module.parent.mkdir(parents=True)
    git(tmp_path, "init", "-q")
    for text in ("first", "second"):
        module.write_text(text)
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-q", "-m", text)
    return tmp_path


def test_the_base_is_checked_out_beside_and_removed(repository: Path) -> None:
    with checked_out(repository, "HEAD~1") as tree:
        assert (tree.path / "ds4bench" / "embedded" / "__main__.py").read_text() == "first"
        assert tree.label == git(repository, "rev-parse", "--short", "HEAD~1")
        assert (repository / "ds4bench" / "embedded" / "__main__.py").read_text() == "second"
    assert not tree.path.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_it_is_removed_also_after_an_error(repository: Path) -> None:
    with pytest.raises(RuntimeError), checked_out(repository, "HEAD") as tree:
        raise RuntimeError
    assert not tree.path.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_changes_that_are_not_committed_show_in_the_label(repository: Path) -> None:
    assert working_tree(repository / "ds4bench").path == repository
    assert not working_tree(repository).label.endswith("-dirty")
    (repository / "ds4bench" / "embedded" / "__main__.py").write_text("third")
    assert working_tree(repository).label.endswith("-dirty")


@pytest.mark.parametrize("revision", ["nowhere", "--all", "HEAD~9"])
def test_an_unknown_revision_is_one_clear_line(repository: Path, revision: str) -> None:
    with (
        pytest.raises(SpecError, match=f"has no revision {revision!r}: name a commit"),
        checked_out(repository, revision),
    ):
        pass
    assert not list(repository.parent.glob("ds4bench-base-*"))


def test_another_project_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "empty")
    with pytest.raises(SpecError, match="compares two revisions of a ds4bench checkout"):
        working_tree(tmp_path)
