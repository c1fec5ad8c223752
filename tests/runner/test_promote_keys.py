"""A suite run never stores the key of its serve, and asks for it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds4bench.commands.promote import PromoteOptions, Reports, _state
from ds4bench.errors import SpecError
from ds4bench.run_session import TargetOptions
from ds4bench.store import suite_runs

KEY = "sk-of-this-test-0123456789"
FLAGS = ("--max-num-seqs=2", "--api-key", KEY)


def options(flags: tuple[str, ...], resume: str | None = None) -> PromoteOptions:
    target = TargetOptions("vllm", model="m", serve_args=flags)
    return PromoteOptions(suite=None, target=target, baseline="none", data=(), resume=resume, reports=Reports())


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a suite run whose serve has a key."""
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    state, target = _state(options(FLAGS))
    assert target.serve_args == FLAGS
    suite_runs.save(state)
    return state.run_id


def test_the_key_is_in_no_file(begun: str, tmp_path: Path) -> None:
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("--api-key" in text for text in files)
    assert not any(KEY in text for text in files)


def test_resuming_takes_the_flags_with_the_key_given_again(begun: str) -> None:
    assert _state(options(FLAGS, begun))[1].serve_args == FLAGS


@pytest.mark.parametrize("flags", [(), ("--max-num-seqs=2",), ("--api-key", KEY)])
def test_resuming_without_the_key_is_refused(begun: str, flags: tuple[str, ...]) -> None:
    with pytest.raises(
        SpecError, match="was begun with a key, which is not stored: give its --serve-arg options again"
    ):
        _state(options(flags, begun))
