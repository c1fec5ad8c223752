"""How thinking is asked for."""

from __future__ import annotations

import pytest

from ds4bench.errors import WorkloadError
from ds4bench.targets.dialect import dialect_of
from ds4bench.workloads.toolcall15.modes import MODES, mode_of


def test_engines_get_the_effort_in_both_places_and_the_hosted_api_its_own_switch() -> None:
    high, plain = MODES["think-high"], MODES["non-thinking"]
    for engine in ("vllm", "sglang", "embedded"):
        assert high.body(dialect_of(engine).thinking) == {
            "reasoning_effort": "high",
            "chat_template_kwargs": {"thinking": True, "reasoning_effort": "high"},
        }
        assert plain.body(dialect_of(engine).thinking) == {"chat_template_kwargs": {"thinking": False}}
    hosted = dialect_of("hosted-deepseek").thinking
    assert MODES["think-max"].body(hosted) == {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}
    assert plain.body(hosted) == {"thinking": {"type": "disabled"}}
    assert high.body(dialect_of("llama.cpp").thinking) == {}
    with pytest.raises(WorkloadError, match="known: non-thinking, think-high, think-max"):
        mode_of("think-low")
