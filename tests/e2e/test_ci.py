"""``ds4bench ci`` on the embedded engine: two commits of this checkout measured in turns."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.e2e.small_suite import ROOT, batches, fill, run

pytestmark = pytest.mark.integration


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's files in two commits; in the second the prefill of the engine takes three times as long."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("ds4bench", "kernels", "prompts", "gates"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tests", "benchmarks"))
    fill(folder)
    (folder / ".gitignore").write_text("__pycache__/\n.ds4bench/\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "good")
    main = folder / "ds4bench" / "embedded" / "__main__.py"
    text = main.read_text()
    slow = text.replace("share = options.prefill_delay_share\n", "share = options.prefill_delay_share or 2.0\n")
    assert slow != text
    main.write_text(slow)
    git(folder, "commit", "-q", "-am", "slower prefill")
    return folder


def ci(folder: Path, base: str) -> tuple[int, dict[str, Any], str]:
    gate = ["--gate", "small.yaml", "--profile", "full", "--serve-arg=--weights=random"]
    return run(folder, "ci", "--base", base, *gate, "--set", "rules.ttft.margin=0.5", "--junit", "ci.xml")


def test_ci_blames_the_commit_that_made_prefill_slower(repository: Path) -> None:
    code, document, err = ci(repository, "HEAD~1")
    if document["verdict"] == "INCONCLUSIVE":  # three blocks on a machine that stumbled: once more, and never a PASS
        code, document, err = ci(repository, "HEAD~1")
    assert (code, document["verdict"]) == (1, "FAIL"), (document, err)
    assert document["base"] == git(repository, "rev-parse", "--short", "HEAD~1")
    estimate = document["gates"][0]["rules"][0]["estimate"]
    assert estimate["paired"] is True
    assert estimate["ratio"] > 1.5
    assert f"slower than {document['base']}" in document["gates"][0]["sentence"]
    assert ElementTree.parse(repository / "ci.xml").find(".//failure") is not None
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_ci_measures_base_and_head_in_turns(repository: Path) -> None:
    runs = sorted((repository / ".ds4bench" / "runs").iterdir())
    role = {json.loads((path / "run.json").read_text())["target"]["role"]: path for path in runs[:2]}
    ends = []
    for side in ("baseline", "candidate"):
        verdict = json.loads((role[side] / "verdict.json").read_text())
        assert verdict["verdict"] in ("FAIL", "INCONCLUSIVE")
        measured = [row for row in batches(repository, role[side].name) if row["phase"] == "measure"]
        ends.append([(row["cell"], row["repeat"]) for row in measured])
        assert sum(row["phase"] == "warmup" for row in batches(repository, role[side].name)) == 2
    assert ends[0] == ends[1] == [(f"p480-c{c}", repeat) for repeat in range(3) for c in (1, 2)]


@pytest.mark.slow
def test_ci_does_not_blame_an_unchanged_commit(repository: Path) -> None:
    code, document, err = ci(repository, "HEAD")
    assert (code, document["verdict"]) in {(0, "PASS"), (4, "INCONCLUSIVE")}, (document, err)


def test_ci_with_an_unknown_base_is_a_usage_error(repository: Path) -> None:
    code, _, err = ci(repository, "nowhere")
    assert code == 2
    assert "has no revision 'nowhere'" in err
