"""Causes that an engine's log names, and what to do about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds4bench import env
from ds4bench.targets.dialect import dialect_of
from ds4bench.targets.log_reading import hide_secrets, last_lines, likely_cause


@pytest.mark.parametrize(
    ("engine", "advice"),
    [
        ("vllm", "use a smaller --max-model-len or --max-num-seqs, or free the GPU"),
        ("sglang", "use a smaller --context-length, --max-running-requests or --mem-fraction-static, or free the GPU"),
        ("openai", "free the GPU"),
    ],
)
def test_what_helps_without_memory_is_the_engines_own(tmp_path: Path, engine: str, advice: str) -> None:
    log = tmp_path / "log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB\n")
    cause = likely_cause(log, memory_advice=dialect_of(engine).memory_advice)
    assert cause == f"out of GPU memory: {advice}"


def test_a_key_in_a_log_is_neither_read_nor_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-of-this-test")
    log = tmp_path / "log"
    log.write_text("args: sk-of-this-test, again sk-of-this-test\nlast\n")
    size = log.stat().st_size
    assert last_lines(log, 2) == ["args: ***, again ***", "last"]
    hide_secrets(log)
    assert env.secrets()
    assert (log.stat().st_size, "sk-of" in log.read_text()) == (size, False)
    assert last_lines(log, 1, start=size - 5) == ["last"]
